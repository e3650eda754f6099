"""Is SAM-ON sharper, and does it matter? m-sharpness and the Hessian's largest eigenvalue."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from samlib.chapters.rho_sweep import base_on_tuning_seeds
from samlib.errors import RecordsMissing
from samlib.measures.sharpness import POSTER, SETTINGS, TRUE_LABELS, Setting
from samlib.report import paper, tidy
from samlib.report.answers import Answer, each_of
from samlib.report.counting import wrong_labels
from samlib.report.figures import (
    COLOURS,
    MARKERS,
    curves,
    key_of,
    legend,
    plain_ticks,
    rho_axis,
    use_style,
)
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import OPEN, REVERSED, SAME, SEEN, Comparison, compare, corrected
from samlib.report.text import mean_and_interval, number
from samlib.study import plan
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, HEADLINE, ON, Method

MAIN = POSTER[0]  # the setting that decides
MARGIN = math.log10(1.1)  # ratios of sharpness within a factor of 1.1 are of no interest


def values(results: Results, cell: Cell, rho: float | None, setting: Setting | None) -> pd.Series:
    """Sharpness at one setting (None: the eigenvalue) by seed; NaN where it is not finite.

    A run that diverged has none that is finite.

    Raises:
        RecordsMissing: it has not been measured.
    """
    found = results.with_diverged(cell, "sharpness", rho)
    return pd.Series({seed: _value(of, setting) for seed, of in found.items()}, dtype=float)


def _value(found: dict | None, setting: Setting | None) -> float:
    if found is None:
        return math.nan
    if setting is None:
        value = found["eigenvalue"]
    else:
        wanted = setting.to_dict()
        here = (s["value"] for s in found["settings"] if s == wanted | {"value": s["value"]})
        value = next(here, None)
    return math.nan if value is None else value


def _log_ratio(results: Results, over: Method, setting: Setting | None) -> Comparison:
    """log10 of SAM-ON's sharpness over another method's, paired by seed, chosen rho each."""
    on, other = (values(results, results.cell(m), None, setting) for m in (ON, over))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.log10(on / other)
    return compare(ratios[np.isfinite(ratios)], margin=MARGIN)


_WORDS = {SEEN: "sharper", REVERSED: "flatter", SAME: "alike", OPEN: "not told apart"}


def _measured(results: Results) -> dict[Method, str]:
    """Names of the methods whose final weights are measured."""
    return results.named(plan.sharpness(results.profile).cells)


def _name(setting: Setting) -> str:
    steps = f"{setting.steps} steps" if setting.steps > 1 else "1 step"
    reach = ", to 0.75 of it" if setting.damped_first_step else ""
    return f"{steps}, radius {setting.rho:g}{reach}"


def _spread(values: pd.Series) -> dict:
    return tidy.spread(values) | {"not_finite": int(values.isna().sum())}


def table(results: Results) -> pd.DataFrame:
    """The poster's table: sharpness of every method that is measured, at its chosen rho."""
    names = _measured(results)
    rows = []
    kinds = [s for s in SETTINGS if s.mask == "all" and s.adaptive and s.p == math.inf]
    for setting in sorted(kinds, key=lambda s: (-s.steps, s.rho, s.damped_first_step)):
        theirs = paper.SHARPNESS.get((setting.steps, setting.rho), {})
        if setting.damped_first_step:
            theirs = {}
        row = {"setting": _name(setting)}
        for method, name in names.items():
            found = theirs.get(key_of(method))
            if method in HEADLINE:
                row[f"reported {name}"] = found.value if found else math.nan
        for method, name in names.items():
            cell = results.cell(method)
            row[name] = _spread(values(results, cell, None, setting))
        rows.append(row)
    return tidy.table(rows)


def others(results: Results) -> pd.DataFrame:
    """The same where the poster shows nothing: other balls, parts of the network."""
    kinds = {
        "ℓ∞, not adaptive, 20 steps, radius 0.003": Setting(20, 0.003, adaptive=False),
        "ℓ∞, norm layers only, 20 steps, radius 0.007": Setting(20, 0.007, mask="only_norm"),
        "ℓ∞, all but norm layers, 20 steps, radius 0.007": Setting(20, 0.007, mask="no_norm"),
        "ℓ₂, adaptive, 20 steps, radius 0.1": Setting(20, 0.1, p=2),
        "ℓ∞, adaptive, 20 steps, radius 0.003, to the true labels": TRUE_LABELS,
    }
    if not results.cell(BASE).base.label_noise:
        kinds = {name: setting for name, setting in kinds.items() if setting != TRUE_LABELS}
    return tidy.table([_each(results, name, setting) for name, setting in kinds.items()])


