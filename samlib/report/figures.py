"""What the figures of the study share: one look, every seed a point, one colour per mask."""

from collections import defaultdict
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from samlib.report.stats import interval
from samlib.study.methods import BASE, SWEPT, Method

# Okabe and Ito's palette, told apart with any colour vision; markers say the same once more.
COLOURS = defaultdict(lambda: "#000000") | {
    "base": "#666666",
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


def key_of(method: Method) -> str:
    """Entry of `COLOURS` and `MARKERS`: the base optimizer, or the mask."""
    return "base" if method == BASE else method.mask


def points(ax: Axes, x: float, values: pd.Series, key: str, width: float = 0.18) -> None:
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


def rows(ax: Axes, labels: Sequence[str], columns: Sequence[Sequence[float]], keys: Sequence[str]):
    """One row per label: a point per value, mean and 95 % interval on them, the first on top."""
    for y, (values, key) in enumerate(zip(columns, keys, strict=True)):
        ax.scatter(
            values, [y] * len(values), s=16, marker=MARKERS[key], color=COLOURS[key], alpha=0.45
        )
        mean, low, high = interval(values)
        if np.isfinite(low):
            ax.plot([low, high], [y, y], color=COLOURS[key], lw=2)
        ax.plot(mean, y, MARKERS[key], color=COLOURS[key], ms=8, mec="white")
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
