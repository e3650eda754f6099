"""Does it carry over? SAM-ON on every network: BatchNorm and LayerNorm, SGD, AdamW and Lion."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from samlib.report import paper, tidy
from samlib.report.answers import Answer, each_of
from samlib.report.counting import wrong_labels
from samlib.report.figures import draw_points, long, use_style
from samlib.report.names import (
    GEOMETRY_NAMES,
    OPTIMIZER_NAMES,
    method_name,
    problem_name,
)
from samlib.report.results import Results
from samlib.report.stats import Comparison, corrected
from samlib.report.text import listed
from samlib.report.wording import AGAINST
from samlib.study.methods import ALL, BASE, ON, Method


def _against(results: Results, worse: Method, problem: str, geometry: str = "l2") -> Comparison:
    """Only norm minus the base optimizer, or minus all, of one variant on one network."""
    on = results.cell(Method(geometry, "only_norm"), problem)
    other = worse if worse == BASE else Method(geometry, "all")
    return results.compare(on, results.cell(other, problem))


def _rows(results: Results) -> list[tuple[str, str]]:
    """Every network with SAM, and transformers with their other variants."""
    profile = results.profile
    more = [(f, g) for f in profile.transformers for g in profile.geometries(f) if g != "l2"]
    return [*((problem, "l2") for problem in profile.bases), *more]


def _label(results: Results, problem: str, geometry: str) -> str:
    variant = "" if geometry == "l2" else f", {GEOMETRY_NAMES[geometry]}"
    return problem_name(results.profile, problem) + variant


def table(results: Results, worse: Method = ALL) -> tuple[pd.DataFrame, list[Comparison]]:
    """SAM-ON on every network, minus SAM or minus the base optimizer."""
    rows, comparisons = [], []
    for problem, geometry in _rows(results):
        methods = BASE, Method(geometry, "all"), Method(geometry, "only_norm")
        base, everything, on = (results.cell(m, problem) for m in methods)
        comparisons.append(_against(results, worse, problem, geometry))
        rows.append(
            {
                "network": _label(results, problem, geometry),
                "base": {"optimizer": method_name(results.profile, BASE, problem)}
                | tidy.spread(results.accuracies(base)),
                "SAM": tidy.at_rho(results, everything),
                "SAM-ON": tidy.at_rho(results, on),
                "diverged": results.diverged(base, on, *([everything] if worse == ALL else [])),
            }
        )
    name = "SAM-ON − base" if worse == BASE else "SAM-ON − SAM"
    return tidy.judged(rows, name, comparisons, results.profile.where), comparisons


def reported_table() -> pd.DataFrame:
    """What others report: the authors on ImageNet, and an independent study on CIFAR-100."""
    rows = [
        _reported_row(f"ViT-S/32, ImageNet, {OPTIMIZER_NAMES[name]}", numbers)
        for name, numbers in paper.IMAGENET.items()
    ]
    rows += [
        _reported_row(f"{network}, CIFAR-100", numbers)
        for network, numbers in paper.INDEPENDENT.items()
    ]
    rows += [
        _reported_row(f"{network}, CIFAR-10 and CIFAR-100, AdamW", None)
        for network in ("ViT-T", "ViT-S")
    ]
    return tidy.table(rows)


def _reported_row(name: str, numbers: dict[str, paper.Number] | None) -> dict:
    if numbers is None:
        return {"network": name}
    return {
        "network": name,
        "base": tidy.reported(numbers["base"]),
        "SAM": tidy.reported(numbers["all"]),
        "SAM-ON": tidy.reported(numbers["only_norm"]),
        "reported SAM-ON − SAM": numbers["only_norm"].value - numbers["all"].value,
        "source": numbers["base"].source,
    }


def figure(results: Results) -> Figure:
    """SAM-ON minus SAM, and minus the base optimizer, on every network."""
    use_style()
    problems = list(results.profile.bases)
    size = (8.6, 0.36 * len(problems) + 1.1)
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True)
    for ax, (worse, label) in zip(axes, ((ALL, "SAM"), (BASE, "base optimizer")), strict=True):
        differences = {
            problem_name(results.profile, problem): (
                results.accuracies(results.cell(ON, problem))
                - results.accuracies(results.cell(worse, problem))
            ).dropna()
            for problem in problems
        }
        draw_points(ax, long(differences, ["only_norm"] * len(problems)), "value", "label")
        ax.axvline(0, color="#444444", lw=0.8)
        ax.set_xlabel(f"SAM-ON − {label}, points")
    figure.tight_layout()
    return figure


def finding_fit(results: Results) -> str:
    """How far each network fits the labels it is trained on: what does not fit cannot overfit."""
    fitted = []
    for problem, base in results.profile.bases.items():
        share = results.fitted(results.cell(BASE, problem))
        right = 100 * (1 - wrong_labels(base))
        of = f", {right:.0f} % of whose labels are right" if right < 100 else ""
        fitted.append(f"{share:.0f} % ({problem_name(results.profile, problem)}{of})")
    return (
        "Share of the training labels that the base optimizer fits at the end: "
        f"{'; '.join(fitted)}. "
        "A network that fits less than the right labels is still learning: its gain need not be "
        "one in generalisation."
    )


def finding(results: Results) -> str:
    """On which networks SAM-ON gains over the base optimizer and over SAM, after the correction."""
    labels = [_label(results, *row) for row in _rows(results)]
    parts = []
    for worse, label in ((BASE, "its base optimizer"), (ALL, "SAM")):
        found = corrected(table(results, worse)[1])
        for seen, word in AGAINST.items():
            where = [n for n, c in zip(labels, found, strict=True) if c.seen == seen]
            if where:
                parts.append(f"{word} {label} on {listed(where)}")
    return f"SAM-ON is {'; '.join(parts)}."


def transformers(results: Results) -> Answer:
    """LayerNorm transformers with AdamW (claim 5): above AdamW, and at least as good as SAM."""
    return _beats(results, "adamw", at_least=True)


def lion(results: Results) -> Answer:
    """Transformers with Lion: SAM-ON above Lion alone and above SAM, each (claim 6)."""
    return _beats(results, "lion", at_least=False)


def _beats(results: Results, optimizer: str, *, at_least: bool) -> Answer:
    profile = results.profile
    problems = [f for f in profile.transformers if profile.bases[f].optimizer == optimizer]
    found = [_against(results, worse, f) for f in problems for worse in (BASE, ALL)]
    ours = "; ".join(
        (f"{problem_name(profile, f)}: " if len(problems) > 1 else "")
        + f"{over_base} over {method_name(profile, BASE, f)}, {over_all} over SAM"
        for f, over_base, over_all in zip(problems, found[::2], found[1::2], strict=True)
    )
    several = {f: f" on {problem_name(profile, f)}" * (len(problems) > 1) for f in problems}
    names = [
        f"over {method_name(profile, m, f)}{several[f]}" for f in problems for m in (BASE, ALL)
    ]
    return each_of(found, ours, names=names, strict=[True, not at_least] * len(problems))


TABLES = {
    "architectures": lambda results: table(results)[0],
    "architectures_over_base": lambda results: table(results, BASE)[0],
}
DECIDES = {"5": transformers, "6": lion}
