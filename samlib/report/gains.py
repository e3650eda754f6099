"""SAM-ON's gain under several conditions, and how it differs from the first on the same seeds.

A table of gains is a search: the words of a sentence beside it are those after Holm's correction.
"""

from dataclasses import dataclass

import pandas as pd

from samlib.report import tidy
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import REVERSED, SEEN, Comparison, corrected
from samlib.study.cells import Cell
from samlib.study.methods import HEADLINE, ON, Method

_OTHERS = tuple(method for method in HEADLINE if method != ON)
Over = tuple[str, Method]  # a condition by its name, and the method that SAM-ON is compared with


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


def judged(results: Results, conditions: dict[str, Condition]) -> dict[Over, Comparison]:
    """SAM-ON minus each other method under every condition, corrected over all of them."""
    found = {
        (name, method): results.judge(gain(results, condition, method))
        for name, condition in conditions.items()
        for method in _OTHERS
    }
    return dict(zip(found, corrected([*found.values()]), strict=True))


def changes(results: Results, conditions: dict[str, Condition]) -> dict[Over, Comparison]:
    """The gains under every other condition minus those under the first, corrected over all.

    On the seeds that have both.
    """
    (_, first), *others = conditions.items()
    found = {
        (name, method): results.judge(
            gain(results, condition, method) - gain(results, first, method)
        )
        for name, condition in others
        for method in _OTHERS
    }
    return dict(zip(found, corrected([*found.values()]), strict=True))


def table(results: Results, label: str, conditions: dict[str, Condition]) -> pd.DataFrame:
    """Accuracy of the three methods under every condition, SAM-ON's gains, and their change.

    Args:
        results: the records.
        label: name of the first column.
        conditions: by name; changes are against the first.
    """
    if not conditions:
        return tidy.table([])
    gained, changed_by = judged(results, conditions), changes(results, conditions)
    rows = []
    for name, condition in conditions.items():
        for method in HEADLINE:
            cell = condition.cells[method]
            accuracies = results.accuracies(cell, column=condition.column)
            by, gap = changed_by.get((name, method)), gained.get((name, method))
            rows.append(
                {
                    label: name,
                    "method": method_name(results.profile, method),
                    "accuracy": tidy.at_rho(results, cell, accuracies),
                    "diverged": results.diverged(cell),
                    "SAM-ON minus it": gap and tidy.comparison(gap, results.profile.where),
                    "change on the same seeds": by and tidy.difference(by),
                }
            )
    return tidy.table(rows)


def changed(comparison: Comparison) -> str:
    """What the interval of a change says."""
    words = {SEEN: "a larger gain", REVERSED: "a smaller gain"}
    return words.get(comparison.seen, comparison.seen)
