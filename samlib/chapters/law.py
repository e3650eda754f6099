"""Does rho for a mask follow from its share of the gradient? A law, and its test forward."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from samlib.report import paper, tidy
from samlib.report.answers import NOT_ANSWERED, Answer
from samlib.report.figures import COLOURS, MARKERS, name_points, use_style
from samlib.report.law import Prediction, prediction
from samlib.report.names import GEOMETRY_NAMES, method_name
from samlib.report.results import Results
from samlib.report.stats import NOT_RUN, OPEN, REVERSED, SAME, SEEN, Comparison, corrected
from samlib.report.text import listed, number
from samlib.report.wording import after_holm, lines
from samlib.study import plan
from samlib.study.cells import Cell, all_cells
from samlib.study.methods import BASE, Method


def predictions(results: Results) -> dict[Cell, Prediction]:
    """What the law says of every cell of the headline problem whose rho has been chosen."""
    base = results.profile.bases[results.profile.headline]
    cells = all_cells(plan.chapter_needs(results.profile))
    found = {}
    for cell in cells:
        own = cell.base == base and cell.method == cell.method.plain and len(cell.start) > 1
        whole = Method(cell.method.geometry, "all")  # whose rho the law starts from
        if (
            own
            and not cell.repeats
            and cell.method.tunes is None
            and results.tuned(cell.method)
            and results.tuned(whole)
        ):
            found[cell] = prediction(results, cell.method)
    return {cell: p for cell, p in found.items() if p is not None}


def table(results: Results) -> pd.DataFrame:
    """Predicted and chosen rho of every mask, and the logarithm of their ratio."""
    rows = []
    for cell, found in predictions(results).items():
        rho = results.rho(cell)
        rows.append(
            {
                "mask": _label(results, cell),
                "share of ‖Tg‖²": {"percent": 100 * found.share},
                "ρ by the law": {"rho": float(f"{found.rho:.3g}"), "at_edge": False},
                "ρ chosen": tidy.rho(results, cell),
                "log₂(chosen / predicted)": found.octaves(rho),
            }
        )
    return tidy.table(rows)


def _label(results: Results, cell: Cell) -> str:
    method, name = cell.method, method_name(results.profile, cell.method)
    if method.mask == "random":
        level = "" if method.sparsity is None else f", {100 * (1 - method.sparsity):g} %"
        rule = ", radius over all" if method.radius_over == "all" else ""
        return name + level + rule
    return name


def forward(results: Results) -> dict[str, tuple[Cell, Cell]]:
    """Cells at the law's rho, untuned, beside the same methods tuned, by name."""
    untuned = [c for c in plan.law(results.profile).cells if c.method.rho_from == "law"]
    tuned = (results.cell(replace(c.method, rho_from="search")) for c in untuned)
    names = (method_name(results.profile, c.method.plain) for c in untuned)
    return dict(zip(names, zip(untuned, tuned, strict=True), strict=True))


def forward_table(results: Results) -> pd.DataFrame:
    """Accuracy at the law's rho, untuned, minus accuracy at the tuned one."""
    rows, comparisons = [], []
    for name, (untuned, tuned) in forward(results).items():
        both = results.together(untuned, tuned)
        at = {"rho": results.rho(untuned), "at_edge": False}
        comparisons.append(results.compare(untuned, tuned))
        rows.append(
            {
                "perturbed": name,
                "by the law": tidy.spread(both[0]) | at,
                "tuned": tidy.at_rho(results, tuned, both[1]),
            }
        )
    return tidy.judged(rows, "by the law − tuned", comparisons, results.profile.where)