def eigenvalues(results: Results) -> pd.DataFrame:
    """The largest eigenvalue of the Hessian of the same methods."""
    return tidy.table([_each(results, "largest eigenvalue of the Hessian", None)])


def _each(results: Results, measure: str, setting: Setting | None) -> dict:
    row = {"measure": measure}
    for method, name in _measured(results).items():
        row[name] = _spread(values(results, results.cell(method), None, setting))
    return row


def differences(results: Results) -> pd.DataFrame:
    """log10 ratios of SAM-ON's sharpness to the others', at the poster's settings."""
    rows, comparisons = [], []
    for setting in (*POSTER, None):
        for over in (BASE, ALL):
            comparison = _log_ratio(results, over, setting)
            comparisons.append(comparison)
            rows.append(
                {
                    "measure": _name(setting) if setting else "largest eigenvalue",
                    "SAM-ON over": method_name(results.profile, over),
                    "factor": {"factor": 10**comparison.mean},
                }
            )
    for row, c in zip(rows, corrected(comparisons), strict=True):
        row["log₁₀ ratio"] = tidy.difference(c) | {"p": c.p}
        row |= {"SAM-ON is": _WORDS.get(c.seen, c.seen), "seeds": c.seeds}
    return tidy.table(rows)


def everything(results: Results) -> pd.DataFrame:
    """One row per measured run of the base optimizer, and of every searched rho of SAM, SAM-ON."""
    base, *perturbed = (results.cell(m) for m in (BASE, ALL, ON))
    at = [(base, None), *((c, rho) for c in perturbed for rho in results.searched(c))]
    rows = []
    for cell, rho in at:
        accuracy = results.accuracies(cell, rho)
        sharp, top = (values(results, cell, rho, setting) for setting in (MAIN, None))
        rows += [
            {
                "key": key_of(cell.method),
                "rho": rho or 0.0,
                "seed": seed,
                "sharpness": sharp[seed],
                "eigenvalue": top[seed],
                "accuracy": accuracy[seed],
            }
            for seed in sharp.index
        ]
    return pd.DataFrame(rows)


def monotone(results: Results) -> pd.DataFrame:
    """Rank correlation of rho with mean sharpness and eigenvalue, for SAM and SAM-ON."""
    found = everything(results)
    rows = []
    for method in (ALL, ON):
        means = found[found["key"] == key_of(method)].groupby("rho").mean(numeric_only=True)
        row = {"method": method_name(results.profile, method), "values of ρ": len(means)}
        for column in ("sharpness", "eigenvalue"):
            known = means[column].dropna()
            up = int((known.diff() > 0).sum())
            row[f"rank correlation, {column}"] = _rank(means.index, means[column])
            row[f"increases, {column}"] = {"part": up, "whole": len(known) - 1}
        rows.append(row)
    return tidy.table(rows)


def _rank(x, y) -> float:
    """Spearman's rank correlation; NaN where one side is constant."""
    known = pd.DataFrame({"x": list(x), "y": list(y)}).dropna()
    if len(known) < 2 or known["x"].nunique() < 2 or known["y"].nunique() < 2:
        return math.nan
    return float(spearmanr(known["x"], known["y"]).statistic)


