"""Comparison of a profile's new records with the old ones, run by run."""

from pathlib import Path

from samlib.records import store

_SHOWN = 20  # changed runs listed one by one


def changes(old: Path, new: Path) -> str:
    """Compare new records with the old ones, run by run, the largest changes first."""
    after = store.read(new)
    try:
        before = store.read(old)
    except (store.FormatError, store.UnreadableError) as error:
        return f"{len(after)} new records; the old ones cannot be compared: {error}"
    if not before:
        return f"{len(after)} new records; there were none before."
    both = sorted(before.keys() & after.keys())
    same = {r for r in both if _numbers(before[r]) == _numbers(after[r])}
    lines = [
        f"{len(both)} runs were there before: {len(same)} have the same numbers bit for bit, "
        f"{len(both) - len(same)} differ; {len(after) - len(both)} are new, "
        f"{len(before) - len(both)} are gone."
    ]
    moved = {r: after[r]["test_accuracy"] - before[r]["test_accuracy"] for r in both}
    differing = sorted(set(both) - same, key=lambda r: -abs(moved[r]))
    for run_id in differing[:_SHOWN]:
        was, now = before[run_id]["test_accuracy"], after[run_id]["test_accuracy"]
        lines.append(f"  {run_id}: {was:.2f} -> {now:.2f} ({now - was:+.2f})")
    if len(differing) > _SHOWN:
        lines.append(f"  ... and {len(differing) - _SHOWN} smaller changes")
    return "\n".join(lines)


def _numbers(record: dict) -> dict:
    return {k: record[k] for k in ("status", "curves", "mask", "measures")}
