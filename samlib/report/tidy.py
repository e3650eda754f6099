"""Result tables: one number in a column; `html` formats for the page.

Sentences stand in the tables of verdicts, predictions and questions alone, beside a table or
columns of their numbers.

Columns have two levels: what stands together on the page ("SAM"), and the number's name within it
(mean, sd, n, rho, at_edge, low, high, p, seen, where, ...), "" for a column that stands alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import pandas as pd

from samlib.report.paper import Number
from samlib.report.results import Results
from samlib.report.stats import Comparison, Share, corrected
from samlib.study.cells import Cell
from samlib.trainer.config import NO_PERTURBATION


def table(rows: Sequence[dict]) -> pd.DataFrame:
    """A table from its rows: values are numbers, labels, or dicts of numbers that belong together.

    Columns are in the order of their first appearance; what a row does not have, or has None for,
    is NaN.

    >>> table([{"mask": "all", "gain": {"mean": 1.0, "sd": 0.5}}])["gain"]["sd"].tolist()
    [0.5]
    """
    flat = [
        {
            (name, field): number
            for name, value in row.items()
            for field, number in _fields(value).items()
        }
        for row in rows
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    found = dict.fromkeys(column for row in flat for column in row)
    of = {name: [column for column in found if column[0] == name] for name in names}
    columns = [column for name in names for column in of[name] or [(name, "")]]
    return pd.DataFrame(
        [[row.get(column) for column in columns] for row in flat],
        columns=pd.MultiIndex.from_tuples(columns) if columns else None,
    )


def _fields(value: object) -> dict:
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"": value}


def judged(
    rows: Sequence[dict],
    name: str,
    comparisons: Sequence[Comparison | None],
    where: str,
    words: Mapping[str, str] = MappingProxyType({}),
) -> pd.DataFrame:
    """A table whose last columns are comparisons that are made together, one per row or None.

    p and what is seen are those after Holm's correction over all of them: a table is a search.
    `words` are other words for what is seen, where more is not better.
    """
    found = corrected([c for c in comparisons if c is not None])
    together = iter([replace(c, seen=words.get(c.seen, c.seen)) for c in found])
    last = ({} if c is None else {name: comparison(next(together), where)} for c in comparisons)
    return table([row | more for row, more in zip(rows, last, strict=True)])


def comparison(c: Comparison, where: str) -> dict:
    """A comparison with what it shows, and where: the two are never told apart."""
    return difference(c) | {"p": c.p, "seen": c.seen, "where": where, "needed": c.needed}


def difference(c: Comparison) -> dict:
    """A comparison of which no verdict is asked."""
    return {"mean": c.mean, "low": c.low, "high": c.high, "n": c.seeds}


def spread(values: Sequence[float]) -> dict:
    """Mean and standard deviation over seeds, of the finite values."""
    series = pd.Series(values, dtype=float).dropna()
    return {"mean": series.mean(), "sd": series.std(), "n": len(series)}


def at_rho(results: Results, cell: Cell, values: Sequence[float] | None = None) -> dict:
    """A cell's accuracies (or other values) with the rho they are at, NaN if it has none."""
    found = spread(results.accuracies(cell) if values is None else values)
    if cell.method.geometry == NO_PERTURBATION:
        return found | {"rho": math.nan, "at_edge": False}
    return found | rho(results, cell)


def rho(results: Results, cell: Cell) -> dict:
    """The rho a cell is compared at, and whether it is at an end of those searched."""
    return {"rho": results.rho(cell), "at_edge": results.at_edge(cell)}


def share(found: Share | None) -> dict:
    """A gain as a share of another, in percent; NaN where it says nothing."""
    values = (math.nan,) * 3 if found is None else (found.share, found.low, found.high)
    return {name: 100 * v for name, v in zip(("share", "from", "to"), values, strict=True)}


def reported(number: Number | None) -> dict:
    """A number of the authors' and its printed spread; NaN for what is not sourced."""
    if number is None:
        return {"reported": math.nan, "spread": math.nan}
    return {"reported": number.value, "spread": number.spread}


def quartiles(values: Sequence[float]) -> dict:
    """Median and quartiles, as `timing` has them."""
    low, median, high = values
    return {"lower": low, "median": median, "upper": high}


def csv(tidy: pd.DataFrame) -> str:
    """The table as a CSV file: one header line, six digits, ASCII for minus and plus-minus."""
    names = [_typed(" ".join(filter(None, column))) for column in tidy.columns]
    cells = tidy.map(lambda cell: _typed(cell) if isinstance(cell, str) else cell)
    return cells.set_axis(names, axis=1).to_csv(index=False, float_format="%.6g")


def _typed(text: str) -> str:
    return text.replace("−", "-").replace("±", "+/-")
