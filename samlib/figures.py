"""The figures of the study: one message each, every seed a point, one colour per mask."""

from collections import defaultdict

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from . import reported, study
from .names import GEOMETRY_NAMES, MASK_NAMES, MODEL_NAMES, method_name
from .results import Results
from .stats import interval
from .study import BASE, SWEPT, Method
from .tables import share_over_time

# Okabe and Ito's palette, told apart with any colour vision; markers say the same once more.
COLOURS = defaultdict(lambda: "#000000") | {
    "base": "#666666",
    "all": "#0072B2",
    "only_norm": "#D55E00",
    "no_norm": "#009E73",
    "random": "#CC79A7",
    "fisher": "#56B4E9",
    "dynamic": "#E69F00",
}
MARKERS = defaultdict(lambda: "*") | {
    "base": "s",
    "all": "o",
    "only_norm": "D",
    "no_norm": "^",
    "random": "v",
    "fisher": "P",
    "dynamic": "X",
}
_GEOMETRY_COLOURS = dict(zip(SWEPT, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))


def use_style() -> None:
    """Type and lines for the book's width; figures stand on a light card in both schemes."""
    sns.set_theme(style="ticks", font_scale=0.95)
    plt.rcParams |= {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": 110,
        "savefig.dpi": 160,
        "svg.hashsalt": "samlib",  # equal figures are equal files
        "axes.titlelocation": "left",
        "axes.titlesize": "medium",
    }


def _key(method: Method) -> str:
    return "base" if method == BASE else method.mask


def _points(ax: Axes, x: float, values: pd.Series, key: str, width: float = 0.18) -> None:
    """One column: a point per seed, mean and 95 % interval beside them."""
    offsets = np.linspace(-width, width, len(values)) if len(values) > 1 else [0.0]
    ax.scatter(
        x + np.asarray(offsets),
        values,
        s=22,
        marker=MARKERS[key],
        color=COLOURS[key],
        alpha=0.55,
        linewidths=0,
    )
    mean, low, high = interval(values)
    if np.isfinite(low):
        ax.plot([x + 0.3, x + 0.3], [low, high], color=COLOURS[key], lw=2)
    ax.plot(x + 0.3, mean, MARKERS[key], color=COLOURS[key], ms=7, mec="white")


def headline(results: Results) -> Figure:
    """Test accuracy of base optimizer, SAM and SAM-ON, and the paired differences."""
    use_style()
    cells = study.introduction(results.profile)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.3), width_ratios=[3, 2])
    for x, cell in enumerate(cells):
        _points(left, x, results.accuracies(cell), _key(cell.method))
    labels = []
    for cell in cells:
        rho = "" if cell.method == BASE else f"\nρ = {results.rho(cell):g}"
        labels.append(method_name(results.profile, cell.method) + rho)
    left.set_xticks(range(len(cells)), labels)
    left.set_xlim(-0.5, len(cells) - 0.3)
    left.set_ylabel("test accuracy, %")
    model = MODEL_NAMES[cells[0].base.model]
    left.set_title(f"{model}, {cells[0].base.dataset}, {cells[0].seeds} seeds")
    base, everything, on = (results.accuracies(cell) for cell in cells)
    pairs = [("SAM\n− base", everything - base, "all"), ("SAM-ON\n− SAM", on - everything, None)]
    for x, (_, difference, key) in enumerate(pairs):
        _points(right, x, difference, key or "only_norm")
    right.axhline(0, color="#444444", lw=0.8)
    right.set_xticks(range(len(pairs)), [label for label, _, _ in pairs])
    right.set_xlim(-0.5, len(pairs) - 0.3)
    right.set_ylabel("paired difference, points")
    right.set_title("same seed, same data")
    figure.tight_layout()
    return figure


def _curve(ax: Axes, results: Results, method: Method) -> None:
    cell = results.cell(method)
    rhos = sorted(cell.grid)
    key = _key(method)
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
    curve = reported.RHO_SWEEP[geometry, mask]
    rhos = sorted(curve)
    values = [curve[rho] for rho in rhos]
    ax.plot(rhos, values, "-", marker=MARKERS[mask], color=COLOURS[mask], ms=4.5, lw=1.4)


