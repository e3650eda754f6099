"""The statistics of the study: paired differences, t-intervals, verdicts, Holm's correction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

LEVEL = 0.95
EQUIVALENCE = 0.2  # percentage points: smaller differences are of no interest
VERDICTS = ("holds", "refuted", "equivalent", "undecided", "not run")
_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Comparison:
    """A mean with its 95 % t-interval over seeds, and what follows from it.

    Attributes:
        mean, low, high: of the paired differences, in percentage points.
        seeds: number of pairs.
        p: two-sided p-value of a paired t-test against zero.
        verdict: one of `VERDICTS`.
        needed: seeds that would decide it if mean and spread stayed as they are; None if it is
            decided already or no number up to 10,000 would.
    """

    mean: float
    low: float
    high: float
    seeds: int
    p: float
    verdict: str
    needed: int | None = None

    def __str__(self) -> str:
        if self.seeds == 0:
            return "not run"
        if math.isnan(self.low):
            return f"{_signed(self.mean)} (one seed)"
        return f"{_signed(self.mean)} [{_signed(self.low)}, {_signed(self.high)}]"


NOT_RUN = Comparison(math.nan, math.nan, math.nan, 0, math.nan, "not run")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t-interval of some values; the interval is NaN for fewer than two.

    >>> [round(v, 3) for v in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    x = np.asarray(values, float)
    if len(x) < 2:
        return (float(x.mean()) if len(x) else math.nan), math.nan, math.nan
    half = _quantile(len(x)) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def _quantile(n: int) -> float:
    return float(scipy_stats.t.ppf((1 + LEVEL) / 2, n - 1))


def _judge(low: float, high: float, margin: float) -> str:
    """The rule of the study, fixed before its runs: the first that is true."""
    if low > 0:
        return "holds"
    if high < 0:
        return "refuted"
    if low > -margin and high < margin:
        return "equivalent"
    return "undecided"


def _needed(mean: float, deviation: float, have: int, margin: float) -> int | None:
    """Smallest number of seeds above `have` that decides, mean and deviation unchanged."""

    def decides(n: int) -> bool:
        half = _quantile(n) * deviation / math.sqrt(n)
        return _judge(mean - half, mean + half, margin) != "undecided"

    if not decides(_MOST_SEEDS):
        return None
    low, high = have, _MOST_SEEDS  # undecided at low, decided at high: halve
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def compare(differences: Sequence[float], margin: float = EQUIVALENCE) -> Comparison:
    """Judge paired differences, one per seed, by the rule of the study.

    "holds" if the interval lies above zero, "refuted" if below, "equivalent" if inside
    ±`margin` (0.2 percentage points), else "undecided"; fewer than two seeds decide nothing.

    >>> compare([1.0, 1.2, 0.8, 1.1, 0.9]).verdict
    'holds'
    """
    x = np.asarray(differences, float)
    if len(x) == 0:
        return NOT_RUN
    mean, low, high = interval(x)
    if len(x) < 2:
        return Comparison(mean, low, high, len(x), math.nan, "undecided")
    verdict = _judge(low, high, margin)
    deviation = float(x.std(ddof=1))
    if deviation > 1e-12 * max(1.0, abs(mean)):  # else equal but for rounding
        p = float(scipy_stats.ttest_1samp(x, 0).pvalue)
    else:
        p = 0.0 if mean else 1.0
    needed = _needed(mean, deviation, len(x), margin) if verdict == "undecided" else None
    return Comparison(mean, low, high, len(x), p, verdict, needed)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm, 1979), in the order given; NaN stays NaN.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    adjusted, running = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(known) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted
