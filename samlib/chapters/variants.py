"""Every SAM variant, only-norm against all, on every BatchNorm network: the paper's Table 1."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from samlib.report import paper, tidy
from samlib.report.answers import Answer, all_of
from samlib.report.figures import draw_points, long, use_style
from samlib.report.names import GEOMETRY_NAMES, MASK_NAMES, MODEL_NAMES, family_name
from samlib.report.results import Results
from samlib.study.methods import BASE, Method


def table(results: Results) -> pd.DataFrame:
    """Every geometry, only-norm minus all, in every BatchNorm family: the paper's Table 1."""
    rows, comparisons = [], []
    for family in results.profile.families:
        base = results.cell(BASE, family)
        for geometry in results.profile.geometries:
            everything = results.cell(Method(geometry, "all"), family)
            on = results.cell(Method(geometry, "only_norm"), family)
            comparisons.append(results.compare(on, everything))
            rows.append(
                {
                    "model": family_name(results.profile, family),
                    "variant": GEOMETRY_NAMES[geometry],
                    "base": tidy.spread(results.accuracies(base)),
                    "all": tidy.at_rho(results, everything),
                    "only norm": tidy.at_rho(results, on),
                    "diverged": results.diverged(everything, on),
                }
            )
    return tidy.judged(rows, "difference", comparisons)


def reported_table(results: Results) -> pd.DataFrame:
    """The best points of the paper's rho curves beside ours, by variant."""
    rows = []
    for geometry in results.profile.geometries:
        row = {"variant": GEOMETRY_NAMES[geometry]}
        for mask in ("all", "only_norm"):
            found = paper.best(geometry, mask)
            name = MASK_NAMES[mask]
            row[f"reported {name}"] = tidy.reported(found and found[1])
            row[f"at ρ, {name}"] = {"rho": found[0] if found else math.nan}
        both = [paper.best(geometry, mask) for mask in ("only_norm", "all")]
        gap = both[0][1].value - both[1][1].value if all(both) else math.nan
        row["reported difference"] = gap
        ours = results.compare(
            results.cell(Method(geometry, "only_norm")), results.cell(Method(geometry, "all"))
        )
        row[f"ours ({MODEL_NAMES[results.cell(BASE).base.model]})"] = tidy.difference(ours)
        rows.append(row)
    return tidy.table(rows)


def figure(results: Results) -> Figure:
    """Only-norm minus all by variant and family, a point per seed, with interval."""
    use_style()
    families, geometries = results.profile.families, results.profile.geometries
    figure, axes = plt.subplots(
        1, len(families), figsize=(8.6, 0.42 * len(geometries) + 1.5), sharey=True, sharex=True
    )
    for ax, family in zip(np.atleast_1d(axes), families, strict=True):
        differences = {}
        for geometry in geometries:
            on, everything = (
                results.accuracies(results.cell(Method(geometry, mask), family))
                for mask in ("only_norm", "all")
            )
            differences[GEOMETRY_NAMES[geometry]] = (on - everything).dropna()
        draw_points(ax, long(differences, ["only_norm"] * len(geometries)), "value", "label")
        ax.axvline(0, color="#444444", lw=0.8)
        ax.set_title(family_name(results.profile, family))
        ax.set_xlabel("only norm − all, points")
    figure.tight_layout()
    return figure


def finding(results: Results) -> str:
    """How many variants gain, and how many lose, from the only-norm mask."""
    counts = table(results)["difference"]["verdict"].value_counts()
    total = int(counts.sum())
    said = ", ".join(f"{counts.get(v, 0)} {w}" for v, w in _COUNTED)
    answer = every_variant(results)
    return (
        f"Of {total} comparisons, {said}. The claim that SAM-ON is at least as good for every "
        f"variant: {answer.verdict}."
    )


_COUNTED = (
    ("holds", "favour only norm"),
    ("refuted", "favour all"),
    ("equivalent", "are equivalent"),
    ("undecided", "are undecided"),
)


def every_variant(results: Results) -> Answer:
    """only norm minus all, every variant and family (claim 1)."""
    comparisons = [
        results.compare(
            results.cell(Method(g, "only_norm"), family), results.cell(Method(g, "all"), family)
        )
        for family in results.profile.families
        for g in results.profile.geometries
    ]
    return all_of(comparisons, "comparisons", strict=False)


TABLES = {"variants": table}
DECIDES = {1: every_variant}
