"""Which code made records: said wherever records of different code lie in one folder."""

from collections import Counter
from collections.abc import Iterable

from samlib.provenance import MEASURING, source_digest
from samlib.records import devices


def code(record: dict) -> str:
    """What decided a record, in short: digests of the code, which need no git, and its workers."""
    made = record["provenance"]
    digests = [made.get("source") or "unknown", *filter(None, [made.get("measuring")])]
    shared = record.get("parallel", {"workers": 1})
    several = f" on {shared['workers']} workers ({shared.get('perturbation')} perturbation)"
    return "code " + "+".join(d[:10] for d in digests) + several * (shared["workers"] > 1)


def mixed(records: Iterable[dict]) -> str | None:
    """What to say of records of different code, in one line; None where one code made them all."""
    records = list(records)
    torches = [r["provenance"].get("packages", {}).get("torch", "unknown") for r in records]
    several = len(set(torches)) > 1  # which decides numbers as the code does
    pairs = zip(records, torches, strict=True)
    counts = Counter(code(r) + f" with torch {torch}" * several for r, torch in pairs)
    if len(counts) < 2:
        return None
    by = ", ".join(f"{count} by {who}" for who, count in counts.most_common())
    return f"Records of different code: {by}; `reproduce` makes all records by one code"


def differences(records: Iterable[dict]) -> list[str]:
    """What to say of records that are shown side by side, a line each: of machines, of code."""
    records = list(records)
    said = devices.mixed(records), devices.resumed(records), mixed(records)
    return [line for line in said if line]


def _ours(record: dict) -> bool:
    """Whether the code of this process made a record, of a run or of a measurement."""
    made, measuring = record["provenance"], source_digest(MEASURING)
    return (made.get("source"), made.get("measuring", measuring)) == (source_digest(), measuring)


def of_joined(records: Iterable[dict], device: str, among: dict | None = None) -> list[str]:
    """What to say before records are added to those that are there, a line each.

    Args:
        records: those that are there.
        device: as in `devices.of_other_kind`.
        among: as in `of_other_code`.
    """
    records = list(records)
    said = of_other_code(records, among), devices.of_other_kind(records, device)
    return [line for line in said if line]


def of_other_code(records: Iterable[dict], among: dict | None = None) -> str | None:
    """What to say before records are added to those of other code; None where there are none.

    Args:
        records: those that are there.
        among: the workers of the new ones, as a record has them in `parallel`; None does not ask
            for those of the old ones, as one process measures the runs of several.
    """
    records = list(records)
    digests = {"source": source_digest()}
    if any("measuring" in r["provenance"] for r in records):
        digests["measuring"] = source_digest(MEASURING)
    present = {"provenance": digests} | ({"parallel": among} if among else {})
    others = [r for r in records if not _ours(r) or (among and r.get("parallel") != among)]
    if not others:
        return None
    by = ", ".join(sorted({code(r) for r in others}))
    return (
        f"{len(others)} of the {len(records)} existing records were made by other code "
        f"({by}) than the present one ({code(present)}), and new records join them; "
        "`reproduce` makes all records by one code"
    )
