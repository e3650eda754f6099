"""Do the running statistics that BatchNorm takes from the perturbed pass cause SAM-ON's gain?"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.errors import RecordsMissing
from samlib.report import gains
from samlib.report.answers import Answer, each_of
from samlib.report.figures import draw_points, long, use_style
from samlib.report.names import method_name
from samlib.report.results import RECALIBRATED, Results
from samlib.report.stats import NOT_RUN, Comparison
from samlib.study.methods import ALL, BASE, HEADLINE

_FIRST = {"batchnorm": "first"}


def _statistics(results: Results) -> dict[str, gains.Condition]:
    """The kinds of statistics, those of both passes first."""
    both = {m: results.cell(m) for m in HEADLINE}
    first = {m: results.cell(m if m == BASE else m.control(**_FIRST)) for m in HEADLINE}
    return {
        "of both passes": gains.Condition(both),
        "of the first pass": gains.Condition(first),
        "recalibrated after training": gains.Condition(both, RECALIBRATED),
    }


def _run(results: Results) -> dict[str, gains.Condition]:
    """Those kinds of which all runs are there."""
    kinds = _statistics(results).items()
    return {kind: found for kind, found in kinds if results.has(*found.cells.values())}


def table(results: Results) -> pd.DataFrame:
    """SAM-ON's gain under BatchNorm statistics of both passes, the first, and recalibrated."""
    return gains.table(results, "statistics", _run(results))


def figure(results: Results) -> Figure:
    """SAM-ON minus the base optimizer and minus SAM, by kind of statistics, a point per seed."""
    use_style()
    kinds = _run(results)
    size = (7.6, 0.4 * len(kinds) + 1.2)
    figure, axes = plt.subplots(1, 2, figsize=size, sharex=True, sharey=True)
    for ax, method in zip(axes, (BASE, ALL), strict=True):
        columns = {kind: gains.gain(results, found, method) for kind, found in kinds.items()}
        draw_points(ax, long(columns, ["only_norm"] * len(columns)), "value", "label")
        ax.axvline(0, color="#444444", lw=0.8)
        ax.set_title(f"SAM-ON minus {method_name(results.profile, method)}")
        ax.set_xlabel("points")
    figure.tight_layout()
    return figure


def finding(results: Results) -> str:
    """How SAM-ON's gains change without statistics of the perturbed pass."""
    kinds = _run(results)
    first, *others = kinds
    changes, base = gains.changes(results, kinds), method_name(results.profile, BASE)
    parts = []
    for kind in others:
        gain, lead = (changes[kind, m] for m in (BASE, ALL))
        parts.append(
            f"with those {kind} the gain over {base} changes by {gain} ({gains.changed(gain)}), "
            f"that over SAM by {lead} ({gains.changed(lead)})"
        )
    return f"Against statistics {first}, on the same seeds, {'; '.join(parts)}."


def not_statistics(results: Results) -> Answer:
    """SAM-ON's gain over the base optimizer persists without them (claim 15).

    Both with the statistics of the first pass only and with recalibrated ones SAM-ON minus the
    base optimizer must be seen.

    Raises:
        RecordsMissing: the network has no such statistics.
    """
    anew, found = recalibrated(results), _statistics(results)["of the first pass"]
    if not anew.seeds:
        raise RecordsMissing("no accuracy with recalibrated statistics is recorded")
    over = f"over {method_name(results.profile, BASE)}"
    try:
        first = results.judge(gains.gain(results, found, BASE))
    except RecordsMissing:
        return Answer(NOT_RUN, f"recalibrated {anew} {over}; first pass only not run")
    names = f"{over}, first pass only", f"{over}, recalibrated"
    ours = f"first pass only {first}; recalibrated {anew} {over}"
    return each_of([first, anew], ours, names=names)


def recalibrated(results: Results) -> Comparison:
    """SAM-ON's gain over the base optimizer with recalibrated statistics."""
    found = _statistics(results)["recalibrated after training"]
    return results.judge(gains.gain(results, found, BASE))


def usual(results: Results, decides: int) -> Comparison:
    """The gain with statistics of both passes, on the seeds of the comparison that decides."""
    both, *others = _statistics(results).values()
    gain = gains.gain(results, both, BASE)
    seeds = gains.gain(results, others[decides], BASE).index
    return results.judge(gain.loc[gain.index.isin(seeds)])


TABLES = {"statistics": table}
DECIDES = {"15": not_statistics}
