"""Does SAM-ON move gamma to larger values, and does its gain need that?"""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from samlib.errors import RecordsMissing
from samlib.report import gains, tidy
from samlib.report.answers import Answer, each_of
from samlib.report.figures import COLOURS, MARKERS, key_of, legend, use_style
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import REVERSED, SAME, SEEN, Comparison, compare
from samlib.report.text import number
from samlib.report.wording import points
from samlib.study import plan
from samlib.study.methods import ALL, BASE, HEADLINE, ON, Method
from samlib.trainer.diagnostics import QUANTILES

MARGIN = 0.01  # of gamma, which starts at 1: smaller shifts are of no interest
_UNDECAYED = "trained, not decayed"
_FIXED = "fixed at 1 and 0"
CONTROLS = {"trained, decayed": {}, _FIXED: plan.FIXED, _UNDECAYED: plan.UNDECAYED}


def gammas(
    results: Results, method: Method, layer: str | None = None, problem: str | None = None
) -> pd.Series:
    """Mean |gamma| at the end, by seed: over all channels, or of one layer."""
    found = results.runs(results.cell(method, problem))
    values = {r["config"]["seed"]: _gamma(r["measures"], layer) for r in found}
    return pd.Series(values, dtype=float)


def _gamma(measures: dict, layer: str | None) -> float | None:
    if layer is None:
        return measures["gamma_abs_mean"]
    return next((a["gamma_abs_mean"] for a in measures["affine"] if a["layer"] == layer), None)


def layers(results: Results, problem: str | None = None) -> list[str]:
    """Norm layers in forward order: the one at the top of a pre-activation network comes last."""
    cell = results.cell(BASE, problem)
    affine = (run["measures"]["affine"] for run in results.runs(cell))
    names = [a["layer"] for a in max(affine, key=len)]  # a run that diverged may lack some
    preact = cell.base.model.startswith("wrn")
    return sorted(names, key=lambda name: preact and "." not in name)


def difference(
    results: Results, better: Method, worse: Method, layer: str | None = None
) -> Comparison:
    """One method minus another in mean |gamma|, over all channels or of one layer."""
    change = gammas(results, better, layer) - gammas(results, worse, layer)
    return compare(change.dropna(), margin=MARGIN)


def table(results: Results) -> pd.DataFrame:
    """Mean |gamma| of base optimizer, SAM and SAM-ON: the network's, then layer by layer."""
    rows, comparisons = [], []
    names = {m: method_name(results.profile, m) for m in HEADLINE}
    for layer in (None, *layers(results)):
        row = {"layer": _short(layer) if layer else "all"}
        for method, name in names.items():
            values = gammas(results, method, layer)
            row[name] = tidy.spread(values)
        comparisons.append(difference(results, ON, ALL, layer))
        rows.append(row)
    return tidy.judged(rows, "SAM-ON − SAM", comparisons, results.profile.where)


def _conditions(results: Results) -> dict[str, gains.Condition]:
    """Those whose runs are there; the plain one always comes first."""
    cells = {
        name: {m: results.cell(m.control(**changes) if changes else m) for m in HEADLINE}
        for name, changes in CONTROLS.items()
    }
    return {name: gains.Condition(of) for name, of in cells.items() if results.has(*of.values())}


def controls(results: Results) -> pd.DataFrame:
    """Accuracy and gains with gamma and beta fixed, and without weight decay on them.

    No rows where no control is run.
    """
    found = _conditions(results)
    return gains.table(results, "γ and β", found if len(found) > 1 else {})


def undecayed(results: Results) -> Comparison:
    """SAM-ON minus SAM in mean |gamma| where weight decay leaves norm layers alone."""
    return difference(results, *(m.control(**plan.UNDECAYED) for m in (ON, ALL)))


