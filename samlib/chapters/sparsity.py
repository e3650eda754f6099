"""Would any sparse perturbation do? Sparse masks under both radius rules, and channel scales."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import names, plan, reported, study
from ..answers import Answer, all_of
from ..columns import diverged, edge, spread, verdicts
from ..figures import COLOURS, MARKERS, key_of, use_style
from ..names import method_name
from ..results import Results
from ..stats import Comparison, interval
from ..study import ALL, BASE, ON, SPARSE_MASKS, Method


def table(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """SAM-ON minus every sparse mask, under both radius rules (claim 8)."""
    base, on = results.cell(BASE), results.cell(ON)
    rows, comparisons = [], []
    for cell in plan.sparsity(results.profile).cells:
        if cell.method in (BASE, ON):
            continue
        first = results.runs(cell)[0]
        kept, total = first["mask"]["count"], first["mask"]["total"]
        level = 100 * (1 - kept / total)
        comparisons.append(results.compare(on, cell))
        rows.append(
            {
                "mask": f"{method_name(results.profile, cell.method)}, {level:.2f} %",
                "radius over": "–" if cell.method == ALL else cell.method.radius_over,
                "reported": _reported_sparsity(cell.method),
                "ρ accuracy": edge(results, cell),
                "accuracy": spread(results.accuracies(cell)),
                "minus base": str(results.compare(cell, base)),
                "diverged": diverged(results, cell),
            }
        )
    columns = verdicts(comparisons)
    columns["SAM-ON minus it"] = columns.pop("difference")
    order = ["SAM-ON minus it", "verdict", "seeds to decide", "seeds", "p (Holm)"]
    return pd.DataFrame(rows).assign(**{name: columns[name] for name in order}), comparisons


def _reported_sparsity(method: Method) -> str:
    level = {None: 99.95, 0.5: 50.0}.get(method.sparsity)
    key = ("all", 0.0) if method == ALL else (method.mask, level)
    found = reported.SPARSITY.get(key)
    return str(found) if found else reported.NOT_SOURCED


def figure(results: Results) -> Figure:
    """Accuracy of every sparse mask beside SAM and SAM-ON, by radius rule."""
    use_style()
    cells = plan.sparsity(results.profile).cells
    figure, ax = plt.subplots(figsize=(8.8, 0.36 * len(cells) + 1.2))
    for y, cell in enumerate(cells):
        key, values = key_of(cell.method), results.accuracies(cell)
        ax.scatter(
            values, [y] * len(values), s=16, marker=MARKERS[key], color=COLOURS[key], alpha=0.45
        )
        mean, low, high = interval(values)
        if np.isfinite(low):
            ax.plot([low, high], [y, y], color=COLOURS[key], lw=2)
        ax.plot(mean, y, MARKERS[key], color=COLOURS[key], ms=8, mec="white")
    ax.set_yticks(range(len(cells)), [_sparse_label(results, cell.method) for cell in cells])
    ax.invert_yaxis()
    ax.set_xlabel("test accuracy at the chosen ρ, %")
    figure.tight_layout()
    return figure


def _sparse_label(results: Results, method: Method) -> str:
    if method.mask not in study.SPARSE_MASKS:
        return method_name(results.profile, method)
    level = "norm layers' sparsity" if method.sparsity is None else f"{100 * method.sparsity:g} %"
    return f"{method_name(results.profile, method)}, {level}, radius over {method.radius_over}"


def finding(results: Results) -> str:
    """Whether a random mask does better than the base optimizer, and which masks match SAM-ON."""
    base, on = results.cell(BASE), results.cell(ON)
    random = {rule: results.cell(Method("l2", "random", rule)) for rule in ("mask", "all")}
    gain = {rule: results.compare(cell, base) for rule, cell in random.items()}
    name = names.method_name(results.profile, BASE)
    text = (
        f"With a ρ of its own, random mask − {name} is {gain['mask']} points where the radius runs "
        f"over the mask, and {gain['all']} where it runs over all. "
    )
    against = {
        names.MASK_NAMES[mask]: results.compare(on, results.cell(Method("l2", mask, "mask")))
        for mask in SPARSE_MASKS
    }
    beaten = [name for name, c in against.items() if c.verdict == "holds"]
    better = [name for name, c in against.items() if c.verdict == "refuted"]
    open_ = [name for name, c in against.items() if c.verdict in ("undecided", "equivalent")]
    parts = []
    if beaten:
        parts.append(f"better than {', '.join(beaten)}")
    if better:
        parts.append(f"worse than {', '.join(better)}")
    if open_:
        parts.append(f"not told apart from {', '.join(open_)}")
    return text + f"At its own sparsity, each tuned over the mask, SAM-ON is {'; '.join(parts)}."


def beyond_sparsity(results: Results) -> Answer:
    """SAM-ON above every sparse mask of its own sparsity whose radius is over the mask."""
    comparisons = [
        results.compare(results.cell(ON), results.cell(Method("l2", mask, "mask")))
        for mask in SPARSE_MASKS
    ]
    return all_of(comparisons, "masks, radius over the mask", strict=True)


TABLES = {"sparsity": lambda results: table(results)[0]}
DECIDES = {8: beyond_sparsity}
