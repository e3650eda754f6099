"""Who carries the perturbation: its share on norm layers, and what leaving them out costs."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from samlib.report import names, paper, tidy
from samlib.report.answers import Answer, single
from samlib.report.figures import GEOMETRY_COLOURS, use_style
from samlib.report.names import GEOMETRY_NAMES
from samlib.report.results import Results
from samlib.report.stats import Comparison, corrected
from samlib.report.text import number
from samlib.report.wording import points
from samlib.study.methods import SWEPT, Method


def without_norm(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """All minus no-norm, and the share of the perturbation on norm layers (claim 4)."""
    rows, comparisons = [], []
    for geometry in SWEPT:
        everything = results.cell(Method(geometry, "all"))
        without = results.cell(Method(geometry, "no_norm"))
        comparisons.append(results.compare(everything, without))
        records = results.runs(everything)
        shares = [s for r in records for s in r["curves"]["norm_share"] if s is not None]
        both = results.together(everything, without)
        rows.append(
            {
                "variant": GEOMETRY_NAMES[geometry],
                "predicted share": {"percent": 100 * paper.SHARE_AT_START[geometry]},
                "share on norm layers": {"percent": 100 * pd.Series(shares).mean()},
                "reported all − no norm": paper.best_gap(geometry, "all", "no_norm"),
                "all": tidy.spread(both[0]),
                "no norm": tidy.at_rho(results, without, both[1]),
            }
        )
    return tidy.judged(rows, "difference", comparisons), comparisons


def _order(values: dict[str, float]) -> str:
    """Variants from the largest value to the smallest."""
    return ", ".join(names.GEOMETRY_NAMES[g] for g in sorted(values, key=values.get, reverse=True))


def finding_prediction(results: Results) -> str:
    """Whether the shares came out as predicted, and the costs in the order of the shares."""
    comparisons = dict(zip(SWEPT, corrected(without_norm(results)[1]), strict=True))
    table = share_over_time(results).groupby("variant")["share"].mean()
    shares = {g: float(table[GEOMETRY_NAMES[g]]) for g in SWEPT}
    costs = {g: c.mean for g, c in comparisons.items()}
    same = _order(shares) == _order(paper.SHARE_AT_START)
    rank = spearmanr([shares[g] for g in SWEPT], [costs[g] for g in SWEPT]).statistic
    authors = [paper.best_gap(g, "all", "no_norm") for g in SWEPT]
    theirs = spearmanr([paper.SHARE_AT_START[g] for g in SWEPT], authors).statistic
    shown = [g for g, c in comparisons.items() if c.verdict == "holds"]
    return (
        f"The order of the shares is {'as' if same else 'not as'} predicted: {_order(shares)}. "
        f"The mean costs of leaving the layers out have a rank correlation of {rank:.1f} with the "
        f"shares (the authors' costs with the predicted shares: {theirs:.1f}); of the four costs "
        f"{len(shown) or 'none'} {'is' if len(shown) < 2 else 'are'} shown to be above zero."
    )


def share_over_time(results: Results) -> pd.DataFrame:
    """Share of ||eps||² on norm layers by geometry, seed and epoch, all parameters perturbed."""
    rows = [
        {"variant": GEOMETRY_NAMES[g], "seed": r["config"]["seed"], "epoch": e, "share": share}
        for g in SWEPT
        for r in results.runs(results.cell(Method(g, "all")))
        for e, share in enumerate(r["curves"]["norm_share"])
        if share is not None
    ]
    return pd.DataFrame(rows)


def figure(results: Results) -> Figure:
    """Share of the full perturbation that falls on norm layers, along training."""
    use_style()
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    table = share_over_time(results)
    ends = {}
    for geometry in SWEPT:
        rows = table[table["variant"] == GEOMETRY_NAMES[geometry]]
        mean = rows.groupby("epoch")["share"].mean()
        colour = GEOMETRY_COLOURS[geometry]
        for _, run in rows.groupby("seed"):
            ax.plot(run["epoch"], 100 * run["share"], color=colour, alpha=0.25, lw=0.8)
        ax.plot(mean.index, 100 * mean, color=colour, lw=2)
        ends[geometry] = 100 * mean.iloc[-1]
    lowest = -3.0
    for geometry in sorted(ends, key=ends.get):  # labels at the curves' ends, none on another
        lowest = max(ends[geometry], lowest + 7)
        label, colour = GEOMETRY_NAMES[geometry], GEOMETRY_COLOURS[geometry]
        ax.text(table["epoch"].max() * 1.02 + 0.1, lowest, label, color=colour, va="center")
    ax.set_xlim(right=table["epoch"].max() * 1.4 + 1)
    ax.set_ylim(0, 102)
    ax.set_xlabel("epoch")
    ax.set_ylabel("‖ε‖² on norm layers, %")
    figure.tight_layout()
    return figure


def finding(results: Results) -> str:
    """Whether leaving norm layers out costs what their share predicts."""
    comparisons = dict(zip(SWEPT, corrected(without_norm(results)[1]), strict=True))
    harmed = [names.GEOMETRY_NAMES[g] for g, c in comparisons.items() if c.verdict == "holds"]
    helped = [names.GEOMETRY_NAMES[g] for g, c in comparisons.items() if c.verdict == "refuted"]
    elementwise = comparisons["elementwise_l2"]
    text = "Leaving the normalization layers out "
    text += f"costs {', '.join(harmed)} accuracy" if harmed else "is not shown to cost accuracy"
    if helped:
        text += f", and is better for {', '.join(helped)}"
    shares = without_norm(results)[0]["share on norm layers"]["percent"]
    share = number(shares[SWEPT.index("elementwise_l2")], ".1f")
    reported_gap = number(paper.best_gap("elementwise_l2", "all", "no_norm"), "+.2f")
    return (
        f"{text}. For elementwise ℓ₂, where {share} % of the squared length falls on them, all − "
        f"no norm is {points(elementwise)}; the authors' curves show {reported_gap}."
    )


def omitting_harms(results: Results) -> Answer:
    """all minus no norm for elementwise l2 (claim 4)."""
    comparison = results.compare(
        results.cell(Method("elementwise_l2", "all")),
        results.cell(Method("elementwise_l2", "no_norm")),
    )
    return single(comparison)


TABLES = {"without_norm": lambda results: without_norm(results)[0]}
DECIDES = {4: omitting_harms}