def figure(results: Results) -> Figure:
    """Chosen rho against predicted rho, both over SAM's; a factor of two to either side."""
    use_style()
    figure, ax = plt.subplots(figsize=(5.6, 4.4))
    points = []
    for cell, found in predictions(results).items():
        key = cell.method.mask
        everything = results.rho(results.cell(Method(cell.method.geometry, "all")))
        x, y = found.rho / everything, results.rho(cell) / everything
        ax.plot(x, y, MARKERS[key], color=COLOURS[key], ms=8, mec="white")
        points.append((x, y, _label(results, cell), COLOURS[key]))
    ends = np.array(ax.get_xlim()).clip(0.5) * [0.8, 1.6]
    for factor, style in ((1, "-"), (2, ":"), (0.5, ":")):
        ax.plot(ends, factor * ends, style, color="#888888", lw=0.8, zorder=0)
    ax.set(xscale="log", yscale="log")
    ax.set(xlabel="ρ / ρ of SAM, by the law", ylabel="ρ / ρ of SAM, chosen")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(2, numticks=8))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_locator(NullLocator())
    name_points(ax, points)
    figure.tight_layout()
    return figure


def finding(results: Results) -> str:
    """How far the law is off, over all masks."""
    found = predictions(results)
    if not found:
        return "No mask of this profile has both a prediction and a tuned ρ yet."
    errors = [abs(p.octaves(results.rho(cell))) for cell, p in found.items()]
    near = sum(error <= 1 for error in errors)
    return (
        f"The tuned ρ of {near} of {len(errors)} masks is within a factor of two of the law's; "
        f"the median error is a factor of {number(2 ** float(np.median(errors)))}, the largest "
        f"{number(2 ** max(errors))}. The ladder itself has steps of 2"
        f"{', and of √2 beside the best' if results.profile.refine else ''}."
        f"{_what_tests(results, found)}"
    )


def _what_tests(results: Results, found: dict[Cell, Prediction]) -> str:
    """Which masks can contradict the law; "" where each can."""
    base = results.cell(BASE)
    able = [
        _label(results, cell)
        for cell, p in found.items()
        if p.share < 0.5 and results.has(cell, base) and results.compare(cell, base).seen == SEEN
    ]
    if len(able) == len(found):
        return ""
    return (
        " A mask with most of the gradient has about SAM's ρ by any rule, and a mask that gains "
        f"nothing has no best ρ; the law is tested by {'; '.join(able) or 'no mask'}."
    )


def untuned_is_enough(results: Results) -> Answer:
    """At the law's rho, untuned, each method is no different from itself tuned."""
    found = {name: results.compare(*cells) for name, cells in forward(results).items()}
    if not found or any(c.seen == NOT_RUN for c in found.values()):
        return NOT_ANSWERED
    word, judged = _word([*found.values()]), corrected([*found.values()])
    ours = "; ".join(
        f"{name} {c}{_lost(c, after)}"
        for (name, c), after in zip(found.items(), judged, strict=True)
    )
    widest, after = max(zip(found, judged, strict=True), key=lambda pair: abs(pair[1].mean))
    place = "the larger of two" if len(found) == 2 else f"the largest of {len(found)}"
    short = f"by the law − tuned: {found[widest]} points ({widest}), {place}"
    short += _lost(found[widest], after)
    seeds = min(c.seeds for c in found.values())
    return Answer(word, f"by the law − tuned, points: {ours}", short, seeds)


def _lost(alone: Comparison, after: Comparison) -> str:
    """What to say of an interval without zero whose word is open."""
    return "" if alone.seen == after.seen else after_holm(after.p)


def _word(comparisons: list[Comparison]) -> str:
    """Seen if each shows no difference; reversed if one differs after Holm's correction."""
    if all(c.seen == SAME for c in comparisons):
        return SEEN
    differ = any(c.seen in (SEEN, REVERSED) for c in corrected(comparisons))
    return REVERSED if differ else OPEN


def opening(results: Results) -> dict[str, str]:
    """The three lines the page opens with; the law is ours and not the paper's."""
    found = untuned_is_enough(results)
    ratios = listed([f"{paper.rho_ratio(g):g} × ({GEOMETRY_NAMES[g]})" for g in _FIGURE])
    says = f"The paper states no law; SAM-ON's best ρ is {ratios} that of all parameters."
    worth = "Seen means that a method at the law's ρ is no different from itself tuned."
    return lines(results.profile.where, says, found.ours, found.seen, worth)


_FIGURE = ("l2", "elementwise_l2", "layerwise_l2")
TABLES = {"law": table, "law_forward": forward_table}
DECIDES = {}
