"""Accuracy against rho: where the optimum lies for each mask, and how wide it is."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samlib.report import paper, tidy
from samlib.report.answers import DESCRIBED, NOT_ANSWERED, Answer
from samlib.report.figures import COLOURS, curves, legend, rho_axis, use_style
from samlib.report.names import GEOMETRY_NAMES, MASK_NAMES, headline_name
from samlib.report.results import Results
from samlib.report.stats import NOT_RUN
from samlib.report.text import listed, number
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, CURVES, ON, SWEPT, Method


def swept(results: Results) -> list[str]:
    """The geometries of the paper's figure that are tuned on both masks."""
    pairs = {g: [Method(g, mask) for mask in ("all", "only_norm")] for g in SWEPT}
    return [g for g, methods in pairs.items() if all(map(results.tuned, methods))]


def _drawn(results: Results, geometry: str) -> dict[str, Cell]:
    """The cells of a geometry's curves by mask."""
    methods = {mask: Method(geometry, mask) for mask in CURVES}
    return {k: results.cell(m) for k, m in methods.items() if results.tuned(m)}


def ratio(results: Results, geometry: str) -> float:
    """The chosen rho of only-norm over that of all."""
    on, everything = (results.cell(Method(geometry, m)) for m in ("only_norm", "all"))
    return results.rho(on) / results.rho(everything)


def rho_shift(results: Results) -> pd.DataFrame:
    """Chosen rho of all and only-norm, their ratio, and the windows that work (claim 7)."""
    rows, base = [], base_on_tuning_seeds(results)
    for geometry in swept(results):
        everything, on = (results.cell(Method(geometry, m)) for m in ("all", "only_norm"))
        rows.append(
            {
                "variant": GEOMETRY_NAMES[geometry],
                "ρ all": tidy.rho(results, everything),
                "ρ only norm": tidy.rho(results, on),
                "ratio": ratio(results, geometry),
                "reported ratio": paper.rho_ratio(geometry),
                "window all": NOT_RUN if math.isnan(base) else window(results, everything),
                "window only norm": NOT_RUN if math.isnan(base) else window(results, on),
            }
        )
    return tidy.table(rows)


def window(results: Results, cell: Cell) -> dict[str, float]:
    """From which to which searched rho mean test accuracy is above the base optimizer's.

    Around the chosen one, all over the tuning seeds; NaN where it is not above at the chosen one.
    """
    base, chosen, good = base_on_tuning_seeds(results), results.rho(cell), []
    for rho in results.searched(cell):
        if results.accuracies(cell, rho).mean() > base:
            good.append(rho)
        elif rho < chosen:
            good = []
        else:
            break
    good = good if chosen in good else []
    return {"from": min(good, default=math.nan), "to": max(good, default=math.nan)}


def base_on_tuning_seeds(results: Results) -> float:
    """Mean test accuracy of the base optimizer on the seeds that tune; NaN without these runs."""
    cell = results.cell(BASE)
    runs = [cell.base.replace(seed=seed) for seed in results.cell(ALL).tuning]
    found = [results.records.get(run.run_id, {}).get("test_accuracy", math.nan) for run in runs]
    return sum(found) / len(found)


def is_it_rho(results: Results) -> pd.DataFrame:
    """SAM-ON at its chosen rho minus SAM at every rho that was searched, over the tuning seeds."""
    on, everything = results.cell(ON), results.cell(ALL)
    best = results.accuracies(on, results.rho(on))
    rows = []
    for rho in results.searched(everything):
        values = results.accuracies(everything, rho)
        at = {"rho": rho, "at_edge": False}
        behind = float((best - values).mean())
        row = {"SAM at ρ": at, "test accuracy": values.mean(), "SAM-ON minus it": behind}
        rows.append(row | {"chosen": "chosen" if rho == results.rho(everything) else ""})
    return tidy.table(rows)


