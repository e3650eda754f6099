"""The search for a hyperparameter: the same rule for every method.

A ladder of factor 2 is extended at an end until its best value is inside it; then both neighbours
of the best at a factor of sqrt(2) join. Scores are means of validation accuracy over tuning seeds.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

EXTENSIONS = 6  # values that may join at each end: a factor of 64

Score = Callable[[float], float | None]


class Search(NamedTuple):
    """State of a search.

    Attributes:
        values: every value the search needs so far, ascending.
        chosen: the best value, of equal ones the smaller; None while a score is missing.
        at_edge: whether the chosen value is the smallest or largest that was tried.
        expected: estimated number of values that will still join.
    """

    values: tuple[float, ...]
    chosen: float | None
    at_edge: bool = False
    expected: int = 0


def ladder(first: float, steps: int = 4) -> tuple[float, ...]:
    """Values a factor of 2 apart.

    >>> ladder(0.05)
    (0.05, 0.1, 0.2, 0.4)
    """
    return tuple(first * 2**step for step in range(steps))


def neighbours(value: float) -> tuple[float, float]:
    """The two values at a factor of sqrt(2), to four significant digits.

    >>> neighbours(0.1)
    (0.07071, 0.1414)
    """
    below, above = value / math.sqrt(2), value * math.sqrt(2)
    return float(f"{below:.4g}"), float(f"{above:.4g}")


def search(start: Sequence[float], score: Score, *, refine: bool = True) -> Search:
    """State of the search that begins with some values, given the known scores.

    Args:
        start: values a factor of 2 apart; a single value is taken without a search.
        score: score of a value; None while unknown.
        refine: False takes the best of `start`, without extension or refinement.
    """
    if len(start) == 1:
        return Search(tuple(start), start[0])
    values = sorted(start)
    if refine:
        low, high = values[0] / 2**EXTENSIONS, values[-1] * 2**EXTENSIONS
        while (best := _best(values, score)) in (values[0], values[-1]) and low < best < high:
            values = [best / 2, *values] if best == values[0] else [*values, best * 2]
        if best is None:
            return Search(tuple(values), None, expected=2)
        values = sorted({*values, *neighbours(best)})
    best = _best(values, score)
    return Search(tuple(values), best, best in (values[0], values[-1]))


def _best(values: Sequence[float], score: Score) -> float | None:
    scores = [score(value) for value in values]
    if any(s is None for s in scores):
        return None
    return values[scores.index(max(scores))]
