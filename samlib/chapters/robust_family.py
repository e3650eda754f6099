"""The family on corrupted and attacked images: is a member's place on clean images its place there?

Hypothesis, set before the measurements: the ranking by clean accuracy and the ranking by accuracy
on shifted images agree, Kendall's tau above 0.7, for corrupted and for attacked ones. The networks
that are ranked are the base optimizer, and SAM and every member under each of its masks.

A control, added when the measurements were known: the same ranking by clean accuracy on all test
images. Where not even the two clean rankings agree, the images are too few to rank the networks,
and a low tau on shifted ones is open, not reversed.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import kendalltau, norm

from samlib.chapters import family
from samlib.errors import RecordsMissing
from samlib.report import tidy
from samlib.report.figures import COLOURS, MARKERS, key_of, legend, use_style
from samlib.report.names import MEMBER_NAMES, method_name
from samlib.report.results import Results
from samlib.report.stats import LEVEL, NOT_RUN, OPEN, REVERSED, SEEN, Comparison
from samlib.report.text import listed, number
from samlib.report.wording import lines
from samlib.study.cells import Cell
from samlib.study.methods import BASE

MEASURE = "robustness_in_short"
AGREE = 0.7  # Kendall's tau of two rankings that agree
SHIFTED = {"corrupted": "corrupted, mean", "attacked": "attacked, mean of four"}
CLEAN = {"corrupted": "clean", "attacked": "attacked_clean"}  # of the same images


def accuracies(results: Results, cell: Cell) -> pd.DataFrame:
    """Accuracy in percent by seed, columns of `SHIFTED` and `CLEAN`; `attacked` is a mean of four.

    A last column, `all`, is the clean accuracy on all test images. No rows where every measured run
    diverged.

    Raises:
        RecordsMissing: the cell has not been measured.
    """
    found = results.measured(cell, MEASURE)
    rows = {
        seed: [
            *(of[column] for column in ("clean", "attacked_clean", "corrupted")),
            sum(a["accuracy"] for a in of["attacks"]) / len(of["attacks"]),
        ]
        for seed, of in found.items()
    }
    columns = ["clean", "attacked_clean", "corrupted", "attacked"]
    found = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=float)
    return found.assign(all=results.accuracies(cell).reindex(found.index))


def _networks(results: Results) -> dict[str, Cell]:
    """The base optimizer, then SAM and every member under each mask it is run with, by name."""
    base = {method_name(results.profile, BASE): results.cell(BASE)}
    return base | family.named(results, ("sam", *family.ran(results)))


def table(results: Results) -> pd.DataFrame:
    """Every member under both masks; what only norm adds on shifted images beyond clean ones."""
    try:
        return tidy.table(list(_rows(results)))
    except RecordsMissing:
        return tidy.table([])


def _rows(results: Results) -> Iterator[dict]:
    for name in family.both_masks(results):
        sides = [accuracies(results, cell) for cell in family.of_member(results, name)]
        gap = (sides[1] - sides[0]).dropna()
        row = {"member": MEMBER_NAMES[name], "seeds": len(gap)}
        for column in ("clean", *SHIFTED):
            for side, mask in zip(sides, ("all", "only norm"), strict=True):
                row[f"{column}, {mask}"] = side[column].mean()
        for column, clean in CLEAN.items():
            row[f"{column}, more than clean"] = (gap[column] - gap[clean]).mean()
        yield row


def agreement(x: pd.Series, y: pd.Series) -> Comparison:
    """Kendall's tau of two rankings, with a 95 % interval, and whether that lies above `AGREE`.

    atanh(tau) is taken as normal with variance 0.437 / (n - 4) (Fieller, Hartley and Pearson, 1957,
    "Tests for rank correlation coefficients"). `seeds` is n, how many are ranked.
    """
    both = pd.DataFrame({"x": x, "y": y}).dropna()
    count = len(both)
    tau = float(kendalltau(both["x"], both["y"]).statistic) if count > 1 else math.nan
    if count <= 4 or math.isnan(tau):
        return Comparison(tau, math.nan, math.nan, count, math.nan, OPEN)
    low = high = tau
    if abs(tau) < 1:
        half = norm.ppf((1 + LEVEL) / 2) * math.sqrt(0.437 / (count - 4))
        low, high = (math.tanh(math.atanh(tau) + side * half) for side in (-1, 1))
    seen = SEEN if low > AGREE else REVERSED if high < AGREE else OPEN
    return Comparison(tau, low, high, count, math.nan, seen)


class Ranking(NamedTuple):
    """How well a ranking by accuracy on shifted images agrees with the one on the same, clean.

    Attributes:
        agreement: with what it shows.
        control: Kendall's tau of the clean ranking with the one on all test images.
    """

    agreement: Comparison
    control: float


def rankings(results: Results) -> dict[str, Ranking]:
    """The ranking of each of `SHIFTED` with its `CLEAN`; empty where nothing is measured."""
    try:
        means = pd.DataFrame(
            {name: accuracies(results, cell).mean() for name, cell in _networks(results).items()}
        ).T.drop_duplicates()  # two names of one network
    except RecordsMissing:
        return {}
    found = {}
    for column, clean in CLEAN.items():
        judged, control = (agreement(means[clean], means[other]) for other in (column, "all"))
        if judged.seen == REVERSED and not control.mean > AGREE:
            judged = replace(judged, seen=OPEN)
        found[column] = Ranking(judged, control.mean)
    return found


def rank_table(results: Results) -> pd.DataFrame:
    """How well the rankings agree, and whether that meets the hypothesis."""
    return tidy.table(
        [
            {
                "test images": SHIFTED[column],
                "Kendall's tau with clean": tidy.comparison(c, results.profile.where),
                "control: clean with all test images, clean": control,
            }
            for column, (c, control) in rankings(results).items()
        ]
    )


def figure(results: Results) -> Figure:
    """Accuracy on corrupted and on attacked images against that on the same images, clean."""
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.8))
    for ax, (column, clean) in zip(axes, CLEAN.items(), strict=True):
        for _, cell in _networks(results).items():
            mean, key = accuracies(results, cell).mean(), key_of(cell.method)
            ax.plot(mean[clean], mean[column], MARKERS[key], color=COLOURS[key], mec="white", ms=7)
        ax.set_xlabel("clean, %")
        ax.set_title(f"{SHIFTED[column]}, %")
    base = method_name(results.profile, BASE)
    legend(figure, {"base": base, "all": "all", "only_norm": "only norm"}, dashed=())
    return figure


def finding(results: Results) -> str:
    """Whether the rankings agree."""
    found = rankings(results)
    if not found:
        return "The family's members have not been measured on shifted images in this profile."
    told = [
        f"that on {column} images is {number(c.mean)} "
        f"[{number(c.low)}, {number(c.high)}] ({c.seen})"
        for column, (c, _) in found.items()
    ]
    count = next(iter(found.values())).agreement.seeds
    return (
        f"Over {count} networks, Kendall's tau of clean accuracy with {', with '.join(told)}. "
        f"The hypothesis is a tau above {AGREE}.{_too_few(found)}"
    )


def _too_few(found: dict[str, Ranking]) -> str:
    """Where a low tau says nothing, since the images cannot rank the networks even clean."""
    controls = [
        f"{number(control)} for those {column}"
        for column, (c, control) in found.items()
        if c.high < AGREE and not control > AGREE
    ]
    if not controls:
        return ""
    return (
        " The images are too few to refute it: even clean, tau of the accuracy on them with that "
        f"on all test images is {listed(controls)}."
    )


def verdict(results: Results) -> str:
    """Seen if both rankings agree, reversed if one does not, else open; or not run."""
    words = {ranking.agreement.seen for ranking in rankings(results).values()}
    if not words:
        return NOT_RUN
    return REVERSED if REVERSED in words else SEEN if words == {SEEN} else OPEN


def opening(results: Results) -> dict[str, str]:
    """What is said, what is seen, and the verdict with what it is worth."""
    says = "Nothing: the question is that of Schapiro and Zhao, asked of the family."
    found = rankings(results)
    taus = ", ".join(f"{number(r.agreement.mean)} ({column})" for column, r in found.items())
    sees = f"Kendall's tau {taus or 'not run'}.{_too_few(found)}"
    return lines(results.profile.where, says, sees, verdict(results))


TABLES = {"robust_family": table, "robust_ranks": rank_table}
DECIDES: dict = {}