def _ours(results: Results, geometry: str) -> pd.DataFrame:
    """Accuracy of every tuning run of a geometry, by mask and rho."""
    rows = [
        {"key": mask, "rho": rho, "accuracy": accuracy}
        for mask, cell in _drawn(results, geometry).items()
        for rho in results.searched(cell)
        for accuracy in results.accuracies(cell, rho)
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
    for mask, cell in _drawn(results, geometry).items():
        chosen = results.rho(cell)
        at = chosen, results.accuracies(cell, chosen).mean()
        ax.plot(*at, "o", ms=12, mfc="none", mec=COLOURS[mask], mew=1.4, clip_on=False)


def figure(results: Results) -> Figure:
    """Accuracy against rho by geometry: the paper's curves above, ours below."""
    use_style()
    geometries = swept(results)
    size = (0.6 + max(4.8, 2.1 * len(geometries)), 5.6)
    shared = {"figsize": size, "sharex": "col", "sharey": "row"}
    figure, axes = plt.subplots(2, len(geometries), **shared, squeeze=False)
    base = base_on_tuning_seeds(results)
    for column, geometry in enumerate(geometries):
        above, below = axes[0, column], axes[1, column]
        ours = _ours(results, geometry)
        curves(above, _theirs(geometry), "rho", "accuracy")
        curves(below, ours, "rho", "accuracy")
        _mark_chosen(below, results, geometry)
        above.axhline(paper.SGD_LINE.value, color=COLOURS["base"], ls="--", lw=1)
        if not math.isnan(base):
            below.axhline(base, color=COLOURS["base"], ls="--", lw=1)
        above.set_title(GEOMETRY_NAMES[geometry].replace("ASAM ", "ASAM\n"))
        rho_axis(below, ours["rho"].unique())
        below.set_xlabel("ρ")
    lowest = results.accuracies(results.cell(BASE)).mean()
    axes[1, 0].set_ylim(bottom=max(axes[1, 0].get_ylim()[0], lowest - _span(results, lowest)))
    axes[0, 0].set_ylabel("reported accuracy, %\nWRN-28-10, CIFAR-100")
    axes[1, 0].set_ylabel(f"our accuracy, %\n{headline_name(results.profile)}")
    legend(figure, {mask: MASK_NAMES[mask] for mask in CURVES} | {"base": "base optimizer"})
    return figure


def _span(results: Results, base: float) -> float:
    """How far below the base optimizer the figure goes: a little more than the gains above it."""
    best = max(
        results.accuracies(cell, results.rho(cell)).mean()
        for geometry in swept(results)
        for cell in _drawn(results, geometry).values()
    )
    return max(2.0, 1.2 * (best - base))


def _ratios(results: Results) -> str:
    found = (f"{number(ratio(results, g), '.2g')} × ({GEOMETRY_NAMES[g]})" for g in swept(results))
    return listed(list(found))


def finding(results: Results) -> str:
    """The ratio of the chosen radii."""
    return (
        f"The chosen ρ of the only-norm mask over that of all parameters: {_ratios(results)}, "
        f"{how_chosen(results)}. No test is made of it."
    )


def how_chosen(results: Results) -> str:
    """By how many seeds, and on which steps, every rho is chosen."""
    seeds = len(results.cell(ON).tuning)
    finer = ", and of √2 beside the best" if results.profile.refine else ""
    return f"each ρ chosen by {seeds} seed{'s' * (seeds > 1)} on a ladder with steps of 2{finer}"


def finding_is_it_rho(results: Results) -> str:
    """What SAM loses at the rho that the authors take from the literature, where that was tried."""
    found = is_it_rho(results)
    best = found["SAM-ON minus it"][found["chosen"] == "chosen"].iloc[0]
    said = (
        f"Over the tuning seeds SAM-ON minus SAM at the ρ chosen for SAM is "
        f"{number(best, '+.2f')} points"
    )
    usual = found["SAM-ON minus it"][found["SAM at ρ", "rho"] == paper.SAM_RHO]
    if usual.empty:
        return f"{said}."
    least = number(usual.iloc[0], "+.2f")
    return f"{said}, and minus SAM at the literature's ρ = {paper.SAM_RHO:g} {least}."


def larger(results: Results) -> Answer:
    """The chosen rho of SAM-ON over SAM's, every variant (claim 7): described, not tested."""
    if not swept(results):
        return NOT_ANSWERED
    return Answer(DESCRIBED, _ratios(results), seeds=len(results.cell(ON).tuning))


TABLES = {"rho_shift": rho_shift, "is_it_rho": is_it_rho}
DECIDES = {"7": larger}
