"""Must it be normalization layers, or would any per-channel scale do?"""

import pandas as pd
from matplotlib.figure import Figure

from samlib.chapters.sparsity import behind_figure
from samlib.report import tidy
from samlib.report.answers import Answer, each_of
from samlib.report.counting import moved, undone
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import Comparison, corrected
from samlib.report.text import listed
from samlib.report.wording import against
from samlib.study import plan
from samlib.study.methods import ALL, BASE, ON, SCALES


def table(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """SAM-ON minus SAM on per-channel scales of the weights (claim 14)."""
    base, on = results.cell(BASE), results.cell(ON)
    rows, comparisons = [], []
    for method in SCALES:
        cell = results.cell(method)
        values = results.accuracies(cell)
        comparisons.append(results.compare(on, cell))
        rows.append(
            {
                "perturbed": method_name(results.profile, method),
                "numbers moved": moved(base.base, method),
                "accuracy": tidy.at_rho(results, cell, values),
                "share of SAM's gain": tidy.share(results.share(values)),
                "diverged": results.diverged(cell),
            }
        )
    where = results.profile.where
    return tidy.judged(rows, "SAM-ON minus it", comparisons, where), comparisons


def fixed(results: Results) -> pd.DataFrame:
    """Every method over the base optimizer while gamma and beta are fixed."""
    base = results.cell(plan.held(BASE))
    rows, comparisons = [], []
    for method in (ALL, ON, *SCALES):
        cell = results.cell(plan.held(method))
        comparisons.append(results.compare(cell, base))
        rows.append(
            {
                "perturbed": method_name(results.profile, method),
                "accuracy": tidy.at_rho(results, cell),
                "diverged": results.diverged(cell),
            }
        )
    return tidy.judged(rows, "minus base", comparisons, results.profile.where)


def figure(results: Results) -> Figure:
    """Difference to SAM-ON of SAM and of SAM on channel scales."""
    return behind_figure(results, (ALL, *SCALES))


def _named(results: Results, comparisons: list[Comparison]) -> str:
    labels = (method_name(results.profile, m) for m in SCALES)
    return listed([against(c, name) for c, name in zip(comparisons, labels, strict=True)])


def finding(results: Results) -> str:
    """How SAM-ON does against scales outside the norm layers."""
    return f"SAM-ON is {_named(results, corrected(table(results)[1]))}."


def finding_fixed(results: Results) -> str:
    """The same while gamma and beta are not trained."""
    on = results.cell(plan.held(ON))
    found = corrected([results.compare(on, results.cell(plan.held(m))) for m in SCALES])
    return f"With γ and β fixed, SAM-ON is {_named(results, found)}."


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
    found = table(results)[1]
    labels = [method_name(results.profile, m) for m in SCALES]
    ours = listed([f"{c} over {name}" for c, name in zip(found, labels, strict=True)])
    return each_of(found, f"{ours}, points", names=[f"over {name}" for name in labels])


TABLES = {"scales": lambda results: table(results)[0], "scales_fixed": fixed}
DECIDES = {"14": beyond_scales}
