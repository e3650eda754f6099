"""SAM-ON's gain under several conditions, and how it differs from the first on the same seeds."""

from dataclasses import dataclass

import pandas as pd

from samlib.report import tidy
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import REVERSED, SEEN, Comparison
from samlib.study.cells import Cell
from samlib.study.methods import HEADLINE, ON, Method


@dataclass(frozen=True)
class Condition:
    """How base optimizer, SAM and SAM-ON were trained or tested.

    Attributes:
        cells: the cell of each of `HEADLINE`.
        column: of the record or of its measures, in percent; see `Results.accuracies`.
    """

    cells: dict[Method, Cell]
    column: str = "test_accuracy"


def gain(results: Results, condition: Condition, over: Method) -> pd.Series:
    """SAM-ON minus another method under one condition, in points by seed."""
    on, other = (condition.cells[method] for method in (ON, over))
    return results.difference(on, other, column=condition.column)


def change(results: Results, condition: Condition, first: Condition, over: Method) -> Comparison:
    """The gain under one condition minus that under another, on the seeds that have both."""
    here, there = (gain(results, c, over) for c in (condition, first))
    return results.judge(here - there)


def table(results: Results, label: str, conditions: dict[str, Condition]) -> pd.DataFrame:
    """Accuracy of the three methods under every condition, SAM-ON's gains, and their change.

    Args:
        results: the records.
        label: name of the first column.
        conditions: by name; changes are against the first.
    """
    if not conditions:
        return tidy.table([])
    first = next(iter(conditions.values()))
    rows, comparisons = [], []
    for name, condition in conditions.items():
        for method in HEADLINE:
            cell = condition.cells[method]
            accuracies = results.accuracies(cell, column=condition.column)
            over = by = None  # SAM-ON's row is compared with nothing
            if method != ON:
                over = results.judge(gain(results, condition, method))
                by = change(results, condition, first, method) if condition is not first else None
            comparisons.append(over)
            rows.append(
                {
                    label: name,
                    "method": method_name(results.profile, method),
                    "accuracy": tidy.at_rho(results, cell, accuracies),
                    "diverged": results.diverged(cell),
                    "change on the same seeds": by and tidy.difference(by),
                }
            )
    judged = tidy.judged(rows, "SAM-ON minus it", comparisons, results.profile.where)
    columns = [
        label,
        "method",
        "accuracy",
        "diverged",
        "SAM-ON minus it",
        "change on the same seeds",
    ]
    return judged[columns]


def changed(comparison: Comparison) -> str:
    """What the interval of a change says."""
    words = {SEEN: "a larger gain", REVERSED: "a smaller gain"}
    return words.get(comparison.seen, comparison.seen)
