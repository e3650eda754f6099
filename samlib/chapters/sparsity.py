"""Would any sparse perturbation do? Sparse masks under both radius rules, and channel scales."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from samlib.report import names, paper, tidy
from samlib.report.answers import Answer, all_of
from samlib.report.counting import moved, undone
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
from samlib.report.stats import Comparison, corrected
from samlib.report.text import listed
from samlib.report.wording import points
from samlib.study import plan
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, HEADLINE, ON, SCALES, SPARSE_MASKS, Method

RULES = {"mask": "radius over the mask", "all": "radius over all"}


def _sparse(results: Results) -> list[Cell]:
    """Cells of the sparse masks, by level, mask and radius rule."""
    cells = plan.sparsity(results.profile).cells
    return [cell for cell in cells if cell.method.mask in SPARSE_MASKS]


def _kept(results: Results, cell: Cell) -> float:
    """Share of the coordinates a mask moves, in percent."""
    mask = results.runs(cell)[0]["mask"]
    return 100 * mask["count"] / mask["total"]


def table(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """SAM-ON minus every sparse mask, under both radius rules (claim 8)."""
    base, on = results.cell(BASE), results.cell(ON)
    rows, comparisons = [], []
    for cell in (results.cell(ALL), *_sparse(results)):
        comparisons.append(results.compare(on, cell))
        both = results.together(cell, on)
        rows.append(
            {
                "mask": method_name(results.profile, cell.method),
                "sparsity": {"percent": 100 - _kept(results, cell)},
                "radius over": None if cell.method == ALL else cell.method.radius_over,
                "reported": tidy.reported(_reported(cell.method)),
                "accuracy": tidy.at_rho(results, cell, both[0]),
                "SAM-ON on its seeds": both[1].mean(),
                "minus base": tidy.difference(results.compare(cell, base)),
                "diverged": results.diverged(cell),
            }
        )
    return tidy.judged(rows, "SAM-ON minus it", comparisons), comparisons


def _reported(method: Method) -> paper.Number | None:
    level = {None: 99.95, 0.5: 50.0, 0.9995: 99.95}.get(method.sparsity)
    key = ("all", 0.0) if method == ALL else (method.mask, level)
    return paper.SPARSITY.get(key)


def _behind(results: Results, cell: Cell) -> pd.Series:
    """Accuracy minus SAM-ON's on the same seeds: methods have different numbers of them."""
    return (results.accuracies(cell) - results.accuracies(results.cell(ON))).dropna()


