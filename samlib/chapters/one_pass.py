"""Is there SAM-ON at the price of the base optimizer? Members whose step is a single pass.

The goal, set before the runs: at most 1.05 times the base optimizer's step and at least 70 % of
SAM-ON's gain. Seen if one member with only norm takes no longer, and its gain minus 70 % of
SAM-ON's is above zero after Holm's correction; partly if one has the gain and takes longer, which
was added after the digits; open while a gain or a price is; else reversed.

The goal is judged with BatchNorm's usual statistics. The same with recalibrated ones was added when
the runs were known, and decides nothing here; for `ASKED_BEFORE` it is a hypothesis of the plan.
"""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.chapters import confirmation, family, one_pass_prices
from samlib.chapters.confirmation import GAIN
from samlib.chapters.one_pass_prices import PRICE
from samlib.report import step_times, tidy
from samlib.report.answers import PARTLY, Answer
from samlib.report.figures import COLOURS, MARKERS, key_of, use_style
from samlib.report.names import MEMBER_NAMES, method_name
from samlib.report.results import RECALIBRATED, USUAL, Results
from samlib.report.stats import (
    NOT_RUN,
    OPEN,
    REVERSED,
    SEEN,
    Comparison,
    corrected,
    interval,
)
from samlib.report.text import listed, number
from samlib.report.wording import lines
from samlib.study import members
from samlib.study.cells import Cell
from samlib.study.methods import BASE, HEADLINE, ON

# Profiles whose plan asks for the gain with recalibrated statistics.
ASKED_BEFORE = ("cifar100-45k",)


def cells(results: Results) -> dict[str, Cell]:
    """The headline's three, then every one-pass member under each mask it runs with, by name."""
    found = {method_name(results.profile, m): results.cell(m) for m in HEADLINE}
    return found | family.named(results, family.ran(results, members.ONE_PASS))


def _at(results: Results, cell: Cell) -> str:
    """The price in words."""
    found = step_times.price(results, cell)
    return _times(found) if math.isnan(found) else f"{_times(found)} the base optimizer's step"


def _times(price: float) -> str:
    return "a price not measured yet" if math.isnan(price) else f"{number(price)} ×"


def table(results: Results) -> pd.DataFrame:
    """Accuracy, share of SAM-ON's gain, and step time."""
    rows, comparisons = [], []
    base = results.cell(BASE)
    for name, cell in cells(results).items():
        own = cell.method != BASE
        comparisons.append(results.compare(cell, base) if own else None)
        rows.append(
            {
                "method": name,
                "accuracy": tidy.at_rho(results, cell),
                "share of SAM-ON's gain": tidy.share(
                    family.retention(results, cell) if own else None
                ),
                "step time": step_times.price(results, cell),
                "diverged": results.diverged(cell),
            }
        )
    return tidy.judged(rows, "minus base", comparisons, results.profile.where)


def recalibrated(results: Results) -> pd.DataFrame:
    """Accuracy with the usual and with recalibrated statistics, and the share with the latter."""
    rows = []
    for name, cell in cells(results).items():
        usual, again = (results.accuracies(cell, column=c) for c in (USUAL, RECALIBRATED))
        change = results.judge(again - usual)
        own = cell.method != BASE and change.seeds
        rows.append(
            {
                "method": name,
                "usual": tidy.spread(usual),
                "recalibrated": tidy.spread(again),
                "change": tidy.difference(change),
                "share of SAM-ON's gain, recalibrated": tidy.share(
                    family.retention(results, cell, RECALIBRATED) if own else None
                ),
            }
        )
    return tidy.table(rows)


def figure(results: Results) -> Figure:
    """A row per method: mean accuracy with 95 % interval, hollow recalibrated, and the price."""
    use_style()
    found = cells(results)
    figure, ax = plt.subplots(figsize=(7.6, 0.3 * len(found) + 1.0))
    for row, cell in enumerate(found.values()):
        mean, low, high = interval(results.accuracies(cell).dropna())
        look = {"marker": MARKERS[key_of(cell.method)], "color": COLOURS[key_of(cell.method)]}
        ax.errorbar(mean, row, xerr=[[mean - low], [high - mean]], **look)
        again = results.accuracies(cell, column=RECALIBRATED).mean()
        ax.plot(again, row + 0.25, mfc="white", ms=5, ls="none", **look)
        at = step_times.price(results, cell)
        ax.text(
            1.03,
            row,
            "–" if math.isnan(at) else _times(at),
            transform=ax.get_yaxis_transform(),
            va="center",
            weight="bold" if at <= PRICE else "normal",
        )
    ax.set_yticks(range(len(found)), labels=[*found])
    ax.invert_yaxis()
    ax.text(1.03, 1.02, "step", transform=ax.transAxes, va="bottom")
    ax.set_xlabel("test accuracy, %")
    figure.tight_layout()
    return figure


