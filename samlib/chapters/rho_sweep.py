"""Accuracy against rho: where the optimum lies for each mask, and how wide it is."""

import math
from collections import Counter

import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from samlib.report import names, paper
from samlib.report.answers import Answer, all_of
from samlib.report.figures import COLOURS, MARKERS, key_of, use_style
from samlib.report.names import GEOMETRY_NAMES, MASK_NAMES, MODEL_NAMES
from samlib.report.results import Results
from samlib.report.stats import Comparison, compare, corrected
from samlib.report.wording import edge
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, ON, SWEPT, Method


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
                "reported ρ ratio": f"{both[0][0] / both[1][0]:g}" if all(both) else "–",
                "ρ all": edge(results, everything),
                "ρ only norm": edge(results, on),
                "our ρ ratio": f"{results.rho(on) / results.rho(everything):g}",
                "log₁₀ ratio by seed": str(comparison),
                "ratio (seeds)": _counted(ratios),
                "seeds": comparison.seeds,
                "window all": window(results, everything),
                "window only norm": window(results, on),
            }
        )
    judged = [c.verdict for c in corrected(comparisons)]
    return pd.DataFrame(rows).assign(verdict=judged), comparisons


def _counted(log_ratios: list[float]) -> str:
    """Every ratio with the number of seeds that have it.

    >>> _counted([0.0, math.log10(8), math.log10(8)])
    '1 (1), 8 (2)'
    """
    counts = Counter(float(f"{10**value:.3g}") for value in log_ratios)
    return ", ".join(f"{ratio:g} ({n})" for ratio, n in sorted(counts.items()))


def window(results: Results, cell: Cell) -> str:
    """The values of rho around the chosen one whose mean test accuracy is above the base's."""
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
    return f"{good[0]:g} to {good[-1]:g}" if good else "none"


def _curve(ax: Axes, results: Results, method: Method) -> None:
    cell = results.cell(method)
    rhos = sorted(cell.grid)
    key = key_of(method)
    means = []
    for rho in rhos:
        values = results.accuracies(cell, rho)
        jitter = 1.04 ** np.linspace(-1, 1, len(values)) if len(values) > 1 else 1.0
        ax.scatter(rho * jitter, values, s=10, color=COLOURS[key], alpha=0.4, linewidths=0)
        means.append(values.mean())
    ax.plot(rhos, means, "-", marker=MARKERS[key], color=COLOURS[key], ms=5, lw=1.6)
    chosen = results.rho(cell)
    ax.plot(
        chosen,
        means[rhos.index(chosen)],
        "o",
        ms=12,
        mfc="none",
        mec=COLOURS[key],
        mew=1.4,
    )


def _reported_curve(ax: Axes, geometry: str, mask: str) -> None:
    curve = paper.RHO_SWEEP[geometry, mask]
    rhos = sorted(curve)
    values = [curve[rho] for rho in rhos]
    ax.plot(rhos, values, "-", marker=MARKERS[mask], color=COLOURS[mask], ms=4.5, lw=1.4)


def figure(results: Results) -> Figure:
    """Accuracy against rho by geometry: the paper's curves above, ours below."""
    use_style()
    masks = ("all", "only_norm", "no_norm")
    figure, axes = plt.subplots(2, len(SWEPT), figsize=(9.0, 5.6), sharey="row")
    base = results.accuracies(results.cell(BASE))
    floor = max(0.0, base.mean() - 15)
    for column, geometry in enumerate(SWEPT):
        above, below = axes[0, column], axes[1, column]
        for mask in masks:
            _reported_curve(above, geometry, mask)
            _curve(below, results, Method(geometry, mask))
        above.axhline(paper.SGD_LINE.value, color=COLOURS["base"], ls="--", lw=1)
        below.axhline(base.mean(), color=COLOURS["base"], ls="--", lw=1)
        above.set_title(GEOMETRY_NAMES[geometry].replace("ASAM ", "ASAM\n"))
        below.set_xlabel("ρ")
        for ax in (above, below):
            ax.set_xscale("log")
            ax.xaxis.set_minor_locator(NullLocator())
        rhos = sorted({rho for m in masks for rho in results.cell(Method(geometry, m)).grid})
        below.xaxis.set_major_locator(FixedLocator(rhos[:: max(1, len(rhos) // 3)]))
        below.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes[1, 0].set_ylim(bottom=floor)
    axes[0, 0].set_ylabel("reported accuracy, %\nWRN-28-10, CIFAR-100")
    cell = results.cell(BASE)
    model, data = MODEL_NAMES[cell.base.model], cell.base.dataset
    axes[1, 0].set_ylabel(f"our accuracy, %\n{model}, {data}")
    handles = [
        plt.Line2D([], [], color=COLOURS[m], marker=MARKERS[m], label=MASK_NAMES[m]) for m in masks
    ]
    handles.append(plt.Line2D([], [], color=COLOURS["base"], ls="--", label="base optimizer"))
    figure.legend(handles=handles, ncols=4, loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
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
