"""When the perturbation is needed: SAM and SAM-ON in some of the epochs only."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.report import tidy
from samlib.report.answers import DESCRIBED
from samlib.report.figures import between, curves, key_of, legend, use_style
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import Share
from samlib.report.text import listed
from samlib.report.wording import lines
from samlib.study import plan
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, ON, Method


def _switched(results: Results, method: Method, side: str) -> dict[int, Cell]:
    """The cells of a method that starts or ends at some epoch, by that epoch."""
    cells = plan.when(results.profile).cells
    return {
        dict(cell.method.changes)[side]: cell
        for cell in cells
        if cell.method.plain == method and side in dict(cell.method.changes)
    }


def recovered(results: Results, cell: Cell) -> Share | None:
    """Share of the method's gain over the base optimizer that is left, on the paired seeds.

    None where these seeds do not show that there is a gain.
    """
    return results.share(results.accuracies(cell), of=cell.method.plain)


def table(results: Results) -> pd.DataFrame:
    """SAM and SAM-ON in some of the epochs only, against the same in all of them."""
    rows, comparisons = [], []
    for method in (ALL, ON):
        always = results.cell(method)
        for side in ("start", "end"):
            for epoch, cell in _switched(results, method, side).items():
                comparisons.append(results.compare(cell, always))
                last = always.base.epochs
                active = (epoch + 1, last) if side == "start" else (1, epoch)
                rows.append(
                    {
                        "method": method_name(results.profile, method),
                        "active epochs": dict(zip(("from", "to"), active, strict=True)),
                        "accuracy": tidy.spread(results.accuracies(cell)),
                        "gain left": tidy.share(recovered(results, cell)),
                    }
                )
    return tidy.judged(rows, "difference", comparisons, results.profile.where)


def _by_epoch(results: Results, side: str) -> pd.DataFrame:
    """Accuracy of every run by the epoch of its switch, and always and never, on the same seeds."""
    rows, base = [], results.cell(BASE)
    for method in (ALL, ON):
        always = results.cell(method)
        epochs = always.base.epochs
        ends = {0: always, epochs: base} if side == "start" else {0: base, epochs: always}
        aside = epochs / 80 * (1 if method == ON else -1)  # neither curve covers the other
        rows += [
            {"key": key_of(method), "epoch": epoch + aside, "accuracy": accuracy}
            for epoch, cell in sorted((_switched(results, method, side) | ends).items())
            for accuracy in results.accuracies(cell).iloc[: results.profile.seeds]
        ]
    return pd.DataFrame(rows)


def figure(results: Results) -> Figure:
    """Accuracy against the epoch the perturbation starts after, and against the one it ends at."""
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
    epochs = results.cell(BASE).base.epochs
    base = method_name(results.profile, BASE)
    titles = {"start": "switched on late", "end": "switched off early"}
    for ax, side in zip(axes, titles, strict=True):
        curves(ax, _by_epoch(results, side), "epoch", "accuracy", errorbar=between)
        ax.set_title(titles[side])
        where = {"start": ("always", base), "end": (base, "always")}[side]
        inner = sorted(_switched(results, ON, side))
        labels = [f"0\n{where[0]}", *map(str, inner), f"{epochs}\n{where[1]}"]
        ax.set_xticks([0, *inner, epochs], labels)
        ax.set_xlabel(f"epochs before the perturbation {side}s")
    axes[0].set_ylabel("test accuracy, %")
    legend(figure, {key_of(m): method_name(results.profile, m) for m in (ALL, ON)})
    return figure


def finding(results: Results) -> str:
    """How much of the gain the last switch leaves, for SAM-ON and for SAM, on and off."""
    late = {m: _switched(results, m, "start") for m in (ON, ALL)}
    early = {m: _switched(results, m, "end") for m in (ON, ALL)}
    if not late[ON]:
        return "This profile is too short to switch the perturbation on or off within a run."
    epochs, last = results.cell(BASE).base.epochs, max(late[ON])
    base = method_name(results.profile, BASE)
    parts = []
    for switched, word in ((late, "on for"), (early, "off for")):
        left = {m: recovered(results, switched[m][last]) for m in (ON, ALL)}
        said = listed(
            [
                f"{share or 'no share can be given'} ({method_name(results.profile, m)})"
                for m, share in left.items()
            ]
        )
        parts.append(f"switched {word} the last {epochs - last} of {epochs} epochs, {said}")
    return f"Share of the gain over {base} that is left: {'; '.join(parts)}."


def opening(results: Results) -> dict[str, str]:
    """The three lines the page opens with; the paper's own numbers could not be sourced."""
    says = "The numbers of its table of SAM in some epochs only could not be sourced."
    worth = "The shares are described, and no claim of the paper hangs on them."
    return lines(results.profile.where, says, finding(results), DESCRIBED, worth)


TABLES = {"when": table}
DECIDES = {}
