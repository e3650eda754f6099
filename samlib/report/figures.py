"""What the figures of the study share: one look, every seed a point, one colour per mask."""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FormatStrFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from samlib.report.stats import Comparison, interval
from samlib.study.methods import SCALES, SWEPT, Method
from samlib.trainer.config import NO_PERTURBATION

# Okabe and Ito's palette, told apart with any colour vision; markers say the same once more.
COLOURS = defaultdict(lambda: "#000000") | {
    "base": "#666666",
    "pooled": "#000000",
    "all": "#0072B2",
    "only_norm": "#D55E00",
    "no_norm": "#009E73",
    "random": "#CC79A7",
    "fisher": "#56B4E9",
    "dynamic": "#E69F00",
    "only_gamma": "#B8860B",
    "only_beta": "#8B4513",
    "output_scales": "#4B0082",
    "input_scales": "#2F4F4F",
    "blocks_1": "#7F7F00",
    "blocks_2": "#CC6677",
    "blocks_3": "#882255",
    "blocks_23": "#117733",
}
MARKERS = defaultdict(lambda: "*") | {
    "base": "s",
    "pooled": "s",
    "all": "o",
    "only_norm": "D",
    "no_norm": "^",
    "random": "v",
    "fisher": "P",
    "dynamic": "X",
    "only_gamma": ">",
    "only_beta": "<",
    "output_scales": "h",
    "input_scales": "p",
    "blocks_1": "d",
    "blocks_2": "v",
    "blocks_3": "^",
    "blocks_23": "X",
}
GEOMETRY_COLOURS = dict(zip(SWEPT, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))


def use_style() -> None:
    """Type and lines for the book's width; figures stand on a light card in both schemes.

    Whatever an environment variable or an rc file says of backend and style: a notebook shows its
    figures, and equal figures are equal files.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if hasattr(shell, "kernel"):
        shell.run_line_magic("matplotlib", "inline")
    plt.rcdefaults()
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


def key_of(method: Method) -> str:
    """Entry of `COLOURS` and `MARKERS`: the base optimizer, scales of weights, or the mask."""
    if method.geometry == NO_PERTURBATION:
        return "base"
    return method.geometry if method in SCALES else method.mask


def between(values: pd.Series) -> tuple[float, float]:
    """The ends of the 95 % t-interval, for seaborn's `errorbar`."""
    return interval(values)[1:]


def draw_points(ax: Axes, table: pd.DataFrame, x: str, y: str, *, jitter: float = 0.0) -> None:
    """A point per seed, and on the points their mean with its 95 % interval.

    Args:
        ax: where to draw.
        table: a row per point; its column `key` is an entry of `COLOURS` and `MARKERS`.
        x, y: names of two columns, of which one holds labels, a column or row of points each.
        jitter: how far points stand from their column's middle; the same at every drawing.
    """
    keys = list(dict.fromkeys(table["key"]))
    look = {"x": x, "y": y, "hue": "key", "palette": {key: COLOURS[key] for key in keys}}
    state = np.random.get_state()
    np.random.seed(0)
    sns.stripplot(table, **look, ax=ax, jitter=jitter, size=4, alpha=0.4, legend=False)
    np.random.set_state(state)
    sns.pointplot(
        table,
        **look,
        ax=ax,
        errorbar=between,
        linestyle="none",
        markers=[MARKERS[key] for key in keys],
        markersize=8,
        zorder=3,
        markeredgecolor="white",
        markeredgewidth=0.8,
        err_kws={"linewidth": 2},
        legend=False,
    )
    ax.set(xlabel="", ylabel="")


def draw_intervals(ax: Axes, found: Mapping[str, Comparison]) -> None:
    """A comparison per row, the first on top: its mean and its 95 % interval, beside zero."""
    for row, c in enumerate(found.values()):
        ends = [[c.mean - c.low], [c.high - c.mean]]
        look = {"fmt": MARKERS["only_norm"], "color": COLOURS["only_norm"], "mec": "white"}
        ax.errorbar(c.mean, row, xerr=ends, ms=7, elinewidth=2, **look)
    ax.axvline(0, color="#444444", lw=0.8)
    ax.locator_params(axis="x", nbins=6)
    ax.set_yticks(range(len(found)), labels=list(found))
    ax.set_ylim(len(found) - 0.5, -0.5)