def figure(results: Results) -> Figure:
    """Difference to SAM-ON against the share of coordinates moved, by mask and radius rule."""
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.7), sharey=True)
    cells = _sparse(results)
    for ax, (rule, title) in zip(axes, RULES.items(), strict=True):
        ax.axhline(0, color=COLOURS["only_norm"], lw=1)
        for method in (BASE, ALL):
            mean = _behind(results, results.cell(method)).mean()
            ax.axhline(mean, color=COLOURS[key_of(method)], ls="--", lw=1)
        aside = dict(zip(SPARSE_MASKS, (0.78, 1.0, 1.28), strict=True))  # none covers another
        shown = [
            {
                "key": c.method.mask,
                "kept": aside[c.method.mask] * _kept(results, c),
                "behind": value,
            }
            for c in cells
            if c.method.radius_over == rule
            for value in _behind(results, c)
        ]
        curves(ax, pd.DataFrame(shown), "kept", "behind", errorbar=between)
        at = _kept(results, results.cell(ON))
        ax.plot(at, 0, MARKERS["only_norm"], color=COLOURS["only_norm"], ms=10, zorder=1)
        ax.set_xscale("log")
        ticks = sorted({_kept(results, c) for c in cells})
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_major_formatter(FixedFormatter([f"{t:.2g}" for t in ticks]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(title)
        ax.set_xlabel("coordinates moved, %")
    axes[0].set_ylabel("accuracy minus SAM-ON's, points")
    labels = {key_of(m): method_name(results.profile, m) for m in HEADLINE}
    labels |= {mask: names.MASK_NAMES[mask] for mask in SPARSE_MASKS}
    legend(figure, labels, dashed=("base", "all"))
    return figure


def finding(results: Results) -> str:
    """Whether a random mask does better than the base optimizer, and which masks match SAM-ON."""
    base, on = results.cell(BASE), results.cell(ON)
    random = {rule: results.cell(Method("l2", "random", rule)) for rule in RULES}
    gain = {rule: results.compare(cell, base) for rule, cell in random.items()}
    both = results.together(random["mask"], on, base)
    name = method_name(results.profile, BASE)
    text = (
        f"With a ρ of its own, a random mask of SAM-ON's sparsity is {gain['mask']} points over "
        f"{name} where the radius runs over the mask, and {gain['all']} where it runs over all; "
        f"SAM-ON's gain on the same {len(both)} seeds is {(both[1] - both[2]).mean():+.2f}. "
    )
    compared = [results.compare(on, results.cell(Method("l2", m, "mask"))) for m in SPARSE_MASKS]
    named = (names.MASK_NAMES[mask] for mask in SPARSE_MASKS)
    against = dict(zip(named, corrected(compared), strict=True))
    beaten = [name for name, c in against.items() if c.verdict == "holds"]
    better = [name for name, c in against.items() if c.verdict == "refuted"]
    open_ = [name for name, c in against.items() if c.verdict in ("undecided", "equivalent")]
    parts = []
    if beaten:
        parts.append(f"better than {listed(beaten)}")
    if better:
        parts.append(f"worse than {listed(better)}")
    if open_:
        parts.append(f"not told apart from {listed(open_)}")
    return text + f"At its own sparsity, each tuned over the mask, SAM-ON is {'; '.join(parts)}."


def finding_budget(results: Results) -> str:
    """Which rho SAM-ON would have, had it been chosen as the masks' is."""
    on, mask = results.cell(ON), results.cell(Method("l2", "random", "mask"))
    alike = replace(
        on, grid=results.profile.grids[ON.key], sweep_seeds=mask.sweep_seeds, seeds=mask.seeds
    )
    text = (
        f"SAM-ON's ρ is chosen among {len(on.grid)} values on {on.sweep_seeds} seeds, a sparse "
        f"mask's among {len(mask.grid)} on {mask.sweep_seeds}. "
    )
    if not set(alike.grid) <= set(on.grid):
        return text.strip()
    rho, would = results.rho(on), results.rho(alike)
    if would == rho:
        return text + f"Chosen among as many on as many, SAM-ON's would be the same, {rho:g}."
    change = results.compare(alike, on)
    return text + (
        f"Chosen among as many on as many, SAM-ON's would be {would:g} instead of {rho:g}, which "
        f"changes its accuracy by {points(change)}."
    )


def beyond_sparsity(results: Results) -> Answer:
    """SAM-ON above every sparse mask of its own sparsity whose radius is over the mask."""
    comparisons = [
        results.compare(results.cell(ON), results.cell(Method("l2", mask, "mask")))
        for mask in SPARSE_MASKS
    ]
    return all_of(comparisons, "masks, radius over the mask", strict=True)


# --- every other mask, and channel scales --------------------------------------------------------


def parts(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """SAM-ON against every other mask, and gamma alone against beta, on the seeds both have."""
    rows, comparisons = [], []
    for one, other in (*((ON, mask) for mask in results.profile.masks), plan.PARTS):
        cells = [results.cell(m) for m in (one, other)]
        both = results.together(*cells)
        comparisons.append(results.compare(*cells))
        rows.append(
            {
                "perturbed": method_name(results.profile, one),
                "accuracy": tidy.at_rho(results, cells[0], both[0]),
                "minus": method_name(results.profile, other),
                "its accuracy": tidy.at_rho(results, cells[1], both[1]),
                "diverged": results.diverged(*cells),
            }
        )
    return tidy.judged(rows, "difference", comparisons), comparisons


def _told(comparison: Comparison, name: str) -> str:
    """A comparison with a named method, with its interval."""
    words = {"holds": "better than", "refuted": "worse than", "equivalent": "equivalent to"}
    return f"{words.get(comparison.verdict, 'not told apart from')} {name} ({comparison})"


def finding_parts(results: Results) -> str:
    """Whether gamma or beta alone does what SAM-ON does, and which of them does more."""
    gamma, beta = (method_name(results.profile, m) for m in plan.PARTS)
    *others, between = corrected(parts(results)[1])
    named = zip(results.profile.masks, others, strict=True)
    told = [_told(c, method_name(results.profile, m)) for m, c in named if m in plan.PARTS]
    return f"SAM-ON is {listed(told)}; {gamma} is {_told(between, beta)}."


def scales(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """SAM-ON minus SAM on per-channel scales of the weights (claim 14)."""
    base, on = results.cell(BASE), results.cell(ON)
    rows, comparisons = [], []
    for method in SCALES:
        cell = results.cell(method)
        comparisons.append(results.compare(on, cell))
        rows.append(
            {
                "perturbed": method_name(results.profile, method),
                "numbers moved": moved(base.base, method),
                "accuracy": tidy.at_rho(results, cell),
                "minus base": tidy.difference(results.compare(cell, base)),
                "diverged": results.diverged(cell),
            }
        )
    return tidy.judged(rows, "SAM-ON minus it", comparisons), comparisons


def fixed(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """Every method while gamma and beta are fixed: over the base optimizer, SAM-ON over it."""
    held = {m: results.cell(m.but(**plan.FIXED)) for m in (BASE, ALL, ON, *SCALES)}
    rows, comparisons = [], []
    for method in (ALL, ON, *SCALES):
        cell = held[method]
        comparisons.append(results.compare(cell, held[BASE]))
        ahead = None if method == ON else tidy.difference(results.compare(held[ON], cell))
        rows.append(
            {
                "perturbed": method_name(results.profile, method),
                "accuracy": tidy.at_rho(results, cell),
                "diverged": results.diverged(cell),
                "SAM-ON minus it": ahead,
            }
        )
    return tidy.judged(rows, "minus base", comparisons), comparisons


def figure_scales(results: Results) -> Figure:
    """Difference to SAM-ON of SAM, of its halves gamma and beta, and of channel scales."""
    use_style()
    methods = (ALL, *plan.PARTS, *SCALES)
    behind = {method_name(results.profile, m): _behind(results, results.cell(m)) for m in methods}
    keys = [m.mask if m.geometry == "l2" else m.geometry for m in methods]
    figure, ax = plt.subplots(figsize=(7.6, 0.36 * len(methods) + 1.0))
    draw_points(ax, long(behind, keys), "value", "label")
    ax.axvline(0, color=COLOURS["only_norm"], lw=1)
    ax.set_xlabel("accuracy minus SAM-ON's, points")
    figure.tight_layout()
    return figure


def _beside_scales(results: Results, changes: dict) -> str:
    on = results.cell(ON.but(**changes))
    compared = corrected([results.compare(on, results.cell(m.but(**changes))) for m in SCALES])
    scales = (method_name(results.profile, m) for m in SCALES)
    return listed([_told(c, name) for c, name in zip(compared, scales, strict=True)])


def finding_scales(results: Results) -> str:
    """Whether per-channel scales outside the norm layers do as well."""
    base = results.cell(BASE)
    gained = [str(results.compare(results.cell(m), base)) for m in SCALES]
    return (
        f"Perturbing per-channel scales of the weights, and no normalization layer, gains "
        f"{listed(gained)} points over {method_name(results.profile, BASE)}. SAM-ON is "
        f"{_beside_scales(results, {})}. That the gain is due to normalization layers and not to "
        f"scales: {beyond_scales(results).verdict}."
    )


def finding_fixed(results: Results) -> str:
    """The same while gamma and beta are not trained."""
    return f"With γ and β fixed, SAM-ON is {_beside_scales(results, plan.FIXED)}."


def finding_moved(results: Results) -> str:
    """How many of the output scales batch norm undoes, beside the number of gammas."""
    base = results.cell(BASE).base
    felt, lost = moved(base, SCALES[0]), undone(base)
    return (
        f"Of {felt + lost:,} output scales {lost:,} are in front of batch norm. The other {felt:,} "
        f"move, and {moved(base, SCALES[1]):,} input scales, beside "
        f"{moved(base, plan.PARTS[0]):,} γ and as many β."
    )


def beyond_scales(results: Results) -> Answer:
    """SAM-ON above SAM on the scales of outputs and of inputs, each (claim 14)."""
    return all_of(scales(results)[1], "kinds of scales", strict=True)


TABLES = {
    "sparsity": lambda results: table(results)[0],
    "masks": lambda results: parts(results)[0],
    "scales": lambda results: scales(results)[0],
    "scales_fixed": lambda results: fixed(results)[0],
}
DECIDES = {8: beyond_sparsity, 14: beyond_scales}
