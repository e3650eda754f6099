"""What tables and sentences of the study share: numbers as text, comparisons in words."""

import math
from collections.abc import Sequence

import pandas as pd

from samlib.report.results import Results
from samlib.report.stats import Comparison, corrected
from samlib.study.cells import Cell
from samlib.trainer.config import NO_PERTURBATION


def number(value: float, digits: int = 2) -> str:
    """A number for a table: a true minus sign, an en dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def p_value(p: float) -> str:
    """A p-value for a table: three digits, never zero.

    >>> p_value(0.0421), p_value(1e-9), p_value(float("nan"))
    ('0.042', '<0.001', '–')
    """
    return "<0.001" if p < 0.0005 else number(p, 3)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    series = pd.Series(values, dtype=float)
    return f"{number(series.mean())} ± {number(series.std())}"


def edge(results: Results, cell: Cell) -> str:
    """The chosen rho, marked if it is the smallest or largest of its grid; – without one."""
    if cell.method.geometry == NO_PERTURBATION:
        return "–"
    rho = results.rho(cell)
    mark = "*" if len(cell.grid) > 1 and rho in (min(cell.grid), max(cell.grid)) else ""
    return f"{rho:g}{mark}"


def diverged(results: Results, *cells: Cell) -> int:
    """How many of the cells' runs at the chosen rho diverged."""
    records = [record for cell in cells for record in results.runs(cell)]
    return sum(record["status"] == "diverged" for record in records)


def verdicts(comparisons: Sequence[Comparison]) -> dict[str, list]:
    """The columns every table of comparisons ends with; verdicts after Holm's correction."""
    together = corrected(comparisons)
    return {
        "difference": [str(c) for c in together],
        "verdict": [c.verdict for c in together],
        "seeds to decide": ["" if c.needed is None else str(c.needed) for c in together],
        "seeds": [c.seeds for c in together],
        "p (Holm)": [p_value(c.p) for c in together],
    }


def points(comparison: Comparison) -> str:
    """A difference with its unit and its seeds."""
    return f"{comparison} points over {comparison.seeds} seeds"


def reading(comparison: Comparison, better: str, worse: str) -> str:
    """A comparison in words, in the direction the records give it."""
    if comparison.verdict == "holds":
        return f"{better} is better than {worse}"
    if comparison.verdict == "refuted":
        return f"{better} is worse than {worse}"
    if comparison.verdict == "equivalent":
        return f"{better} and {worse} differ by less than 0.2 points"
    more = ""
    if comparison.needed:
        more = f"; about {comparison.needed} would do it four times in five"
    return f"{better} and {worse} cannot be told apart with {comparison.seeds} seeds{more}"


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