def _only_norm(results: Results) -> dict[str, Cell]:
    found = {n: family.of_member(results, n)[1] for n in family.ran(results, members.ONE_PASS)}
    return {name: cell for name, cell in found.items() if cell}


def enough(results: Results, cell: Cell, column: str = "test_accuracy") -> Comparison:
    """A gain over the base optimizer minus 70 % of SAM-ON's, in points."""
    cells = results.cell(BASE), results.cell(ON), cell
    return confirmation.beyond(*confirmation.gains(results, *cells, columns=(column, column)))


def goal(results: Results) -> Answer:
    """Whether one member of one pass has the gain at the price; partly, if the gain alone."""
    found = _only_norm(results)
    if not found:
        return Answer(NOT_RUN)
    gains = corrected([enough(results, cell) for cell in found.values()])
    words = [gain.seen for gain in gains]
    at = [step_times.price(results, cell) for cell in found.values()]
    reached = [p for word, p in zip(words, at, strict=True) if word == SEEN]
    hope = any(not p > PRICE and word in (SEEN, OPEN) for word, p in zip(words, at, strict=True))
    if any(p <= PRICE for p in reached):
        seen = SEEN
    elif hope:  # of a member that is not timed, or whose gain is open
        seen = OPEN
    else:
        seen = PARTLY if reached else OPEN if OPEN in words else REVERSED
    parts = (
        f"{MEMBER_NAMES[n]} {family.retention(results, c) or 'no clear share'} at {_times(price)}"
        for (n, c), price in zip(found.items(), at, strict=True)
    )
    return Answer(seen, "; ".join(parts), seeds=min(g.seeds for g in gains))


def finding(results: Results) -> str:
    """Whether the goal is reached, and by what."""
    answer = goal(results)
    if answer.seen == NOT_RUN:
        return "No member of one pass is run in this profile."
    return (
        f"At most {PRICE} times the step of {method_name(results.profile, BASE)} and at least "
        f"{100 * GAIN:.0f} % of SAM-ON's gain: {answer.seen}.{_missed(results, answer)} Shares of "
        f"that gain with only norm, and step times over the base optimizer's: {answer.ours}."
    )


def _all_longer(results: Results) -> bool:
    """Whether every step takes longer than the goal allows."""
    return all(step_times.price(results, c) > PRICE for c in _only_norm(results).values())


def _missed(results: Results, answer: Answer) -> str:
    """What is open where every step takes longer than the goal allows."""
    if answer.seen != OPEN or not _all_longer(results):
        return ""
    name, cell, _ = _best(results)
    return (
        f" Every step of one pass takes longer here, and open is whether a gain is large enough: "
        f"{MEMBER_NAMES[name]}'s minus {100 * GAIN:.0f} % of SAM-ON's is "
        f"{enough(results, cell)} points."
    )


def finding_signs(results: Results) -> str:
    """Along the coming step, or back up: momentum's two signs under each mask."""
    both = zip(*(family.of_member(results, n) for n in ("msam", "msam_up")), strict=True)
    told = [
        f"{results.compare(down, up)} points {mask}"
        for mask, (down, up) in zip(("with mask all", "with only norm"), both, strict=True)
        if down and up
    ]
    if not told:
        return "The two signs of momentum are not run in this profile."
    return f"MSAM, along the coming step, minus MSAM with its sign flipped: {listed(told)}."


def finding_statistics(results: Results) -> str:
    """The goal's gain with recalibrated statistics on every side, and against SAM-ON as it is."""
    best = _recalibrated(results)
    if not best:
        return "No statistics to recalibrate."
    name, cell, gain = best
    here = results.accuracies(cell, column=RECALIBRATED)
    usual = results.judge(here - results.accuracies(results.cell(ON)))
    return (
        f"With recalibrated statistics of every network, the best of one pass with only norm is "
        f"{MEMBER_NAMES[name]}: {family.percent(family.retention(results, cell, RECALIBRATED))}, "
        f"{gain} points more than {100 * GAIN:.0f} % of that gain ({gain.seen} after Holm's "
        f"correction). Recalibrated, it is {usual} points from SAM-ON with the usual statistics."
    )


