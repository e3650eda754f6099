"""Is MSAM's gain with recalibrated statistics there on fresh seeds, too?

The first seeds suggested it with the runs in view. The rule, set before the fresh seeds were run:
MSAM's gain over the base optimizer minus 70 % of SAM-ON's, with recalibrated statistics of all
three, is seen if it lies above zero, reversed if below, else open. The same with the usual
statistics stands beside it, and both are corrected after Holm. Fresh seeds tune nothing and are
not pooled with the first.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from samlib.report import tidy
from samlib.report.names import MEMBER_NAMES, method_name
from samlib.report.results import RECALIBRATED, Results
from samlib.report.stats import Comparison, Share, compare, corrected, share_of_gain
from samlib.study import members, plan
from samlib.study.cells import Cell

GAIN = 0.7  # the goal: of SAM-ON's
STATISTICS = {"recalibrated": RECALIBRATED, "usual": "test_accuracy"}


def beyond(results: Results, *cells: Cell, column: str = "test_accuracy") -> Comparison:
    """A gain minus 70 % of SAM-ON's, in points: cells of base optimizer, SAM-ON and the method."""
    gain, whole = _gains(results, *cells, column=column)
    return compare(gain - GAIN * whole, margin=0.0)


def _gains(results: Results, *cells: Cell, column: str) -> tuple[pd.Series, pd.Series]:
    paired = results.together(*cells, column=column)
    return paired[2] - paired[0], paired[1] - paired[0]


class Confirmed(NamedTuple):
    """What the fresh seeds show with one kind of statistics.

    Attributes:
        beyond: the gain minus 70 % of SAM-ON's, after Holm's correction.
        share: the gain as a share of SAM-ON's; None where that is not clear.
    """

    beyond: Comparison
    share: Share | None


def confirmed(results: Results) -> dict[str, Confirmed]:
    """By kind of `STATISTICS`; empty where the fresh seeds are not run."""
    cells = plan.confirmation(results.profile)
    if not (cells and results.has(*cells)):
        return {}
    judged = corrected([beyond(results, *cells, column=c) for c in STATISTICS.values()])
    shares = [share_of_gain(*_gains(results, *cells, column=c)) for c in STATISTICS.values()]
    return dict(zip(STATISTICS, map(Confirmed, judged, shares), strict=True))


def table(results: Results) -> pd.DataFrame:
    """Accuracies on the fresh seeds with both kinds of statistics, and the number that decides."""
    found = confirmed(results)
    rows = list(_rows(results)) if found else []
    return tidy.judged(
        rows, "gain − 70 % of SAM-ON's", [c.beyond for c in found.values()], results.profile.where
    )


def _rows(results: Results) -> Iterator[dict]:
    cells = plan.confirmation(results.profile)
    for kind, of_kind in confirmed(results).items():
        row: dict = {"statistics": kind}
        for cell in cells:
            values = results.accuracies(cell, column=STATISTICS[kind])
            name = method_name(results.profile, cell.method.plain)
            if cell is cells[-1]:
                name = f"{_name(cells)}, only norm"
            row[name] = tidy.spread(values)
        yield row | {
            "share of SAM-ON's gain": tidy.share(of_kind.share),
            "diverged": results.diverged(*cells),
        }


def finding(results: Results) -> str:
    """Whether what the first seeds suggested is there on the fresh ones."""
    cells = plan.confirmation(results.profile)
    if not cells:
        return "No fresh seeds are run in this profile."
    found = confirmed(results)
    if not found:
        return f"The fresh seeds are not run yet: `{results.to_run('one_pass')}` runs them."
    told = [
        f"with {kind} statistics {_name(cells)} gets {c.share or 'no clear share'} of SAM-ON's "
        f"gain, {c.beyond} points beyond {100 * GAIN:.0f} % of it ({c.beyond.seen})"
        for kind, c in found.items()
    ]
    count = found["recalibrated"].beyond.seeds
    return f"On {count} fresh seeds, {'; '.join(told)}."


def _name(cells: Sequence[Cell]) -> str:
    return MEMBER_NAMES[members.member(cells[-1].method)]


def in_short(results: Results) -> str:
    """The share with recalibrated statistics and its verdict; "" where it is not run."""
    if not (found := confirmed(results)):
        return ""
    first, name = found["recalibrated"], _name(plan.confirmation(results.profile))
    share = first.share or "no clear share"
    return f" On {first.beyond.seeds} fresh seeds {name} gets {share} ({first.beyond.seen})."
