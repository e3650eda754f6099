"""Accuracy against rho: where the optimum lies for each mask, and how wide it is."""

import math
from collections import Counter

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from samlib.report import names, paper, tidy
from samlib.report.answers import Answer, all_of
from samlib.report.figures import COLOURS, curves, legend, rho_axis, use_style
from samlib.report.names import GEOMETRY_NAMES, MASK_NAMES, MODEL_NAMES
from samlib.report.results import Results
from samlib.report.stats import Comparison, compare, corrected
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, CURVES, ON, SWEPT, Method


def _ratio(results: Results, geometry: str) -> tuple[list[float], list[float]]:
    """Per seed, the rho with the best validation accuracy for all and for only-norm."""
    chosen = []
    for mask in ("all", "only_norm"):
        cell = results.cell(Method(geometry, mask))
        by_rho = {
            rho: results.accuracies(cell, rho, "validation_accuracy") for rho in sorted(cell.grid)
        }
        table = pd.DataFrame(by_rho).dropna()
        chosen.append(table.idxmax(axis=1).tolist())
    return chosen[0], chosen[1]


def rho_shift(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """Chosen rho of all and only-norm, and log10 of their ratio paired by seed (claim 7)."""
    rows, comparisons = [], []
    for geometry in SWEPT:
        everything = results.cell(Method(geometry, "all"))
        on = results.cell(Method(geometry, "only_norm"))
        low, high = _ratio(results, geometry)
        # equal within half a step of the grid's factor of two
        ratios = [math.log10(b / a) for a, b in zip(low, high, strict=True)]
        comparison = compare(ratios, margin=math.log10(2) / 2)
        comparisons.append(comparison)
        both = [paper.best(geometry, mask) for mask in ("only_norm", "all")]
        rows.append(
            {
                "variant": GEOMETRY_NAMES[geometry],
                "reported ρ ratio": both[0][0] / both[1][0] if all(both) else math.nan,
                "ρ all": {"rho": results.rho(everything), "at_edge": results.at_edge(everything)},
                "ρ only norm": {"rho": results.rho(on), "at_edge": results.at_edge(on)},
                "our ρ ratio": results.rho(on) / results.rho(everything),
                "log₁₀ ratio by seed": tidy.difference(comparison),
                "ratio (seeds)": Counter(f"{10**ratio:.3g}" for ratio in ratios),
                "seeds": comparison.seeds,
                "window all": window(results, everything),
                "window only norm": window(results, on),
            }
        )
    verdicts = [c.verdict for c in corrected(comparisons)]
    table = tidy.table([row | {"verdict": v} for row, v in zip(rows, verdicts, strict=True)])
    return table, comparisons


def window(results: Results, cell: Cell) -> dict[str, float] | None:
    """From which to which rho, around the chosen one, mean test accuracy is above the base's."""
    base = results.accuracies(results.cell(BASE))
    chosen, good = results.rho(cell), []
    for rho in sorted(cell.grid):
        values = results.accuracies(cell, rho)
        if (values - base).mean() > 0:  # paired: over the seeds both have
            good.append(rho)
        elif rho < chosen:
            good = []
        else:
            break
    return {"from": good[0], "to": good[-1]} if good else None


def _ours(results: Results, geometry: str) -> pd.DataFrame:
    """Accuracy of every run of a geometry, by mask and rho."""
    rows = [
        {"key": mask, "rho": rho, "accuracy": accuracy}
        for mask in CURVES
        for rho in sorted(results.cell(Method(geometry, mask)).grid)
        for accuracy in results.accuracies(results.cell(Method(geometry, mask)), rho)
    ]
    return pd.DataFrame(rows)


def _theirs(geometry: str) -> pd.DataFrame:
    """The authors' points, in the same columns."""
    rows = [
        {"key": mask, "rho": rho, "accuracy": accuracy}
        for mask in CURVES
        for rho, accuracy in sorted(paper.RHO_SWEEP[geometry, mask].items())
    ]
    return pd.DataFrame(rows)


def _mark_chosen(ax: Axes, results: Results, geometry: str) -> None:
    for mask in CURVES:
        cell = results.cell(Method(geometry, mask))
        chosen = results.rho(cell)
        at = chosen, results.accuracies(cell, chosen).mean()
        ax.plot(*at, "o", ms=12, mfc="none", mec=COLOURS[mask], mew=1.4)


def figure(results: Results) -> Figure:
    """Accuracy against rho by geometry: the paper's curves above, ours below."""
    use_style()
    figure, axes = plt.subplots(2, len(SWEPT), figsize=(9.0, 5.6), sharey="row")
    base = results.accuracies(results.cell(BASE))
    floor = max(0.0, base.mean() - 15)
    for column, geometry in enumerate(SWEPT):
        above, below = axes[0, column], axes[1, column]
        ours, theirs = _ours(results, geometry), _theirs(geometry)
        curves(above, theirs, "rho", "accuracy")
        curves(below, ours, "rho", "accuracy")
        _mark_chosen(below, results, geometry)
        above.axhline(paper.SGD_LINE.value, color=COLOURS["base"], ls="--", lw=1)
        below.axhline(base.mean(), color=COLOURS["base"], ls="--", lw=1)
        above.set_title(GEOMETRY_NAMES[geometry].replace("ASAM ", "ASAM\n"))
        below.set_xlabel("ρ")
        above.set_xscale("log")
        above.xaxis.set_minor_locator(NullLocator())
        rho_axis(below, ours["rho"].unique())
    axes[1, 0].set_ylim(bottom=floor)
    axes[0, 0].set_ylabel("reported accuracy, %\nWRN-28-10, CIFAR-100")
    cell = results.cell(BASE)
    model, data = MODEL_NAMES[cell.base.model], cell.base.dataset
    axes[1, 0].set_ylabel(f"our accuracy, %\n{model}, {data}")
    legend(figure, {mask: MASK_NAMES[mask] for mask in CURVES} | {"base": "base optimizer"})
    return figure


def finding(results: Results) -> str:
    """The ratio of the chosen radii."""
    parts = []
    for geometry in SWEPT:
        everything = results.cell(Method(geometry, "all"))
        on = results.cell(Method(geometry, "only_norm"))
        ratio = results.rho(on) / results.rho(everything)
        parts.append(f"{ratio:g} × for {names.GEOMETRY_NAMES[geometry]}")
    return (
        f"The chosen ρ of the only-norm mask is {', '.join(parts)} that of the full one "
        f"(reported: {', '.join(f'{paper.rho_ratio(g):g} ×' for g in SWEPT)})."
    )


def larger(results: Results) -> Answer:
    """The chosen rho of SAM-ON over SAM's, every variant (claim 7)."""
    comparisons = rho_shift(results)[1]
    ratio = results.rho(results.cell(ON)) / results.rho(results.cell(ALL))
    answer = all_of(comparisons, "variants", strict=True)
    return Answer(f"SAM: {ratio:g} ×; {answer.ours}", answer.verdict, answer.seeds)


TABLES = {"rho_shift": lambda results: rho_shift(results)[0]}
DECIDES = {7: larger}
