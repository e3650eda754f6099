"""The statistics of the study: paired differences, t-intervals, what they show, Holm, shares."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from samlib.report.text import mean_and_interval, number

LEVEL = 0.95
SEEN, REVERSED, SAME, OPEN, NOT_RUN = "seen", "reversed", "no difference", "open", "not run"
POWER = 0.8  # chance of a decision with the number of seeds that is said to be needed
_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Comparison:
    """A mean with its 95 % t-interval over seeds, and what it shows.

    Attributes:
        mean, low, high: of the paired differences, in percentage points unless told otherwise.
        seeds: number of pairs.
        p: two-sided p-value of a paired t-test against zero.
        seen: the first that is true of the interval: "no difference" if it lies inside the margin,
            "seen" if above zero, "reversed" if below zero, else "open"; "not run" without seeds.
        needed: where it is open, seeds with which a decision has a chance of 80 % if the true mean
            and spread are the observed ones; None if no number up to 10,000 would do, or where the
            spread of pairs is not all there is (`blurred`, one seed).
    """

    mean: float
    low: float
    high: float
    seeds: int
    p: float
    seen: str
    needed: int | None = None

    def __format__(self, spec: str) -> str:
        return mean_and_interval(self.mean, self.low, self.high, spec or "+.2f")

    def __str__(self) -> str:
        return format(self)


NOTHING = Comparison(math.nan, math.nan, math.nan, 0, math.nan, NOT_RUN)


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


@functools.cache
def _quantile(n: int) -> float:
    return float(scipy_stats.t.ppf((1 + LEVEL) / 2, n - 1))


def shown_by(low: float, high: float, margin: float) -> str:
    """The rule of the study, committed before its runs: the first that is true."""
    if low > -margin and high < margin:
        return SAME
    if low > 0:
        return SEEN
    return REVERSED if high < 0 else OPEN


def _needed(mean: float, deviation: float, have: int, margin: float) -> int | None:
    """Smallest number of seeds above `have` that decides with probability `POWER`.

    For differences that are normal with this mean and deviation; the mean of n of them is near
    enough to normal, too, when the deviation is estimated.
    """

    if not deviation:
        return None

    def decides(n: int) -> bool:
        half, error = _quantile(n) * deviation / math.sqrt(n), deviation / math.sqrt(n)
        below = NormalDist(mean, error).cdf
        outside = below(-half) + 1 - below(half)  # zero is not in the interval
        inside = below(margin - half) - below(half - margin)  # the interval is within ±margin
        return outside + max(0.0, inside) >= POWER

    if not decides(_MOST_SEEDS):
        return None
    low, high = have, _MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def compare(differences: Sequence[float], margin: float) -> Comparison:
    """Judge paired differences, one per seed, by the rule of the study; fewer than two are open.

    Raises:
        ValueError: a difference that is not finite, or a pandas series in which a seed repeats.

    >>> compare([1.0, 1.2, 0.8, 1.1, 0.9], 0.2).seen, compare([0.01, 0.02, 0.01], 0.2).seen
    ('seen', 'no difference')
    """
    x = np.asarray(differences, float)
    if len(x) == 0:
        return NOTHING
    if not np.isfinite(x).all():
        raise ValueError("a difference is not finite: compare only seeds that both sides have")
    if isinstance(differences, pd.Series) and differences.index.has_duplicates:
        raise ValueError("a seed repeats: each side must be runs of one method and one rho")
    mean, low, high = interval(x)
    if len(x) < 2:
        return Comparison(mean, low, high, len(x), math.nan, OPEN)
    seen, deviation = shown_by(low, high, margin), float(x.std(ddof=1))
    if deviation > 1e-12 * max(1.0, abs(mean)):  # else equal but for rounding
        p = float(scipy_stats.ttest_1samp(x, 0).pvalue)
    else:
        p = 0.0 if mean else 1.0
    needed = _needed(mean, deviation, len(x), margin) if seen == OPEN else None
    return Comparison(mean, low, high, len(x), p, seen, needed)


def blurred(differences: Sequence[float], error: float, freedom: int, margin: float) -> Comparison:
    """The same for differences that share one more error, of a quantity they were made with.

    Args:
        differences: one per seed.
        error: standard error of the shared part, independent of the seeds.
        freedom: its degrees of freedom.
        margin: as in `compare`.

    The variances add, and the degrees of freedom are those of Welch (1947) and Satterthwaite.
    """
    x = np.asarray(differences, float)
    if len(x) < 2:
        return compare(differences, margin)
    mean, own, shared = float(x.mean()), float(x.var(ddof=1)) / len(x), error**2
    whole = own + shared
    if not whole:
        return compare(differences, margin)
    degrees = whole**2 / (own**2 / (len(x) - 1) + shared**2 / freedom)
    half = float(scipy_stats.t.ppf((1 + LEVEL) / 2, degrees)) * math.sqrt(whole)
    p = 2 * float(scipy_stats.t.sf(abs(mean) / math.sqrt(whole), degrees))
    seen = shown_by(mean - half, mean + half, margin)
    return Comparison(mean, mean - half, mean + half, len(x), p, seen)


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


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons among which one of many would do: p after Holm's correction, and what is seen.

    What is seen or reversed alone, but not at 5 % after the correction, is open.

    >>> one, other = compare([0.6, 0.9, 1.2], 0.2), compare([-1.0, 0.1, 1.1], 0.2)
    >>> [c.seen for c in (one, *corrected([one, other]))]
    ['seen', 'open', 'open']
    """
    return [
        replace(c, p=p, seen=OPEN if _lost(c, p) else c.seen)
        for c, p in zip(comparisons, holm([c.p for c in comparisons]), strict=True)
    ]


def _lost(comparison: Comparison, p: float) -> bool:
    return comparison.seen in (SEEN, REVERSED) and p >= 1 - LEVEL


@dataclass(frozen=True)
class Share:
    """A gain as a share of another, with Fieller's 95 % interval."""

    share: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        percent = (number(100 * value, ".0f") for value in self._values)
        return "{} % [{}, {}]".format(*percent)

    @property
    def _values(self) -> tuple[float, float, float]:
        return self.share, self.low, self.high


def share_of_gain(gain: Sequence[float], whole: Sequence[float]) -> Share | None:
    """Mean of one gain over the mean of another, paired by seed: R = (X - base) / (SAM - base).

    The interval is Fieller's (1954): the ratios r for which the paired differences gain - r whole
    do not differ from zero at 5 %. None unless the whole is clearly above zero, where a ratio says
    nothing and the interval has no bounds.

    >>> share_of_gain([1.0, 1.1, 0.9], [2.0, 2.1, 1.9]).share
    0.5
    """
    x, y = np.asarray(gain, float), np.asarray(whole, float)
    if len(x) < 2 or not interval(y)[1] > 0:
        return None
    (xx, xy), (_, yy) = np.cov(x, y) * _quantile(len(x)) ** 2 / len(x)
    a, b, c = y.mean() ** 2 - yy, x.mean() * y.mean() - xy, x.mean() ** 2 - xx
    root = math.sqrt(max(0.0, b**2 - a * c))
    return Share(float(x.mean() / y.mean()), (b - root) / a, (b + root) / a, len(x))