def long(columns: dict[str, Sequence[float]], keys: Sequence[str]) -> pd.DataFrame:
    """A row per value for `draw_points`, by label, with each label's key."""
    found = [
        {"label": label, "value": value, "key": key}
        for (label, values), key in zip(columns.items(), keys, strict=True)
        for value in values
    ]
    return pd.DataFrame(found, columns=["label", "value", "key"])


def curves(ax: Axes, table: pd.DataFrame, x: str, y: str, *, errorbar=None) -> None:
    """A point per seed, and a line through their means, for every `key` of the table."""
    keys = list(dict.fromkeys(table["key"]))
    look = {"x": x, "y": y, "hue": "key", "style": "key", "legend": False, "ax": ax}
    look |= {"palette": {k: COLOURS[k] for k in keys}, "markers": {k: MARKERS[k] for k in keys}}
    sns.scatterplot(table, **look, s=14, alpha=0.4, linewidth=0)
    bars = {"errorbar": errorbar, "err_style": "bars", "err_kws": {"elinewidth": 1.2}}
    sns.lineplot(table, **look, **bars, dashes=False, markersize=6)
    ax.set(xlabel="", ylabel="")


def legend(figure: Figure, labels: dict[str, str], *, dashed: Sequence[str] = ("base",)) -> None:
    """One legend under all panels: label by key, dashed lines without a marker for some."""
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[key],
            marker="" if key in dashed else MARKERS[key],
            ls="--" if key in dashed else "-",
            label=label,
        )
        for key, label in labels.items()
    ]
    figure.legend(handles=handles, ncols=len(labels), loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, 0.28 / figure.get_figheight(), 1, 1))


_BETWEEN_NAMES = 0.055  # of the axes' height


def name_points(ax: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Name points in a column at the right of the axes, in the order of their heights.

    Args:
        ax: with its final limits and scales.
        points: x, y, name and colour of each.
    """
    to_axes = ax.transData + ax.transAxes.inverted()
    ordered = sorted(points, key=lambda point: point[1])
    heights = [to_axes.transform(point[:2])[1] for point in ordered]
    for i in range(1, len(heights)):  # up, then as a whole back to where the points are
        heights[i] = max(heights[i], heights[i - 1] + _BETWEEN_NAMES)
    over = max(0.0, max(heights, default=0.0) - 1.0)
    for i in reversed(range(len(heights))):
        top = heights[i + 1] - _BETWEEN_NAMES if i + 1 < len(heights) else heights[i] - over
        heights[i] = min(heights[i], top)
    line = {"arrowstyle": "-", "lw": 0.5, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 4}
    for (x, y, name, colour), height in zip(ordered, heights, strict=True):
        ax.annotate(
            name,
            (x, y),
            (1.03, height),
            textcoords="axes fraction",
            fontsize=8,
            va="center",
            arrowprops=line | {"color": colour},
        )


def rho_axis(ax: Axes, rhos: Sequence[float]) -> None:
    """A logarithmic axis of rho with three of its values as ticks: the ends and the middle."""
    ax.set_xscale("log")
    ticks = sorted(rhos)
    ax.xaxis.set_major_locator(FixedLocator([ticks[0], ticks[len(ticks) // 2], ticks[-1]]))
    ax.xaxis.set_major_formatter(FormatStrFormatter("%.2g"))
    ax.xaxis.set_minor_locator(NullLocator())


def plain_ticks(axis: Axis) -> None:
    """A logarithmic axis of less than two decades gets a few round numbers, not powers of ten.

    Args:
        axis: x or y axis, with its final limits and its logarithmic scale.
    """
    low, high = sorted(axis.get_view_interval())
    if high < 100 * low:
        few = MaxNLocator(3, steps=[1, 2, 5, 10])
        axis.set_major_locator(few if high < 10 * low else LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_locator(NullLocator())
