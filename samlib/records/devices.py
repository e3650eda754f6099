"""The kind of device that computed a record: arithmetic differs between GPU and CPU.

A GPU sums in another order, multiplies bf16 without rounding what a CPU rounds, and float32 in
TensorFloat-32. Records of both may be of one seed and are no pair all the same.
"""

from collections import Counter
from collections.abc import Iterable


def kind(record: dict) -> str:
    """GPU or CPU."""
    return "GPU" if record["provenance"].get("gpu") else "CPU"


def mixed(records: Iterable[dict]) -> str | None:
    """Counts of records by kind of device, in one line; None if all are of one kind.

    >>> mixed([{"provenance": {"gpu": gpu}} for gpu in (None, "H100", "H100")])
    '2 of these records were computed on a GPU, 1 on a CPU: their arithmetic differs'
    """
    found = Counter(map(kind, records))
    if len(found) < 2:
        return None
    return (
        f"{found['GPU']} of these records were computed on a GPU, {found['CPU']} on a CPU: their "
        "arithmetic differs"
    )


def resumed(records: Iterable[dict]) -> str | None:
    """What to say of runs that began on another machine or PyTorch than they ended on; else None.

    Equal processors and releases are one place, as `provenance.place` has them.
    """
    found = [record["run_id"] for record in records if record["provenance"].get("resumed_from")]
    if not found:
        return None
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"{found[0]}{more} began on another processor, GPU or PyTorch than finished it: no single "
        "machine repeats its numbers bit for bit"
    )


def of_other_kind(records: Iterable[dict], device: str) -> str | None:
    """A warning before records of a device join records of the other kind; None if all are of one.

    Args:
        records: those that are there.
        device: cpu, cuda or cuda:<number>, of the new ones.
    """
    records, new = list(records), "CPU" if device == "cpu" else "GPU"
    others = [record for record in records if kind(record) != new]
    if not others:
        return None
    return (
        f"{len(others)} of the {len(records)} records that are there were computed on a "
        f"{kind(others[0])} and new ones are on a {new}: their arithmetic differs; --results with "
        "another folder keeps them apart"
    )
