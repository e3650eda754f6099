"""Every SAM variant, only-norm against all, on every BatchNorm network: the paper's Table 1."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from samlib.report import paper, tidy
from samlib.report.answers import NOT_ANSWERED, Answer, each_of
from samlib.report.figures import draw_points, long, use_style
from samlib.report.names import GEOMETRY_NAMES, MASK_NAMES, headline_name, problem_name
from samlib.report.results import Results
from samlib.report.stats import Comparison, corrected
from samlib.report.text import listed
from samlib.report.wording import points
from samlib.study import plan
from samlib.study.cells import Cell
from samlib.study.methods import ALL, Method

POOLED = "all variants"


def _pair(results: Results, problem: str, geometry: str) -> tuple[Cell, Cell]:
    return tuple(results.cell(Method(geometry, m), problem) for m in ("only_norm", "all"))


def _differences(results: Results, problem: str) -> pd.DataFrame:
    """only norm − all by seed, a column per variant; a seed that one does not have is NaN."""
    columns = {}
    for geometry in results.profile.geometries(problem):
        on, everything = (results.accuracies(c) for c in _pair(results, problem, geometry))
        columns[geometry] = on - everything
    return pd.DataFrame(columns)


def pooled(results: Results, problem: str) -> Comparison:
    """The mean over all variants, by seed, on the seeds that every variant has."""
    means = _differences(results, problem).dropna().mean(axis=1)
    return results.judge(means)


def table(results: Results) -> pd.DataFrame:
    """Every geometry, only-norm minus all, in every BatchNorm problem, and all of them pooled."""
    rows, comparisons = [], []
    for problem in plan.varied(results.profile):
        model = problem_name(results.profile, problem)
        for geometry in results.profile.geometries(problem):
            on, everything = _pair(results, problem, geometry)
            comparisons.append(results.compare(on, everything))
            rows.append(
                {
                    "model": model,
                    "variant": GEOMETRY_NAMES[geometry],
                    "all": tidy.at_rho(results, everything),
                    "only norm": tidy.at_rho(results, on),
                    "diverged": results.diverged(everything, on),
                }
            )
    together = corrected(comparisons)
    for row, c in zip(rows, together, strict=True):
        row["only norm − all"] = tidy.comparison(c, results.profile.where)
    for problem in plan.varied(results.profile):
        pool = tidy.comparison(pooled(results, problem), results.profile.where)
        model = problem_name(results.profile, problem)
        rows.append({"model": model, "variant": POOLED, "only norm − all": pool})
    return tidy.table(rows)


def reported_table(results: Results) -> pd.DataFrame:
    """The best points of the paper's rho curves beside ours, by variant."""
    rows = []
    for geometry in results.profile.geometries(results.profile.headline):
        row = {"variant": GEOMETRY_NAMES[geometry]}
        for mask in ("all", "only_norm"):
            found = paper.best(geometry, mask)
            name = MASK_NAMES[mask]
            row[f"reported {name}"] = tidy.reported(found and found[1])
            row[f"at ρ, {name}"] = {"rho": found[0] if found else math.nan}
        both = [paper.best(geometry, mask) for mask in ("only_norm", "all")]
        row["reported difference"] = both[0][1].value - both[1][1].value if all(both) else math.nan
        ours = results.compare(*_pair(results, results.profile.headline, geometry))
        rows.append(row | {f"ours ({headline_name(results.profile)})": tidy.difference(ours)})
    return tidy.table(rows)


def figure(results: Results) -> Figure:
    """Only-norm minus all by variant, sorted by mean, and pooled, on every network."""
    use_style()
    problems = plan.varied(results.profile)
    most = max(len(results.profile.geometries(problem)) for problem in problems)
    width = min(8.6, 2.6 + 3 * len(problems))
    figure, axes = plt.subplots(1, len(problems), figsize=(width, 0.36 * most + 1.5), sharex=True)
    for ax, problem in zip(np.atleast_1d(axes), problems, strict=True):
        found = _differences(results, problem)
        found = found[found.mean().sort_values(ascending=False).index]
        columns = {GEOMETRY_NAMES[geometry]: found[geometry].dropna() for geometry in found}
        columns[POOLED] = found.dropna().mean(axis=1)
        keys = ["only_norm"] * len(found.columns) + ["pooled"]
        draw_points(ax, long(columns, keys), "value", "label")
        ax.axvline(0, color="#444444", lw=0.8)
        ax.set_title(problem_name(results.profile, problem))
        ax.set_xlabel("only norm − all, points")
    figure.tight_layout()
    return figure


def finding(results: Results) -> str:
    """The pooled number of every network."""
    parts = [
        f"{points(pooled(results, f))} on {problem_name(results.profile, f)}"
        for f in plan.varied(results.profile)
    ]
    return f"Averaged over the variants, only norm − all is {listed(parts)}."


def every_variant(results: Results) -> Answer:
    """only norm minus all, every variant beside SAM itself, every BatchNorm network (claim 1)."""
    problems = plan.varied(results.profile)
    found = {
        (problem, g): results.compare(*_pair(results, problem, g))
        for problem in problems
        for g in results.profile.geometries(problem)
        if g != ALL.geometry
    }
    if not found:
        return NOT_ANSWERED
    several = len(problems) > 1
    names = [
        GEOMETRY_NAMES[geometry] + f" on {problem_name(results.profile, problem)}" * several
        for problem, geometry in found
    ]
    return each_of([*found.values()], "", names=names, strict=False)


TABLES = {"variants": table}
DECIDES = {"1": every_variant}
