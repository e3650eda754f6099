"""Would any sparse perturbation do? Sparse masks of SAM-ON's size and others, each tuned."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from samlib.report import names, paper, tidy
from samlib.report.answers import NOT_ANSWERED, Answer, each_of
from samlib.report.figures import (
    COLOURS,
    MARKERS,
    between,
    curves,
    draw_points,
    key_of,
    legend,
    long,
    use_style,
)
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import NOT_RUN, SEEN, Comparison, corrected
from samlib.report.text import listed
from samlib.report.wording import against
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, HEADLINE, ON, RANDOM, SPARSE_MASKS, Method

RULES = {"mask": "radius over the mask", "all": "radius over all"}
OF_ITS_SIZE = tuple(Method("l2", mask) for mask in SPARSE_MASKS)  # SAM-ON's


def cells(results: Results) -> list[Cell]:
    """The sparse masks that have been run, by level and radius rule."""
    return [results.cell(method) for method in results.profile.sparse if results.ran(method)]


def not_yet(results: Results) -> list[Method]:
    """The sparse masks of the profile that have not been run."""
    return [method for method in results.profile.sparse if not results.ran(method)]


def _kept(results: Results, cell: Cell) -> float:
    """Share of the coordinates a mask moves, in percent."""
    mask = results.runs(cell)[0]["mask"]
    return 100 * mask["count"] / mask["total"]


def table(results: Results) -> pd.DataFrame:
    """SAM-ON minus SAM and every sparse mask, on the seeds both have (claim 8)."""
    on = results.cell(ON)
    rows: list[dict] = []
    comparisons: list[Comparison | None] = []
    for cell in (results.cell(ALL), *cells(results)):
        comparisons.append(results.compare(on, cell))
        values = results.accuracies(cell)
        rows.append(
            {
                "mask": method_name(results.profile, cell.method),
                "moved": {"percent": _kept(results, cell)},
                "radius over": None if cell.method == ALL else cell.method.radius_over,
                "the paper": tidy.reported(_reported(cell.method)),
                "accuracy": tidy.at_rho(results, cell, values),
                "share of SAM's gain": tidy.share(results.share(values)),
                "diverged": results.diverged(cell),
            }
        )
    for method in not_yet(results):
        comparisons.append(None)
        name = f"{method_name(results.profile, method)}: not run yet"
        rows.append({"mask": name, "the paper": tidy.reported(_reported(method))})
    return tidy.judged(rows, "SAM-ON minus it", comparisons, results.profile.where)


def _reported(method: Method) -> paper.Number | None:
    level = {None: 99.95, 0.5: 50.0, 0.9995: 99.95}.get(method.sparsity)
    key = ("all", 0.0) if method == ALL else (method.mask, level)
    return paper.SPARSITY.get(key)


def behind(results: Results, cell: Cell) -> pd.Series:
    """Accuracy minus SAM-ON's on the same seeds: methods have different numbers of them."""
    return results.difference(cell, results.cell(ON))


def behind_figure(results: Results, methods: Sequence[Method]) -> Figure:
    """Difference to SAM-ON of some methods, a row each, a point per seed."""
    use_style()
    several = len({method.radius_over for method in methods}) > 1

    def label(method: Method) -> str:
        rule = f", {RULES[method.radius_over]}" if several and method.mask in SPARSE_MASKS else ""
        return method_name(results.profile, method) + rule

    columns = {label(method): behind(results, results.cell(method)) for method in methods}
    figure, ax = plt.subplots(figsize=(7.6, 0.36 * len(methods) + 1.0))
    draw_points(ax, long(columns, [key_of(m) for m in methods]), "value", "label")
    ax.axvline(0, color=COLOURS["only_norm"], lw=1)
    ax.set_xlabel("accuracy minus SAM-ON's, points")
    figure.tight_layout()
    return figure


def figure(results: Results) -> Figure:
    """Difference to SAM-ON of every sparse mask, a point per seed.

    Against the share of coordinates moved, where the masks move several.
    """
    run = [cell.method for cell in cells(results)]
    if len({method.sparsity for method in run}) > 1:
        return by_share(results)
    return behind_figure(results, (BASE, ALL, *run))


