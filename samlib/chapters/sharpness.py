"""Is SAM-ON sharper, and does it matter? m-sharpness and the Hessian's largest eigenvalue."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from samlib.errors import RecordsMissing
from samlib.measures.sharpness import POSTER, SETTINGS, TRUE_LABELS, Setting
from samlib.report import paper, tidy
from samlib.report.answers import Answer
from samlib.report.counting import wrong_labels
from samlib.report.figures import COLOURS, MARKERS, curves, key_of, legend, rho_axis, use_style
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import Comparison, compare, corrected
from samlib.report.text import number
from samlib.study import plan
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, HEADLINE, ON, Method

MAIN = POSTER[0]  # the setting that decides
MARGIN = math.log10(1.1)  # ratios of sharpness within 10 % are of no interest


def values(results: Results, cell: Cell, rho: float | None, setting: Setting | None) -> pd.Series:
    """Sharpness at one setting (None: the eigenvalue) by seed; NaN where it is not finite.

    Raises:
        RecordsMissing: it has not been measured.
    """
    found = results.measured(cell, "sharpness", rho)
    return pd.Series({seed: _value(of, setting) for seed, of in found.items()}, dtype=float)


def _value(found: dict, setting: Setting | None) -> float:
    if setting is None:
        value = found["eigenvalue"]
    else:
        wanted = setting.to_dict()
        here = (s["value"] for s in found["settings"] if s == wanted | {"value": s["value"]})
        value = next(here, None)
    return math.nan if value is None else value


def _log_ratio(results: Results, over: Method, setting: Setting | None) -> Comparison:
    """log10 of SAM-ON's sharpness over another method's, paired by seed, chosen rho each."""
    on, other = (
        values(results, results.cell(m), results.rho(results.cell(m)), setting) for m in (ON, over)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.log10(on / other)
    return compare(ratios[np.isfinite(ratios)], margin=MARGIN)


_WORDS = {"holds": "sharper", "refuted": "flatter", "equivalent": "alike"}


def _name(setting: Setting) -> str:
    steps = f"{setting.steps} steps" if setting.steps > 1 else "1 step"
    reach = ", to 0.75 of it" if setting.damped_first_step else ""
    return f"{steps}, radius {setting.rho:g}{reach}"


def _spread(values: pd.Series) -> dict:
    return tidy.spread(values) | {"not_finite": int(values.isna().sum())}


def table(results: Results) -> pd.DataFrame:
    """The poster's table: sharpness of base optimizer, SAM and SAM-ON at their chosen rho."""
    names = {m: method_name(results.profile, m) for m in (BASE, ALL, ON)}
    rows = []
    kinds = [s for s in SETTINGS if s.mask == "all" and s.adaptive and s.p == math.inf]
    for setting in sorted(kinds, key=lambda s: (-s.steps, s.rho, s.damped_first_step)):
        theirs = paper.SHARPNESS.get((setting.steps, setting.rho), {})
        if setting.damped_first_step:
            theirs = {}
        row = {"setting": _name(setting)}
        for method, name in names.items():
            found = theirs.get(key_of(method))
            row[f"reported {name}"] = found.value if found else math.nan
        for method, name in names.items():
            cell = results.cell(method)
            row[name] = _spread(values(results, cell, results.rho(cell), setting))
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
    return tidy.table([_three(results, name, setting) for name, setting in kinds.items()])


def eigenvalues(results: Results) -> pd.DataFrame:
    """The largest eigenvalue of the Hessian of the three methods."""
    return tidy.table([_three(results, "largest eigenvalue of the Hessian", None)])


def _three(results: Results, name: str, setting: Setting | None) -> dict:
    row = {"measure": name}
    for method in (BASE, ALL, ON):
        cell = results.cell(method)
        found = values(results, cell, results.rho(cell), setting)
        row[method_name(results.profile, method)] = _spread(found)
    return row