def figure(results: Results) -> Figure:
    """Sharpness and eigenvalue against the rho trained with, and accuracy against sharpness."""
    use_style()
    found = everything(results)
    figure, axes = plt.subplots(1, 3, figsize=(8.8, 3.3), width_ratios=[1, 1, 1.1])
    base = found[found["key"] == "base"]
    for ax, column in zip(axes, ("sharpness", "eigenvalue"), strict=False):
        ax.axhline(base[column].mean(), color=COLOURS["base"], ls="--", lw=1)
        perturbed = found[found["rho"] > 0]
        curves(ax, perturbed, "rho", column)
        rho_axis(ax, perturbed["rho"].unique())
        ax.set_yscale("log")
        plain_ticks(ax.yaxis)
        ax.set_xlabel("ρ trained with")
    axes[0].set_title("ℓ∞ m-sharpness, nats")
    axes[1].set_title("largest eigenvalue")
    for key, rows in found.groupby("key"):
        look = {"marker": MARKERS[key], "color": COLOURS[key], "alpha": 0.6, "lw": 0}
        axes[2].scatter(rows["sharpness"], rows["accuracy"], s=16, **look)
    lowest, best = base["accuracy"].mean(), found["accuracy"].max()
    axes[2].set_ylim(bottom=lowest - 1.2 * (best - lowest))  # not the runs that collapsed
    axes[2].set_xscale("log")
    plain_ticks(axes[2].xaxis)
    axes[2].set_xlabel("ℓ∞ m-sharpness, nats")
    axes[2].set_title("test accuracy, %")
    legend(figure, {key_of(m): method_name(results.profile, m) for m in HEADLINE}, dashed=())
    return figure


def finding(results: Results) -> str:
    """What happens along rho: the flattest network need not be the most accurate."""
    found, parts = everything(results), []
    base, level = method_name(results.profile, BASE), base_on_tuning_seeds(results)
    for method in (ALL, ON):
        means = found[found["key"] == key_of(method)].groupby("rho").mean(numeric_only=True)
        rank = number(_rank(means.index, means["sharpness"]))
        best, flattest = means["accuracy"].idxmax(), means["sharpness"].idxmin()
        name, kept = method_name(results.profile, method), means[means["accuracy"] >= level]
        if 1 < len(kept) < len(means):
            least = number(_rank(kept.index, kept["sharpness"]))
            rank += f" with ρ, and of {least} where {name} is no less accurate than {base}"
        else:
            rank += " with ρ"
        parts.append(
            f"With {name} sharpness has a rank correlation of {rank}; "
            f"most accurate is ρ = {best:.3g}, flattest {flattest:.3g}."
        )
    return " ".join(parts)


def _factors(results: Results, setting: Setting) -> str:
    """SAM-ON's sharpness over the base optimizer's and over SAM's, in words."""
    parts = []
    for over in (BASE, ALL):
        ratio = _log_ratio(results, over, setting)
        word = _WORDS.get(ratio.seen, ratio.seen)
        ends = (10**value for value in (ratio.mean, ratio.low, ratio.high))
        name = method_name(results.profile, over)
        parts.append(f"{mean_and_interval(*ends, '.2f')} × {name}'s ({word})")
    return " and ".join(parts)


def finding_labels(results: Results) -> str:
    """Whether wrong labels that were fitted make the difference."""
    wrong = wrong_labels(results.cell(BASE).base)
    if not wrong:
        return "No training label of this profile is noisy."
    fitted = ", ".join(
        f"{method_name(results.profile, m)} {number(results.fitted(results.cell(m)), '.1f')} %"
        for m in (BASE, ALL, ON)
    )
    return (
        f"About {100 * wrong:.0f} % of the training labels are wrong, "
        f"and the methods fit them unequally: training accuracy at the end is {fitted}. With the "
        f"loss taken to the true labels of the same images instead, the sharpness of SAM-ON is "
        f"{_factors(results, TRUE_LABELS)}."
    )


def sharper(results: Results) -> Answer:
    """SAM-ON sharper than the base optimizer and than SAM, at the poster's first setting (claim 9).

    Raises:
        RecordsMissing: no finite sharpness was measured.
    """
    found = [_log_ratio(results, method, MAIN) for method in (BASE, ALL)]
    if not all(c.seeds for c in found):
        raise RecordsMissing("no finite sharpness was measured")
    gain = results.compare(results.cell(ON), results.cell(BASE))
    base = method_name(results.profile, BASE)
    ours = f"{_factors(results, MAIN)}; {gain} points over {base}"
    to_base, to_sam = (f"{number(10**c.mean, '.2f')} ×" for c in found)
    short = f"{to_base} {base}'s sharpness and {to_sam} SAM's; {gain} points over {base}"
    return each_of(found, ours, short=short)


TABLES = {
    "sharpness": table,
    "sharpness_others": others,
    "eigenvalues": eigenvalues,
    "sharpness_ratios": differences,
    "sharpness_monotone": monotone,
}
DECIDES = {"9": sharper}
