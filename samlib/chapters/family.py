"""The family: does the normalization-only perturbation carry over to SAM's relatives?

Every member runs with mask all and with only norm, each at a rho of its own. Hypotheses, set before
the runs:

F0. Only norm costs no member more than the smallest difference of interest: D = only norm - all
    lies above minus the margin for each. Reversed by one member whose interval lies wholly below
    it, after Holm's correction. Beside it, F0 expects the sign of D to be that of SAM's.
F1. The ratio of the best rho, only norm over all, is a property of mask and geometry: within a
    factor of 2 of SAM's for every member whose step is a ball's. Reversed by one outside.
"""

import math
from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.report import step_times, tidy
from samlib.report.answers import Answer, each_of
from samlib.report.figures import draw_points, long, use_style
from samlib.report.names import MEMBER_NAMES
from samlib.report.results import Results
from samlib.report.stats import (
    NOT_RUN,
    REVERSED,
    SEEN,
    Comparison,
    Share,
    compare,
    corrected,
)
from samlib.report.text import listed, number
from samlib.report.wording import lines
from samlib.sam import family as parts
from samlib.sam.masks.by_name import MASKS
from samlib.study import members
from samlib.study.cells import Cell, count_runs
from samlib.study.methods import ALL, ON
from samlib.trainer.build import build_model

_FREE = ("usam", "eigen_sam")  # steps that are not a ball's


def of_member(results: Results, name: str) -> tuple[Cell | None, Cell | None]:
    """A member's cells, mask all and only norm; None where the profile has not run that."""
    if name == "sam":
        return results.cell(ALL), results.cell(ON)
    cells = {m.mask: results.cell(m) for m in members.methods(results.profile, [name])}
    everything, on = (cells.get(mask) for mask in ("all", "only_norm"))
    return (
        everything if everything and results.has(everything) else None,
        on if on and results.has(on) else None,
    )


def ran(results: Results, names: Iterable[str] = members.FAMILY) -> list[str]:
    """The members that a profile runs, in order."""
    return [name for name in names if any(of_member(results, name))]


def both_masks(results: Results) -> list[str]:
    """Those it runs with mask all and with only norm, SAM first."""
    return ["sam", *(name for name in ran(results) if all(of_member(results, name)))]


def named(results: Results, names: Iterable[str]) -> dict[str, Cell]:
    """Some members under each mask they are run with, by the name of both."""
    return {
        f"{MEMBER_NAMES[name]}, {mask}": cell
        for name in names
        for cell, mask in zip(of_member(results, name), ("all", "only norm"), strict=True)
        if cell
    }


def gap(results: Results, name: str) -> Comparison:
    """D: only norm minus all, in points."""
    everything, on = of_member(results, name)
    return results.compare(on, everything)


def retention(results: Results, cell: Cell, column: str = "test_accuracy") -> Share | None:
    """R: a gain over the base optimizer as a share of SAM-ON's, on the seeds all three have."""
    return results.share(results.accuracies(cell, column=column), of=ON, column=column)


def rho_ratio(results: Results, name: str) -> float:
    """The chosen rho of only norm over that of all."""
    everything, on = of_member(results, name)
    return results.rho(on) / results.rho(everything)


def kept(cell: Cell, name: str) -> int:
    """Bytes that a member keeps from step to step beside the base optimizer's."""
    config = cell.any_run
    return parts.kept(name, MASKS[config.mask](build_model(config), config))


def table(results: Results) -> pd.DataFrame:
    """Every member: cost, accuracy under both masks, D, R, ratio of the chosen rho, state."""
    rows, comparisons, times = [], [], step_times.of_family(results)
    for name in ["sam", *ran(results)]:
        everything, on = of_member(results, name)
        comparisons.append(gap(results, name) if everything and on else None)
        rows.append(
            {
                "member": MEMBER_NAMES[name],
                "passes": parts.MEMBERS[name].passes,
                "all": everything and tidy.at_rho(results, everything),
                "only norm": on and tidy.at_rho(results, on),
                "share of SAM-ON's gain": tidy.share(retention(results, on) if on else None),
                "ρ ratio": rho_ratio(results, name) if everything and on else math.nan,
                "step time": times.get(name, step_times.price(results, on)) if on else math.nan,
                "state, bytes": kept(on, name) if on else None,
                "diverged": results.diverged(*(c for c in (everything, on) if c)),
            }
        )
    return tidy.judged(rows, "only norm − all", comparisons, results.profile.where)


def figure(results: Results) -> Figure:
    """Only norm minus all of every member, a point per seed."""
    use_style()
    gaps = {MEMBER_NAMES[name]: _difference(results, name) for name in both_masks(results)}
    figure, ax = plt.subplots(figsize=(7.6, 0.34 * len(gaps) + 1.0))
    draw_points(ax, long(gaps, ["only_norm"] * len(gaps)), "value", "label")
    ax.axvline(0, color="#444444", lw=0.8)
    ax.axvline(-results.margin, color="#444444", lw=0.8, ls=":")
    ax.set_xlabel("only norm − all, points (dotted: the smallest difference of interest)")
    figure.tight_layout()
    return figure


