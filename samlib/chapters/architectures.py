"""Does it carry over? SAM-ON on every network: BatchNorm and LayerNorm, SGD, AdamW and Lion."""

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from samlib import models
from samlib.data.datasets import INFO
from samlib.models import build
from samlib.report import paper, tidy
from samlib.report.answers import Answer, all_of, weakest
from samlib.report.counting import wrong_labels
from samlib.report.figures import draw_points, long, use_style
from samlib.report.names import (
    GEOMETRY_NAMES,
    MODEL_NAMES,
    OPTIMIZER_NAMES,
    family_name,
    method_name,
)
from samlib.report.results import Results
from samlib.report.stats import Comparison, corrected
from samlib.report.text import listed
from samlib.sam.masks.base import Mask
from samlib.sam.masks.whole import only_norm
from samlib.study import plan
from samlib.study.methods import ALL, BASE, ON, Method

PAPERS = ("resnet56", "resnext29_32x4d", "wrn28_10", "vit_t", "vit_s")


def _against(results: Results, worse: Method, family: str, geometry: str = "l2") -> Comparison:
    """Only norm minus the base optimizer, or minus all, of one variant on one network."""
    on = results.cell(Method(geometry, "only_norm"), family)
    other = worse if worse == BASE else Method(geometry, "all")
    return results.compare(on, results.cell(other, family))


def _rows(results: Results) -> list[tuple[str, str]]:
    """Every network with SAM, and transformers with one more variant where it has a grid."""
    families = {base: family for family, base in results.profile.bases.items()}
    more = [
        (families[cell.base], cell.method.geometry)
        for cell in plan.architectures(results.profile).cells
        if cell.method.geometry not in ("l2", BASE.geometry) and cell.method.mask == "only_norm"
    ]
    return [*((family, "l2") for family in results.profile.bases), *more]


def _label(results: Results, family: str, geometry: str) -> str:
    variant = "" if geometry == "l2" else f", {GEOMETRY_NAMES[geometry]}"
    return family_name(results.profile, family) + variant


def table(results: Results) -> tuple[pd.DataFrame, list[Comparison]]:
    """Base optimizer, SAM and SAM-ON on every network, and SAM-ON minus the other two.

    Holm's correction runs over both differences of all rows.
    """
    rows, direct, gains = [], [], []
    for family, geometry in _rows(results):
        methods = BASE, Method(geometry, "all"), Method(geometry, "only_norm")
        base, everything, on = (results.cell(m, family) for m in methods)
        direct.append(_against(results, ALL, family, geometry))
        gains.append(_against(results, BASE, family, geometry))
        rows.append(
            {
                "network": _label(results, family, geometry),
                "base": {"optimizer": method_name(results.profile, BASE, family)}
                | tidy.spread(results.accuracies(base)),
                "SAM": tidy.at_rho(results, everything),
                "SAM-ON": tidy.at_rho(results, on),
                "diverged": results.diverged(base, everything, on),
            }
        )
    together = [tidy.comparison(c) for c in corrected([*direct, *gains])]
    for row, over_all, over_base in zip(
        rows, together[: len(rows)], together[len(rows) :], strict=True
    ):
        row |= {"SAM-ON − SAM": over_all, "SAM-ON − base": over_base}
    return tidy.table(rows), [*direct, *gains]


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
        "SAM-ON − SAM": numbers["only_norm"].value - numbers["all"].value,
        "source": numbers["base"].source,
    }


def figure(results: Results) -> Figure:
    """SAM-ON minus SAM, and minus the base optimizer, on every network."""
    use_style()
    families = list(results.profile.bases)
    size = (8.6, 0.36 * len(families) + 1.1)
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True)
    for ax, (worse, label) in zip(axes, ((ALL, "SAM"), (BASE, "base optimizer")), strict=True):
        differences = {
            family_name(results.profile, family): (
                results.accuracies(results.cell(ON, family))
                - results.accuracies(results.cell(worse, family))
            ).dropna()
            for family in families
        }
        draw_points(ax, long(differences, ["only_norm"] * len(families)), "value", "label")
        ax.axvline(0, color="#444444", lw=0.8)
        ax.set_xlabel(f"SAM-ON − {label}, points")
    figure.tight_layout()
    return figure


def finding_fit(results: Results) -> str:
    """How far each network fits the labels it is trained on: what does not fit cannot overfit."""
    fitted = []
    for family, base in results.profile.bases.items():
        share = results.fitted(results.cell(BASE, family))
        right = 100 * (1 - wrong_labels(base))
        fitted.append(f"{share:.0f} of {right:.0f} % on {family_name(results.profile, family)}")
    return (
        "Training accuracy without a perturbation, of the share of labels that are right: "
        f"{listed(fitted)}. Above its share a network fits wrong labels; below it, it has not "
        "learned all of the right ones."
    )