def figure(results: Results) -> Figure:
    """Distribution of gamma and of beta over the channels of each layer, averaged over seeds."""
    use_style()
    names = layers(results)
    figure, axes = plt.subplots(2, 1, figsize=(8.4, 5.2), sharex=True)
    for ax, leaf in zip(axes, ("gamma", "beta"), strict=True):
        for offset, method in zip((-0.22, 0.0, 0.22), HEADLINE, strict=True):
            key = key_of(method)
            for x, layer in enumerate(names):
                q = _quantiles(results, method, layer, leaf)
                ax.plot([x + offset] * 2, [q[0.05], q[0.95]], color=COLOURS[key], lw=1.2)
                ax.plot([x + offset] * 2, [q[0.25], q[0.75]], color=COLOURS[key], lw=5, alpha=0.5)
                ax.plot(x + offset, q[0.5], MARKERS[key], color=COLOURS[key], ms=6, mec="white")
        ax.axhline(1 if leaf == "gamma" else 0, color="#888888", lw=0.8, ls=":")
        ax.set_ylabel("γ" if leaf == "gamma" else "β")
    axes[1].set_xticks(range(len(names)), [_short(name) for name in names])
    axes[1].set_xlabel("normalization layer, in forward order")
    legend(figure, {key_of(m): method_name(results.profile, m) for m in HEADLINE}, dashed=())
    return figure


def _quantiles(results: Results, method: Method, layer: str, leaf: str) -> dict[float, float]:
    found = [
        a[leaf]
        for r in results.runs(results.cell(method))
        for a in r["measures"]["affine"]
        if a["layer"] == layer
    ]
    if not found:  # every run diverged
        return dict.fromkeys(QUANTILES, math.nan)
    return dict(zip(QUANTILES, np.mean(found, axis=0), strict=True))


def _short(layer: str) -> str:
    """layer1.0.norm2 as 1.0.2: stage, block, norm; the one outside the stages by its name."""
    return layer.replace("layer", "").replace("norm", "") if "." in layer else layer


def finding(results: Results) -> str:
    """Mean gamma of the three methods, and without weight decay on it."""
    on, everything, base = (number(gammas(results, m).mean(), ".3f") for m in (ON, ALL, BASE))
    text = (
        f"The mean of |γ|, 1 at the start, ends at {on} with SAM-ON, {everything} with SAM and "
        f"{base} with {method_name(results.profile, BASE)}."
    )
    if _UNDECAYED not in _conditions(results):
        return text
    free = undecayed(results)
    return (
        f"{text} Without weight decay on γ and β, SAM-ON − SAM is {free:+.3f} ({free.seeds} seeds)."
    )


def finding_controls(results: Results) -> str:
    """Whether SAM-ON's gain needs trained norm parameters, or their weight decay."""
    found = _conditions(results)
    if len(found) < len(CONTROLS):
        which = "One control is" if len(found) == len(CONTROLS) - 1 else "The controls are"
        return f"{which} not run yet: `{results.to_run('shift')}` runs what is missing."
    name = method_name(results.profile, BASE)
    gain = gains.judged(results, found)[_FIXED, BASE]
    changes = gains.changes(results, found)
    survives = {SEEN: "survives", REVERSED: "turns into a loss", SAME: "vanishes"}
    which = (changes[control, BASE] for control in (_FIXED, _UNDECAYED))
    parts = [f"{c} ({gains.changed(c)})" for c in which]
    return (
        f"With γ and β fixed at 1 and 0, perturbed but never trained, the gain of SAM-ON over "
        f"{name} {survives.get(gain.seen, 'is open')}: {points(gain)}. On the same seeds, fixed γ "
        f"and β change the gain by {parts[0]}, and undecayed γ and β by {parts[1]}."
    )


def larger_gamma(results: Results) -> Answer:
    """Mean |gamma| over all channels, SAM-ON − SAM, as the poster contrasts them (claim 10)."""
    found = difference(results, ON, ALL)
    if not found.seeds:
        raise RecordsMissing("no run recorded gamma")
    return each_of([found], f"{found:+.3f} in mean |γ|, {found.seeds} seeds")


TABLES = {
    "shift": table,
    "shift_controls": controls,
}
DECIDES = {"10": larger_gamma}
