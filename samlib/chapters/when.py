"""When the perturbation is needed, and whether BatchNorm's statistics do the work."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import plan
from ..answers import Answer, all_of
from ..columns import edge, number, spread, verdicts
from ..figures import COLOURS, MARKERS, key_of, use_style
from ..names import method_name
from ..results import Results
from ..sentences import listed
from ..stats import Comparison
from ..study import ALL, BASE, ON, Cell, Method

RECALIBRATED = "recalibrated_test_accuracy"
_FIRST = {"batchnorm": "first"}


def _switched(results: Results, method: Method, side: str) -> dict[int, Cell]:
    """The cells of a method that starts or ends at some epoch, by that epoch."""
    cells = plan.when(results.profile).cells
    return {
        dict(cell.method.changes)[side]: cell
        for cell in cells
        if cell.method.plain == method and side in dict(cell.method.changes)
    }


def recovered(results: Results, cell: Cell) -> float:
    """Share of the gain over the base optimizer that is left, means over the paired seeds."""
    base, always = results.cell(BASE), results.cell(cell.method.plain)
    table = pd.DataFrame(
        {k: results.accuracies(c) for k, c in (("now", cell), ("always", always), ("base", base))}
    ).dropna()
    gain = (table["always"] - table["base"]).mean()
    return float((table["now"] - table["base"]).mean() / gain) if gain else float("nan")


def table(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """SAM and SAM-ON in some of the epochs only, against the same in all of them."""
    rows, comparisons = [], []
    for method in (ALL, ON):
        always = results.cell(method)
        for side in ("start", "end"):
            for epoch, cell in _switched(results, method, side).items():
                comparisons.append(results.compare(cell, always))
                last = always.base.epochs
                active = f"{epoch + 1} to {last}" if side == "start" else f"1 to {epoch}"
                rows.append(
                    {
                        "method": method_name(results.profile, method),
                        "active epochs": active,
                        "accuracy": spread(results.accuracies(cell)),
                        "gain left": f"{number(100 * recovered(results, cell), 0)} %",
                    }
                )
    columns = ["method", "active epochs", "accuracy", "gain left"]
    judged = verdicts(comparisons)
    kept = {name: judged[name] for name in ("difference", "seeds", "p (Holm)")}
    return pd.DataFrame(rows, columns=columns).assign(**kept), comparisons


def _curve(ax: Axes, results: Results, method: Method, side: str) -> None:
    always, base = results.cell(method), results.cell(BASE)
    epochs = always.base.epochs
    cells = _switched(results, method, side)
    ends = {0: always, epochs: base} if side == "start" else {0: base, epochs: always}
    at = dict(sorted((cells | ends).items()))
    key = key_of(method)
    means = []
    for epoch, cell in at.items():
        values = results.accuracies(cell).iloc[: results.profile.seeds]
        if cell in cells.values():
            x = epoch + np.linspace(-0.12, 0.12, len(values))
            ax.scatter(x, values, s=14, color=COLOURS[key], alpha=0.45, linewidths=0)
        means.append(values.mean())
    ax.plot(list(at), means, "-", marker=MARKERS[key], color=COLOURS[key], ms=6, lw=1.6)


def figure(results: Results) -> Figure:
    """Accuracy against the epoch the perturbation starts after, and against the one it ends at."""
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
    epochs = results.cell(BASE).base.epochs
    base = method_name(results.profile, BASE)
    titles = {"start": "switched on late", "end": "switched off early"}
    for ax, side in zip(axes, titles, strict=True):
        for method in (ALL, ON):
            _curve(ax, results, method, side)
        ax.set_title(titles[side])
        where = {"start": ("always", "never"), "end": ("never", "always")}[side]
        inner = sorted(_switched(results, ON, side))
        labels = [f"0\n{where[0]}", *map(str, inner), f"{epochs}\n{where[1]}"]
        ax.set_xticks([0, *inner, epochs], labels)
        ax.set_xlabel("epochs before it" if side == "start" else "epochs with it")
    axes[0].set_ylabel("test accuracy, %")
    handles = [
        plt.Line2D([], [], color=COLOURS[key_of(m)], marker=MARKERS[key_of(m)], label=label)
        for m, label in ((ALL, "SAM"), (ON, "SAM-ON"))
    ]
    axes[1].legend(handles=handles, frameon=False, loc="lower right", title=f"never: {base}")
    figure.tight_layout()
    return figure


def finding(results: Results) -> str:
    """How much of the gain the last quarter of the epochs gives, for SAM-ON and for SAM."""
    late = {m: _switched(results, m, "start") for m in (ON, ALL)}
    early = {m: _switched(results, m, "end") for m in (ON, ALL)}
    if not late[ON]:
        return "This profile is too short to switch the perturbation on or off within a run."
    epochs, last = results.cell(BASE).base.epochs, max(late[ON])
    share = {m: 100 * recovered(results, late[m][last]) for m in (ON, ALL)}
    first = max(early[ON])
    kept = {m: 100 * recovered(results, early[m][first]) for m in (ON, ALL)}
    met = "is met" if share[ON] < 50 <= share[ALL] else "is not met"
    return (
        f"Switched on for the last {epochs - last} of {epochs} epochs, SAM-ON gets "
        f"{number(share[ON], 0)} % of its gain over the base optimizer, SAM "
        f"{number(share[ALL], 0)} % of its own. The expectation that SAM-ON, needing time for γ to "
        f"grow, would get less than half where SAM gets most {met}. Switched off for the last "
        f"{epochs - first} epochs, {number(kept[ON], 0)} % and {number(kept[ALL], 0)} % are left."
    )


def _statistics(results: Results) -> dict[str, tuple[dict[str, Cell], str]]:
    """Per kind of statistics: the cells of base, SAM and SAM-ON, and the column to read."""
    plain = {"base": BASE, "all": ALL, "only_norm": ON}
    both = {key: results.cell(method) for key, method in plain.items()}
    first = {key: results.cell(m.but(**_FIRST)) for key, m in plain.items() if m != BASE}
    return {
        "of both passes": (both, "test_accuracy"),
        "of the first pass": ({"base": both["base"]} | first, "test_accuracy"),
        "recalibrated after training": (both, RECALIBRATED),
    }


def _gains(results: Results, worse: str, kinds: Sequence[str]) -> list[Comparison]:
    """SAM-ON minus the base optimizer or SAM, under some kinds of statistics."""
    found = _statistics(results)
    return [
        results.compare(found[kind][0]["only_norm"], found[kind][0][worse], column=found[kind][1])
        for kind in kinds
    ]


def statistics(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """SAM-ON's gain under BatchNorm statistics of both passes, the first, and recalibrated."""
    kinds = _statistics(results)
    rows = []
    gain = _gains(results, "base", list(kinds))
    for (kind, (cells, column)), over_base in zip(kinds.items(), gain, strict=True):
        row = {"statistics": kind}
        for key, name in (("base", method_name(results.profile, BASE)), ("all", "SAM")):
            row[name] = spread(results.accuracies(cells[key], column=column))
        row["SAM-ON"] = spread(results.accuracies(cells["only_norm"], column=column))
        row["ρ SAM"], row["ρ SAM-ON"] = (edge(results, cells[k]) for k in ("all", "only_norm"))
        row["SAM-ON − base"] = f"{over_base}: {over_base.verdict}"
        rows.append(row)
    direct = _gains(results, "all", list(kinds))
    columns = verdicts(direct)
    columns = {"SAM-ON − SAM" if k == "difference" else k: v for k, v in columns.items()}
    return pd.DataFrame(rows).assign(**columns), direct


def finding_statistics(results: Results) -> str:
    """Whether SAM-ON's gain survives without statistics of the perturbed pass."""
    kinds = list(_statistics(results))
    gains = dict(zip(kinds, _gains(results, "base", kinds), strict=True))
    parts = [f"{gain} with statistics {kind}" for kind, gain in gains.items()]
    answer = not_statistics(results)
    base = method_name(results.profile, BASE)
    return (
        f"SAM-ON − {base} is {listed(parts)}. That statistics of the perturbed pass do not cause "
        f"the gain: {answer.verdict}."
    )


def not_statistics(results: Results) -> Answer:
    """SAM-ON's gain over the base optimizer persists without them (claim 15).

    Both with the statistics of the first pass only and with recalibrated ones SAM-ON minus the
    base optimizer must hold.
    """
    kinds = ("of the first pass", "recalibrated after training")
    return all_of(_gains(results, "base", kinds), "kinds of statistics", strict=True)


TABLES = {
    "when": lambda results: table(results)[0],
    "statistics": lambda results: statistics(results)[0],
}
DECIDES = {15: not_statistics}
