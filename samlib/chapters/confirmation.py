"""Is MSAM's gain with recalibrated statistics there on fresh seeds, too?

The first seeds suggested it with the runs in view. The rule, set before the fresh seeds were run:
MSAM's gain over the base optimizer minus 70 % of SAM-ON's, with recalibrated statistics of all
three, is seen if it lies above zero, reversed if below, else open. The same with the usual
statistics stands beside it, and both are corrected after Holm. A third comparison, of MSAM with
recalibrated statistics and the others with the usual ones, is described and decides nothing. Fresh
seeds tune nothing and are not pooled with the first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from samlib.report import tidy
from samlib.report.answers import DESCRIBED
from samlib.report.names import MEMBER_NAMES, method_name
from samlib.report.results import RECALIBRATED, USUAL, Results
from samlib.report.stats import (
    REVERSED,
    SEEN,
    Comparison,
    Share,
    compare,
    corrected,
    share_of_gain,
)
from samlib.study import members, plan
from samlib.study.cells import Cell

GAIN = 0.7  # the goal: of SAM-ON's
# Columns of base optimizer and SAM-ON, and of the member.
STATISTICS = {
    "recalibrated": (RECALIBRATED, RECALIBRATED),
    "usual": (USUAL, USUAL),
    "the member's recalibrated, the others' usual": (USUAL, RECALIBRATED),
}
DECIDE = ("recalibrated", "usual")


def gains(results: Results, *cells: Cell, columns: tuple[str, str]) -> tuple[pd.Series, pd.Series]:
    """A member's gain and SAM-ON's over the base optimizer, in points by seed, of those all have.

    Args:
        results: the records.
        cells: of base optimizer, SAM-ON and the member.
        columns: of `Results.accuracies`, for the first two cells and for the member's.
    """
    first, own = columns
    base, on = (results.accuracies(cell, column=first) for cell in cells[:2])
    member = results.accuracies(cells[2], column=own)
    both = pd.DataFrame({"gain": member - base, "whole": on - base}).dropna()
    return both["gain"], both["whole"]


def beyond(gain: pd.Series, whole: pd.Series) -> Comparison:
    """A gain minus 70 % of SAM-ON's, in points."""
    return compare(gain - GAIN * whole, margin=0.0)


class Confirmed(NamedTuple):
    """What the fresh seeds show with one kind of statistics.

    Attributes:
        beyond: the gain minus 70 % of SAM-ON's; after Holm's correction, where it decides.
        share: the gain as a share of SAM-ON's; None where that is not clear.
    """

    beyond: Comparison
    share: Share | None


def confirmed(results: Results) -> dict[str, Confirmed]:
    """By kind of `STATISTICS`; empty where the fresh seeds are not run, or not with BatchNorm."""
    cells = plan.confirmation(results.profile)
    if not (cells and results.has(*cells)):
        return {}
    pairs = {k: gains(results, *cells, columns=columns) for k, columns in STATISTICS.items()}
    found = {kind: beyond(*pair) for kind, pair in pairs.items()}
    if not found["recalibrated"].seeds:
        return {}
    found |= zip(DECIDE, corrected([found[kind] for kind in DECIDE]), strict=True)
    return {kind: Confirmed(found[kind], share_of_gain(*pairs[kind])) for kind in STATISTICS}


def table(results: Results) -> pd.DataFrame:
    """Accuracies on the fresh seeds by kind of statistics, and the number that decides."""
    rows, cells = [], plan.confirmation(results.profile)
    for kind, found in confirmed(results).items():
        first, own = STATISTICS[kind]
        row: dict = {"statistics": kind}
        for cell in cells[:2]:
            name = method_name(results.profile, cell.method)
            row[name] = tidy.spread(results.accuracies(cell, column=first))
        row[_name(cells)] = tidy.spread(results.accuracies(cells[2], column=own))
        told = tidy.comparison if kind in DECIDE else _described
        row |= {
            "share of SAM-ON's gain": tidy.share(found.share),
            "diverged": results.diverged(*cells),
            "gain − 70 % of SAM-ON's": told(found.beyond, results.profile.where),
        }
        rows.append(row)
    return tidy.table(rows)


def _described(found: Comparison, where: str) -> dict:
    return tidy.difference(found) | {"seen": DESCRIBED, "where": where}


def finding(results: Results) -> str:
    """Whether what the first seeds suggested is there on the fresh ones."""
    cells = plan.confirmation(results.profile)
    if not cells:
        return "No fresh seeds are run in this profile."
    found = confirmed(results)
    if not found:
        return f"The fresh seeds are not run yet: `{results.to_run('one_pass')}` runs them."
    count, name = found["recalibrated"].beyond.seeds, _name(cells)
    told = [
        f"with {kind} statistics {name} gets {_beyond(found[kind])} ({found[kind].beyond.seen})"
        for kind in DECIDE
    ]
    last = next(c for kind, c in found.items() if kind not in DECIDE)
    return (
        f"On {count} fresh seeds, {', and '.join(told)}. With recalibrated statistics for {name} "
        f"alone it is {_beyond(last)}."
    )


def _beyond(found: Confirmed) -> str:
    return (
        f"{found.share or 'no clear share'} of SAM-ON's gain; its gain minus {100 * GAIN:.0f} % of "
        f"SAM-ON's is {found.beyond} points"
    )


def _name(cells: Sequence[Cell]) -> str:
    return f"{MEMBER_NAMES[members.member(cells[-1].method)]} with only norm"


def in_short(results: Results) -> str:
    """The share by kind of statistics, with the verdict; "" where it is not run."""
    if not (found := confirmed(results)):
        return ""
    decides, usual = (found[kind] for kind in DECIDE)
    shares = {kind: f"{of.share or 'no clear share'}" for kind, of in found.items()}
    last = next(kind for kind in found if kind not in DECIDE)
    word = {SEEN: "Yes", REVERSED: "No"}.get(decides.beyond.seen, "Open")
    return (
        f"{word}, on {decides.beyond.seeds} seeds not used before: "
        f"{_name(plan.confirmation(results.profile))} gets {shares['recalibrated']} of SAM-ON's "
        f"gain (more than {100 * GAIN:.0f} %: {decides.beyond.seen}). With the usual statistics it "
        f"is {shares['usual']} ({usual.beyond.seen}), and with recalibrated ones for the member "
        f"alone {shares[last]}."
    )