def rho_sweep(results: Results) -> Figure:
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
        above.axhline(reported.SGD_LINE.value, color=COLOURS["base"], ls="--", lw=1)
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


def variants(results: Results) -> Figure:
    """Only-norm minus all by variant and family, a point per seed, with interval."""
    use_style()
    families, geometries = results.profile.families, results.profile.geometries
    figure, axes = plt.subplots(
        1, len(families), figsize=(8.6, 0.42 * len(geometries) + 1.5), sharey=True, sharex=True
    )
    for ax, family in zip(np.atleast_1d(axes), families, strict=True):
        for y, geometry in enumerate(geometries):
            on, everything = (
                results.accuracies(results.cell(Method(geometry, mask), family))
                for mask in ("only_norm", "all")
            )
            difference = on - everything
            mean, low, high = interval(difference)
            ax.scatter(
                difference, [y - 0.25] * len(difference), s=14, color="#888888", linewidths=0
            )
            if np.isfinite(low):
                ax.plot([low, high], [y, y], color=COLOURS["only_norm"], lw=2)
            ax.plot(mean, y, MARKERS["only_norm"], color=COLOURS["only_norm"], ms=7, mec="white")
        ax.axvline(0, color="#444444", lw=0.8)
        ax.set_title(MODEL_NAMES[results.profile.bases[family].model])
        ax.set_xlabel("only norm − all, points")
    first = np.atleast_1d(axes)[0]
    first.set_yticks(range(len(geometries)), [GEOMETRY_NAMES[g] for g in geometries])
    first.invert_yaxis()
    figure.tight_layout()
    return figure


def sparsity(results: Results) -> Figure:
    """Accuracy of every sparse mask beside SAM and SAM-ON, by radius rule."""
    use_style()
    cells = study.sparsity(results.profile)
    figure, ax = plt.subplots(figsize=(8.8, 0.36 * len(cells) + 1.2))
    for y, cell in enumerate(cells):
        key, values = _key(cell.method), results.accuracies(cell)
        ax.scatter(
            values, [y] * len(values), s=16, marker=MARKERS[key], color=COLOURS[key], alpha=0.45
        )
        mean, low, high = interval(values)
        if np.isfinite(low):
            ax.plot([low, high], [y, y], color=COLOURS[key], lw=2)
        ax.plot(mean, y, MARKERS[key], color=COLOURS[key], ms=8, mec="white")
    ax.set_yticks(range(len(cells)), [_sparse_label(results, cell.method) for cell in cells])
    ax.invert_yaxis()
    ax.set_xlabel("test accuracy at the chosen ρ, %")
    figure.tight_layout()
    return figure


def _sparse_label(results: Results, method: Method) -> str:
    if method.mask not in study.SPARSE_MASKS:
        return method_name(results.profile, method)
    level = "norm layers' sparsity" if method.sparsity is None else f"{100 * method.sparsity:g} %"
    return f"{method_name(results.profile, method)}, {level}, radius over {method.radius_over}"


def norm_share(results: Results) -> Figure:
    """Share of the full perturbation that falls on norm layers, along training."""
    use_style()
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    table = share_over_time(results)
    ends = {}
    for geometry in SWEPT:
        rows = table[table["variant"] == GEOMETRY_NAMES[geometry]]
        mean = rows.groupby("epoch")["share"].mean()
        colour = _GEOMETRY_COLOURS[geometry]
        for _, run in rows.groupby("seed"):
            ax.plot(run["epoch"], 100 * run["share"], color=colour, alpha=0.25, lw=0.8)
        ax.plot(mean.index, 100 * mean, color=colour, lw=2)
        ends[geometry] = 100 * mean.iloc[-1]
    lowest = -3.0
    for geometry in sorted(ends, key=ends.get):  # labels at the curves' ends, none on another
        lowest = max(ends[geometry], lowest + 7)
        label, colour = GEOMETRY_NAMES[geometry], _GEOMETRY_COLOURS[geometry]
        ax.text(table["epoch"].max() * 1.02 + 0.1, lowest, label, color=colour, va="center")
    ax.set_xlim(right=table["epoch"].max() * 1.4 + 1)
    ax.set_ylim(0, 102)
    ax.set_xlabel("epoch")
    ax.set_ylabel("‖ε‖² on norm layers, %")
    figure.tight_layout()
    return figure
