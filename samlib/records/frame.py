"""Run records as one table, for an analysis of one's own."""

from collections.abc import Iterable, Mapping

import pandas as pd

from samlib.records.store import Records, seconds, uncollected


def frame(records: Records | Iterable[dict]) -> pd.DataFrame:
    """One row per record: configuration and final numbers; seconds are `store.seconds`."""
    if isinstance(records, Mapping):
        records = records.values()
    with uncollected():
        return pd.DataFrame([_row(record) for record in records])


def _row(r: dict) -> dict:
    shares = [s for s in r["curves"]["norm_share"] if s is not None]
    return (
        r["config"]
        | {name: r[name] for name in ("run_id", "status", "diverged_epoch")}
        | {name: r[name] for name in ("test_accuracy", "best_test_accuracy")}
        | {
            "validation_accuracy": r["validation_accuracy"],
            "train_accuracy": r["curves"]["train_accuracy"][-1],
            "norm_share": sum(shares) / len(shares) if shares else None,
            "perturbed": r["mask"] and r["mask"]["count"],
            "parameters": r["mask"] and r["mask"]["total"],
            "seconds": seconds(r),
        }
        | r["measures"]
    )
