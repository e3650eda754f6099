"""Which part of SAM-ON does it? γ or β alone, the layers of some stages, and all but the norms."""

import pandas as pd
from matplotlib.figure import Figure

from samlib.chapters.sparsity import behind_figure
from samlib.report import tidy
from samlib.report.answers import each_of
from samlib.report.names import method_name
from samlib.report.results import Results
from samlib.report.stats import Comparison, corrected
from samlib.report.text import listed
from samlib.report.wording import against, lines, points
from samlib.study import plan
from samlib.study.methods import ALL, ON, Method


def _pairs(results: Results) -> list[tuple[Method, Method]]:
    """SAM-ON against every other mask, then γ against β where both are run."""
    masks = results.profile.masks
    between = [plan.PARTS] if {*plan.PARTS} <= {*masks} else []
    return [*((ON, mask) for mask in masks), *between]


def table(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """One mask minus another, on the seeds both have."""
    rows, comparisons = [], []
    for one, other in _pairs(results):
        cells = [results.cell(m) for m in (one, other)]
        both = results.together(*cells)
        comparisons.append(results.compare(*cells))
        rows.append(
            {
                "perturbed": method_name(results.profile, one),
                "accuracy": tidy.at_rho(results, cells[0], both[0]),
                "minus": method_name(results.profile, other),
                "its accuracy": tidy.at_rho(results, cells[1], both[1]),
                "diverged": results.diverged(*cells),
            }
        )
    return tidy.judged(rows, "difference", comparisons, results.profile.where), comparisons


def figure(results: Results) -> Figure:
    """Difference to SAM-ON of SAM and of every other mask."""
    return behind_figure(results, (ALL, *results.profile.masks))


def finding(results: Results) -> str:
    """Whether γ or β alone does what SAM-ON does, and which of them does more."""
    pairs = dict(zip(_pairs(results), corrected(table(results)[1]), strict=True))
    said = [
        against(c, method_name(results.profile, other))
        for (one, other), c in pairs.items()
        if one == ON and other in plan.PARTS
    ]
    if not said:
        return "γ alone and β alone are not part of this profile."
    gamma, beta = (method_name(results.profile, m) for m in plan.PARTS)
    return f"SAM-ON is {listed(said)}; {gamma} is {against(pairs[plan.PARTS], beta)}."


def opening(results: Results) -> dict[str, str]:
    """What is said, what is seen, and the verdict: SAM-ON is better than each of its two parts."""
    says = "The paper has an ablation of γ and β, whose numbers could not be sourced."
    found = {
        method_name(results.profile, part): results.compare(results.cell(ON), results.cell(part))
        for one, part in _pairs(results)
        if one == ON and part in plan.PARTS
    }
    ours = "; ".join(f"SAM-ON − {name} {points(c)}" for name, c in found.items())
    better = each_of([*found.values()], ours)
    worth = "Seen means that SAM-ON is better than γ alone and than β alone."
    return lines(results.profile.where, says, better.ours, better.seen, worth)


TABLES = {"parts": lambda results: table(results)[0]}
DECIDES: dict = {}