def no_member_loses(results: Results) -> Answer:
    """F0: D above minus the margin for every member but SAM, whose D is claim 3's."""
    names = both_masks(results)[1:]
    if not names:
        return Answer(NOT_RUN)
    gaps = [_difference(results, name) for name in names]
    above = [compare(d + results.margin, margin=0.0) for d in gaps]
    clear = sum(c.seen == SEEN for c in above)
    least = min(names, key=lambda name: gap(results, name).mean)
    ours = (
        f"only norm − all lies above −{results.margin:g} in {clear} of {len(above)} members; the "
        f"lowest is {MEMBER_NAMES[least]}'s, {gap(results, least)}"
    )
    return each_of(above, ours, names=[MEMBER_NAMES[name] for name in names])


def _difference(results: Results, name: str) -> pd.Series:
    everything, on = of_member(results, name)
    return results.difference(on, everything)


def _judged(results: Results) -> dict[str, str]:
    """What D shows of SAM and every member, after Holm's correction, as in the table."""
    names = both_masks(results)
    found = corrected([gap(results, name) for name in names])
    return {name: c.seen for name, c in zip(names, found, strict=True)}


def same_sign(results: Results) -> str:
    """How many members have a D of the sign that SAM's has, where both are told from zero."""
    sams, *others = _judged(results).values()
    if sams not in (SEEN, REVERSED):
        return f"the difference for SAM itself is {sams}"
    opposite = {SEEN: REVERSED, REVERSED: SEEN}[sams]
    return (
        f"the difference has the sign of SAM's in {others.count(sams)} of {len(others)} members "
        f"and the opposite in {others.count(opposite)}"
    )


def one_ratio(results: Results) -> Answer:
    """F1: the ratio of the chosen rho within a factor of 2 of SAM's, for every ball step."""
    names = [name for name in both_masks(results)[1:] if name not in _FREE]
    if not names:
        return Answer(NOT_RUN)
    sams = rho_ratio(results, "sam")
    ratios = {name: rho_ratio(results, name) for name in names}
    outside = [n for n, r in ratios.items() if not 0.499 < r / sams < 2.001]  # ρ has four digits
    ours = f"{len(names) - len(outside)} of {len(names)} within a factor of 2 of {sams:.3g}"
    if outside:
        named = (f"{MEMBER_NAMES[n]} ({number(ratios[n], ',.4g')})" for n in outside)
        ours += f"; outside: {listed(list(named))}"
    return Answer(REVERSED if outside else SEEN, ours, seeds=len(names))


def finding(results: Results) -> str:
    """F0 and F1 as the records decide them."""
    f0, f1 = no_member_loses(results), one_ratio(results)
    if f0.seen == NOT_RUN:
        return "No member runs under both masks in this profile: F0 and F1 are not run."
    return (
        f"F0, that only norm costs no member more than {results.margin:g} points: {f0.seen} "
        f"({f0.ours}; {same_sign(results)}). F1, that the ratio of the best ρ belongs to mask and "
        f"geometry: {f1.seen} ({f1.ours})."
    )


def finding_one_pass(results: Results) -> str:
    """Which members lose with only norm, and how many of them take one pass."""
    if not both_masks(results)[1:]:
        return "No member runs under both masks in this profile."
    losing = [n for n, seen in _judged(results).items() if n != "sam" and seen == REVERSED]
    if not losing:
        return "No member is seen to be worse with only norm than with mask all."
    single = sum(n in members.ONE_PASS for n in losing)
    named = listed([MEMBER_NAMES[n] for n in losing])
    return (
        f"Worse with only norm than with mask all, after Holm's correction: {named}; {single} of "
        f"{len(losing)} take one pass."
    )


def not_run(results: Results) -> str:
    """The members that this profile leaves out."""
    left = [n for n in members.FAMILY if not members.methods(results.profile, [n])]
    if not left:
        return "Every member of the family is run."
    each = runs_of(results, left[0])
    return (
        f"Not run in this profile: {listed([MEMBER_NAMES[n] for n in left])}. A line of "
        f"`samlib/study/members.py` adds a member, for about {2 * each} runs, {each} under each "
        "mask."
    )


def runs_of(results: Results, name: str) -> int:
    """About how many runs a member would take under one mask: a search, and the compared seeds."""
    return count_runs([results.cell(ON.but(member=name))], {})


def opening(results: Results) -> dict[str, str]:
    """What is said, what is seen, and the verdict with what it is worth."""
    says = "SAM-ON works for SAM, ASAM and Fisher-SAM. MSAM's authors tried BatchNorm alone, too."
    f0 = no_member_loses(results)
    told = "none under both masks" if f0.seen == NOT_RUN else f0.ours
    sees = f"{len(ran(results))} members are run; {told}."
    return lines(results.profile.where, says, sees, f0.seen)


def percent(found: Share | None) -> str:
    """A share of SAM-ON's gain in words."""
    return f"{found} of SAM-ON's gain" if found else "no share: SAM-ON's gain is not clear"


TABLES = {"family": table}
DECIDES: dict = {}