def by_share(results: Results) -> Figure:
    """Difference to SAM-ON against the share of coordinates moved, by mask and radius rule."""
    use_style()
    rules = [r for r in RULES if any(c.method.radius_over == r for c in cells(results))]
    size = (1.0 + 3.8 * len(rules), 3.7)
    figure, axes = plt.subplots(1, len(rules), figsize=size, sharey=True, squeeze=False)
    for ax, rule in zip(axes[0], rules, strict=True):
        ax.axhline(0, color=COLOURS["only_norm"], lw=1)
        for method in (BASE, ALL):
            mean = behind(results, results.cell(method)).mean()
            ax.axhline(mean, color=COLOURS[key_of(method)], ls="--", lw=1)
        aside = dict(zip(SPARSE_MASKS, (0.88, 1.0, 1.14), strict=True))  # none covers another
        own = [c for c in cells(results) if c.method.radius_over == rule]
        points = [
            {
                "key": c.method.mask,
                "kept": aside[c.method.mask] * _kept(results, c),
                "behind": value,
            }
            for c in own
            for value in behind(results, c)
        ]
        curves(ax, pd.DataFrame(points), "kept", "behind", errorbar=between)
        at = _kept(results, results.cell(ON))
        ax.plot(at, 0, MARKERS["only_norm"], color=COLOURS["only_norm"], ms=10, zorder=1)
        ticks = sorted({_kept(results, c) for c in own})
        ax.set_xscale("log")
        ax.set_xlim(ticks[0] / 2, ticks[-1] * 2)
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_major_formatter(FixedFormatter([f"{t:.2g}" for t in ticks]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(RULES[rule])
        ax.set_xlabel("coordinates moved, %")
    axes[0, 0].set_ylabel("accuracy minus SAM-ON's, points")
    labels = {key_of(m): method_name(results.profile, m) for m in HEADLINE}
    shown = {cell.method.mask for cell in cells(results)}
    labels |= {mask: names.MASK_NAMES[mask] for mask in SPARSE_MASKS if mask in shown}
    legend(figure, labels, dashed=("base", "all"))
    return figure


def of_its_size(results: Results) -> dict[str, Comparison]:
    """SAM-ON minus each sparse mask of its own size that has been run, radius over the mask."""
    on = results.cell(ON)
    return {
        names.MASK_NAMES[cell.method.mask]: results.compare(on, cell)
        for cell in cells(results)
        if cell.method in OF_ITS_SIZE
    }


def lacking(results: Results) -> list[str]:
    """Names of the masks of SAM-ON's own size that have not been run, radius over the mask."""
    return [names.MASK_NAMES[m.mask] for m in not_yet(results) if m in OF_ITS_SIZE]


def finding(results: Results) -> str:
    """What a mask of SAM-ON's size gets of SAM's gain, and how SAM-ON does against each."""
    called, on = {names.MASK_NAMES["random"]: "a random mask"}, results.cell(ON)
    shown = (results.cell(ALL), *cells(results))  # the rows of the table, which are corrected
    after = corrected([results.compare(on, cell) for cell in shown])
    judged = {
        names.MASK_NAMES[cell.method.mask]: c
        for cell, c in zip(shown, after, strict=True)
        if cell.method in OF_ITS_SIZE
    }
    said = listed([against(c, called.get(k, k)) for k, c in judged.items()])
    each = "each of" if len(judged) > 1 else "of"
    return f"{random_share(results)}SAM-ON is {said}, {each} its size and with a ρ of its own."


def random_share(results: Results) -> str:
    """What a random mask of SAM-ON's size gets of SAM's gain, where that can be said."""
    random = results.cell(RANDOM)
    share = results.share(results.accuracies(random))
    if not share:
        return ""
    said = f"A random mask of SAM-ON's size gets {share} of SAM's gain. "
    if results.compare(random, results.cell(BASE)).seen == SEEN:
        return said
    return f"{said}Its perturbation has its full length: no radius rule is needed to explain that. "


def beyond_sparsity(results: Results) -> Answer:
    """SAM-ON above every sparse mask of its own size, radius over the mask (claim 8)."""
    found = of_its_size(results)
    if not found:
        return NOT_ANSWERED
    ours = listed([f"{c} ({name})" for name, c in found.items()])
    ours = f"SAM-ON minus the mask, in points: {ours}"
    if not_run := lacking(results):
        return Answer(NOT_RUN, f"{ours}; {listed(not_run)} not run", f"{listed(not_run)} not run")
    return each_of([*found.values()], ours, names=[f"over {name}" for name in found])


TABLES = {"sparsity": table}
DECIDES = {"8": beyond_sparsity}