def differences(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
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
        row |= {"log₁₀ ratio": tidy.difference(c), "seeds": c.seeds, "p (Holm)": {"p": c.p}}
        row["SAM-ON is"] = _WORDS.get(c.verdict, c.verdict)
    return tidy.table(rows), comparisons


def everything(results: Results) -> pd.DataFrame:
    """One row per measured run: method, rho, seed, sharpness, eigenvalue and test accuracy."""
    rows = []
    for measured in plan.sharpness(results.profile).measured:
        cell = measured.cell
        for rho in cell.grid:
            accuracy = results.accuracies(cell, rho)
            sharp = values(results, cell, rho, MAIN)
            top = values(results, cell, rho, None)
            rows += [
                {
                    "key": key_of(cell.method),
                    "rho": rho,
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
            up = int((means[column].diff().dropna() > 0).sum())
            row[f"rank correlation, {column}"] = _rank(means.index, means[column])
            row[f"increases, {column}"] = {"part": up, "whole": len(means) - 1}
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
        ax.set_xlabel("ρ trained with")
    axes[0].set_title("ℓ∞ m-sharpness, nats")
    axes[1].set_title("largest eigenvalue")
    for key, rows in found.groupby("key"):
        look = {"marker": MARKERS[key], "color": COLOURS[key], "alpha": 0.6, "lw": 0}
        axes[2].scatter(rows["sharpness"], rows["accuracy"], s=16, **look)
    axes[2].set_xscale("log")
    axes[2].set_xlabel("ℓ∞ m-sharpness, nats")
    axes[2].set_title("test accuracy, %")
    legend(figure, {key_of(m): method_name(results.profile, m) for m in HEADLINE}, dashed=())
    return figure


def finding(results: Results) -> str:
    """Whether SAM-ON is sharper, and whether flatter networks test better."""
    base = method_name(results.profile, BASE)
    found = everything(results)
    within = ", ".join(
        f"{number(_rank(rows['sharpness'], rows['accuracy']))} for {name}"
        for key, name in (("all", "SAM"), ("only_norm", "SAM-ON"))
        for rows in [found[found["key"] == key]]
    )
    floor = found["accuracy"][found["key"] == "base"].mean()
    better = found[found["accuracy"] > floor]
    return (
        f"At {_name(MAIN)}, the sharpness of SAM-ON is {_factors(results, MAIN)}; the poster "
        f"reports {reported_factor('base'):.2f} × and {reported_factor('all'):.2f} ×. Over all "
        f"{len(found)} runs the rank correlation of sharpness with test accuracy is "
        f"{number(_rank(found['sharpness'], found['accuracy']))}, over the {len(better)} that do "
        f"better than {base} on average {number(_rank(better['sharpness'], better['accuracy']))}; "
        f"within one method, over its ρ, {within}. A network that has learned nothing is flat, too."
    )


def _factors(results: Results, setting: Setting) -> str:
    """SAM-ON's sharpness over the base optimizer's and over SAM's, in words."""
    parts = []
    for over in (BASE, ALL):
        ratio = _log_ratio(results, over, setting)
        word = _WORDS.get(ratio.verdict, "not told apart" if ratio.seeds else ratio.verdict)
        name = method_name(results.profile, over)
        parts.append(f"{10**ratio.mean:.2f} × that of {name} ({word})")
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


def reported_factor(over: str) -> float:
    """The poster's sharpness of SAM-ON over another method's, at the setting that decides."""
    theirs = paper.SHARPNESS[MAIN.steps, MAIN.rho]
    return theirs["only_norm"].value / theirs[over].value


def finding_monotone(results: Results) -> str:
    """Whether a larger rho gives a flatter network."""
    found = everything(results)
    parts = []
    for method in (ALL, ON):
        means = found[found["key"] == key_of(method)].groupby("rho")["sharpness"].mean()
        steps = means.diff().dropna()
        if (steps > 0).all():
            shape = "rises with every step of ρ"
        elif (steps < 0).all():
            shape = "falls with every step of ρ"
        else:
            shape = f"is not monotone in ρ: its lowest point is at ρ = {means.idxmin():g}"
        parts.append(f"that of {method_name(results.profile, method)} {shape}")
    return f"Sharpness at the end of training: {'; '.join(parts)}."


def sharper_and_better(results: Results) -> Answer:
    """SAM-ON sharper than the base optimizer and than SAM, and still better (claim 9).

    At the poster's first setting, adaptive. Holds if SAM-ON is sharper than both and better than
    the base optimizer; refuted if it is flatter than the base optimizer, or alike, or not better;
    else undecided.
    """
    over_base, over_all = (_log_ratio(results, m, MAIN) for m in (BASE, ALL))
    if not over_base.seeds:
        raise RecordsMissing("no sharpness that is finite was measured")
    gain = results.compare(results.cell(ON), results.cell(BASE))
    if over_base.verdict in ("refuted", "equivalent") or gain.verdict in ("refuted", "equivalent"):
        verdict = "refuted"
    elif {over_base.verdict, over_all.verdict, gain.verdict} == {"holds"}:
        verdict = "holds"
    else:
        verdict = "undecided"
    ours = (
        f"{10**over_base.mean:.2f} × {method_name(results.profile, BASE)}'s, "
        f"{10**over_all.mean:.2f} × SAM's"
    )
    return Answer(ours, verdict, over_base.seeds)


TABLES = {
    "sharpness": table,
    "sharpness_others": others,
    "eigenvalues": eigenvalues,
    "sharpness_ratios": lambda results: differences(results)[0],
    "sharpness_monotone": monotone,
}
DECIDES = {9: sharper_and_better}
