"""Who carries the perturbation: its share on norm layers, and what leaving them out costs."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from samlib.report import paper, tidy
from samlib.report.answers import NOT_ANSWERED, Answer, each_of
from samlib.report.figures import GEOMETRY_COLOURS, use_style
from samlib.report.names import GEOMETRY_NAMES
from samlib.report.results import Results
from samlib.report.stats import SEEN, Comparison, corrected
from samlib.report.text import listed, number
from samlib.report.wording import points
from samlib.study.methods import SWEPT, Method


def costs(results: Results) -> dict[str, Comparison]:
    """All minus no norm, by geometry, of those that have been run without the norm layers."""
    pairs = {g: [Method(g, mask) for mask in ("all", "no_norm")] for g in SWEPT}
    return {
        g: results.compare(*map(results.cell, pair))
        for g, pair in pairs.items()
        if all(map(results.ran, pair))
    }


def share_over_time(results: Results) -> pd.DataFrame:
    """Share of ||eps||² on norm layers by geometry, seed and epoch, all parameters perturbed.

    NaN at an epoch in which a run diverged.
    """
    rows = [
        {"geometry": g, "seed": r["config"]["seed"], "epoch": e, "share": _percent(share)}
        for g in SWEPT
        if results.ran(Method(g, "all"))
        for r in results.runs(results.cell(Method(g, "all")))
        for e, share in enumerate(r["curves"]["norm_share"])
    ]
    return pd.DataFrame(rows)


def _percent(share: float | None) -> float:
    return math.nan if share is None else 100 * share


def shares(results: Results) -> dict[str, float]:
    """Mean share on norm layers in percent, by geometry; NaN where every run diverged at once."""
    return share_over_time(results).groupby("geometry")["share"].mean().to_dict()


def without_norm(results: Results) -> pd.DataFrame:
    """All minus no norm, and the share of the perturbation on norm layers (claim 4)."""
    found, on_norm = costs(results), shares(results)
    rows = []
    for geometry in found:
        everything, without = (results.cell(Method(geometry, m)) for m in ("all", "no_norm"))
        both = results.together(everything, without)
        rows.append(
            {
                "variant": GEOMETRY_NAMES[geometry],
                "predicted share": {"percent": 100 * paper.SHARE_AT_START[geometry]},
                "share on norm layers": {"percent": on_norm[geometry]},
                "reported all − no norm": paper.best_gap(geometry, "all", "no_norm"),
                "all": tidy.at_rho(results, everything, both[0]),
                "no norm": tidy.at_rho(results, without, both[1]),
            }
        )
    return tidy.judged(rows, "all − no norm", list(found.values()), results.profile.where)


def _order(values: dict[str, float]) -> str:
    """Variants from the largest value to the smallest."""
    return ", ".join(GEOMETRY_NAMES[g] for g in sorted(values, key=values.get, reverse=True))


def finding_prediction(results: Results) -> str:
    """Whether the shares came out as predicted, and the costs in the order of the shares."""
    on_norm = {g: share for g, share in shares(results).items() if not math.isnan(share)}
    found = {g: c for g, c in costs(results).items() if g in on_norm}
    if len(on_norm) < 2:
        return "Fewer than two variants have a share, so that no order can be checked."
    predicted = {g: paper.SHARE_AT_START[g] for g in on_norm}
    same = _order(on_norm) == _order(predicted)
    text = f"The order of the shares is {'as' if same else 'not as'} predicted: {_order(on_norm)}."
    if len(found) < 3:
        return text
    rank = spearmanr([on_norm[g] for g in found], [c.mean for c in found.values()]).statistic
    authors = [paper.best_gap(g, "all", "no_norm") for g in found]
    theirs = spearmanr([predicted[g] for g in found], authors).statistic
    seen = sum(c.seen == SEEN for c in corrected(list(found.values())))
    return (
        f"{text} The costs of leaving the layers out have a rank correlation of "
        f"{number(rank, '.1f')} with "
        f"the shares (the authors' costs with the predicted shares: {number(theirs, '.1f')}). "
        f"{seen or 'None'} of the {len(found)} costs {'is' if seen < 2 else 'are'} seen."
    )


def figure(results: Results) -> Figure:
    """Left, the share on norm layers along training; right, the cost of leaving them out."""
    use_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4), width_ratios=[3, 2])
    _along_training(left, share_over_time(results))
    on_norm = shares(results)
    for geometry, c in costs(results).items():
        colour, x = GEOMETRY_COLOURS[geometry], on_norm[geometry]
        right.plot([x, x], [c.low, c.high], color=colour, lw=2)
        right.plot(x, c.mean, "o", color=colour, ms=8, mec="white")
        right.plot(
            100 * paper.SHARE_AT_START[geometry],
            paper.best_gap(geometry, "all", "no_norm"),
            "x",
            color=colour,
        )
    right.axhline(0, color="#444444", lw=0.8)
    right.set_xlim(-5, 105)
    right.set_xlabel("‖ε‖² on norm layers, %")
    right.set_title("all − no norm, points (×: reported)")
    figure.tight_layout()
    return figure


def _along_training(ax: Axes, table: pd.DataFrame) -> None:
    look = {"x": "epoch", "y": "share", "hue": "geometry", "palette": GEOMETRY_COLOURS}
    sns.lineplot(
        table, **look, units="seed", estimator=None, ax=ax, alpha=0.2, lw=0.8, legend=False
    )
    sns.lineplot(table, **look, errorbar=None, ax=ax, lw=2)
    handles, keys = ax.get_legend_handles_labels()
    names = [GEOMETRY_NAMES[key] for key in keys]
    between = {"loc": "center", "bbox_to_anchor": (0.5, 0.64)}  # the curves
    ax.legend(handles, names, frameon=False, fontsize="small", **between)
    ax.set(ylim=(0, 102), ylabel="", title="‖ε‖² on norm layers, %")


def finding(results: Results) -> str:
    """Whether leaving norm layers out costs what their share predicts."""
    found = costs(results)
    together = dict(zip(found, corrected(list(found.values())), strict=True))
    harmed = [GEOMETRY_NAMES[g] for g, c in together.items() if c.seen == SEEN]
    text = f"costs {listed(harmed)} accuracy" if harmed else "is not shown to cost accuracy"
    return f"Leaving the normalization layers out {text}."


def omitting_harms(results: Results) -> Answer:
    """All minus no norm, where the norm layers carry most of what is run (claim 4)."""
    headline, known = results.profile.headline, results.profile.has
    planned = [g for g in SWEPT if known(headline, Method(g, "no_norm"))]
    geometry = max(planned, key=paper.SHARE_AT_START.get, default=None)
    found = costs(results).get(geometry)  # of another variant it would be another claim
    if found is None:
        return NOT_ANSWERED
    share = number(shares(results)[geometry], ".1f")
    return each_of([found], f"{points(found)}, {GEOMETRY_NAMES[geometry]} ({share} % on them)")


TABLES = {"without_norm": without_norm}
DECIDES = {"4": omitting_harms}