def _recalibrated(results: Results) -> tuple[str, Cell, Comparison] | None:
    """The most accurate member with recalibrated statistics, and `enough` with them.

    The comparison is corrected for the choice among the members. None where none is run, or the
    network has no statistics.
    """
    found = _only_norm(results)
    gains = corrected([enough(results, cell, RECALIBRATED) for cell in found.values()])
    every = [(*of, gain) for of, gain in zip(found.items(), gains, strict=True) if gain.seeds]
    return max(every, key=lambda of: of[2].mean) if every else None


def in_short(results: Results) -> str:
    """The goal's verdict and the best member, for a list of questions."""
    answer, best = goal(results), _best(results)
    if not best:
        return NOT_RUN
    name, cell, _ = best
    words = {SEEN: "Yes", PARTLY: "Partly", REVERSED: "No"}
    told = (
        f"{words.get(answer.seen, 'Open')}: {MEMBER_NAMES[name]} with only norm gets "
        f"{family.percent(family.retention(results, cell))} at {_at(results, cell)}; the goal is "
        f"{100 * GAIN:.0f} % at {PRICE} ×."
    )
    longer = " Every step of one pass takes longer here." if _all_longer(results) else ""
    return f"{told}{longer}{_msam(results, name, USUAL)}"


def in_short_recalibrated(results: Results) -> str:
    """The same with recalibrated statistics: on fresh seeds first, where these are run."""
    if not _only_norm(results):
        return NOT_RUN
    if not (after := _recalibrated(results)):
        return "The network has no BatchNorm"
    name, cell, gain = after
    at = step_times.price(results, cell)
    longer = f" at {_times(at)}" if at > PRICE else ""
    gets = (
        f"gets {family.percent(family.retention(results, cell, RECALIBRATED))} (more than "
        f"{100 * GAIN:.0f} %: {gain.seen}){longer}.{_msam(results, name, RECALIBRATED)}"
    )
    if results.profile.name in ASKED_BEFORE:
        word = {SEEN: "Yes", REVERSED: "No"}.get(gain.seen, "Open")
        return f"{word}, and asked before the runs: {MEMBER_NAMES[name]} with only norm {gets}"
    looked = f"looked at after the runs, {MEMBER_NAMES[name]} {gets}"
    fresh = confirmation.in_short(results)
    return f"{fresh} On the first seeds, {looked}" if fresh else looked[0].upper() + looked[1:]


def _msam(results: Results, best: str, column: str) -> str:
    """MSAM's share where another member is best: it is the one with a confirmation."""
    cell = _only_norm(results).get("msam")
    if cell is None or best == "msam":
        return ""
    share = family.percent(family.retention(results, cell, column))
    return f" {MEMBER_NAMES['msam']} gets {share}."


def opening(results: Results) -> dict[str, str]:
    """What is said, what is seen, and the verdict with what it is worth."""
    best = _best(results)
    sees = "no such member is run."
    if best:
        name, cell, gain = best
        share = family.retention(results, cell)
        sees = (
            f"The best of one pass with only norm, {MEMBER_NAMES[name]}, is {gain} points over "
            f"{method_name(results.profile, BASE)}, {family.percent(share)}, at "
            f"{_at(results, cell)}; the goal is {PRICE} ×."
            f"{one_pass_prices.elsewhere(results)}"
        )
    if _recalibrated(results):
        again = in_short_recalibrated(results)
        sees += f" With recalibrated statistics of every method: {again[0].lower()}{again[1:]}"
    says = "MSAM's authors report that their step is better on BatchNorm alone than on everything."
    return lines(results.profile.where, says, sees, goal(results).seen)


def _best(results: Results) -> tuple[str, Cell, Comparison] | None:
    base = results.cell(BASE)
    found = [(n, c, results.compare(c, base)) for n, c in _only_norm(results).items()]
    return max(found, key=lambda item: item[2].mean) if found else None


TABLES = {
    "one_pass": table,
    "one_pass_recalibrated": recalibrated,
    "one_pass_prices": one_pass_prices.table,
    "one_pass_confirmed": confirmation.table,
}
DECIDES: dict = {}