_WORDS = {
    "holds": "better than",
    "equivalent": "as good as",
    "undecided": "not told apart from",
    "refuted": "worse than",
}


def finding(results: Results) -> str:
    """On which networks SAM-ON gains over the base optimizer and over SAM, after the correction."""
    named_rows = [_label(results, *row) for row in _rows(results)]
    verdicts = [c.verdict for c in corrected(table(results)[1])]
    over_all, over_base = verdicts[: len(named_rows)], verdicts[len(named_rows) :]
    parts = []
    for found, label in ((over_base, "its base optimizer"), (over_all, "SAM")):
        for verdict, word in _WORDS.items():
            named = [n for n, v in zip(named_rows, found, strict=True) if v == verdict]
            if named:
                parts.append(f"{word} {label} on {listed(named)}")
    return f"SAM-ON is {'; '.join(parts)}."


def _of(results: Results, optimizer: str) -> list[str]:
    profile = results.profile
    return [f for f in profile.transformers if profile.bases[f].optimizer == optimizer]


def transformers(results: Results) -> Answer:
    """LayerNorm transformers with AdamW (claim 5).

    Holds if SAM-ON − AdamW holds and SAM-ON − SAM holds or is equivalent, on each of them; refuted
    if one of the two is below zero after Holm's correction, or SAM-ON gains nothing over AdamW.
    """
    families = _of(results, "adamw")
    gains = all_of([_against(results, BASE, f) for f in families], "", strict=True)
    direct = all_of([_against(results, ALL, f) for f in families], "", strict=False)
    return _both(results, families, gains, direct)


def lion(results: Results) -> Answer:
    """Transformers with Lion: SAM-ON above Lion alone and above SAM, each (claim 6)."""
    families = _of(results, "lion")
    gains, direct = (
        all_of([_against(results, worse, f) for f in families], "", strict=True)
        for worse in (BASE, ALL)
    )
    return _both(results, families, gains, direct)


def _both(results: Results, families: list[str], gains: Answer, direct: Answer) -> Answer:
    if not families:
        return gains
    verdict = weakest([gains.verdict, direct.verdict])
    ours = "; ".join(
        (f"{family_name(results.profile, f)}: " if len(families) > 1 else "")
        + f"{_against(results, BASE, f)} over {method_name(results.profile, BASE, f)}, "
        f"{_against(results, ALL, f)} over SAM ({_ahead(results, f)} seeds ahead)"
        for f in families
    )
    return Answer(ours, verdict, min(gains.seeds, direct.seeds))


def _ahead(results: Results, family: str) -> str:
    """In how many seeds SAM-ON is ahead of SAM."""
    difference = (
        results.accuracies(results.cell(ON, family)) - results.accuracies(results.cell(ALL, family))
    ).dropna()
    return f"{int((difference > 0).sum())} of {len(difference)}"


# --- how many parameters are in norm layers ------------------------------------------------------


def norm_mask(name: str) -> Mask:
    """The only-norm mask of a model of the zoo for 100 classes; nothing is computed with it."""
    with torch.device("meta"):  # shapes are enough
        return only_norm(build(name, num_classes=INFO["cifar100"].classes))


def norm_share() -> pd.DataFrame:
    """Norm-layer parameters of every model of the zoo (claim 12); counted, not trained."""
    rows = []
    for name in models.names():
        mask = norm_mask(name)
        rows.append(
            {
                "model": MODEL_NAMES[name],
                "parameters": mask.total,
                "in norm layers": mask.count,
                "share": {"percent": 100 * mask.share},
            }
        )
    return tidy.table(rows)


def share(results: Results) -> Answer:
    """Share of norm parameters in the paper's networks (claim 12)."""
    shares = [100 * norm_mask(name).share for name in PAPERS]
    # "about 0.1 %" read as within a factor of two for every network the paper uses.
    near = sum(0.05 <= round(share, 2) <= 0.2 for share in shares)
    ours = (
        f"{min(shares):.2f} to {max(shares):.2f} % in the paper's five CIFAR-100 networks, {near} "
        "of them within a factor of two"
    )
    return Answer(ours, "holds" if near == len(shares) else "refuted")


TABLES = {
    "architectures": lambda results: table(results)[0],
    "norm_share": lambda results: norm_share(),
}
DECIDES = {5: transformers, 6: lion, 12: share}
