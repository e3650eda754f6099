"""The competing explanations, each with a prediction that can fail."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import linregress

from samlib.chapters import family, shift
from samlib.report.figures import key_of
from samlib.report.law import prediction
from samlib.report.results import Results
from samlib.report.stats import REVERSED, SAME, SEEN, Comparison, blurred, compare
from samlib.report.text import number
from samlib.study import members, plan
from samlib.study.cells import Cell, all_cells
from samlib.study.methods import ALL, ON, Method

Found = tuple[Comparison, str] | None  # what is compared, and what it is of
NORM = 1.0  # percent, of the weights' norm: smaller differences are of no interest
NEAR = 10.0  # points of training accuracy: over more a line does not hold
FEWEST = 5  # points of a line: of fewer its error is not known


@dataclass(frozen=True)
class Explanation:
    """One of the competing explanations.

    Attributes:
        name: what would do the work.
        prediction: what it says will be seen.
        look: the comparison that shows it; None if it is not run.
        met_by: what the comparison then shows.
        unit: of the comparison.
    """

    name: str
    prediction: str
    look: Callable[[Results], Found]
    met_by: tuple[str, ...] = (SEEN,)
    unit: str = "points"


# --- from records of other chapters -------------------------------------------------------------


def finished(results: Results) -> list[Cell]:
    """Every cell of the headline network whose runs are all there, but for fresh seeds."""
    wanted = all_cells(plan.chapter_needs(results.profile))
    base = results.profile.bases[results.profile.headline]
    return [c for c in wanted if c.base == base and not c.repeats and results.has(c)]


def fits(results: Results) -> pd.DataFrame:
    """Training and test accuracy of every finished cell, means over seeds, in percent.

    Without methods whose training accuracy is counted at weights that were moved.
    """
    rows = [
        {
            "key": key_of(cell.method),
            "train": results.fitted(cell),
            "test": results.accuracies(cell).mean(),
            "method": cell.method,
        }
        for cell in finished(results)
        if not _counted_elsewhere(cell.method)
    ]
    return pd.DataFrame(rows)


def _counted_elsewhere(method: Method) -> bool:
    """Whether training accuracy is not that of w: the first pass is at w + eps, or at SAMPa's y."""
    name = members.member(method)
    return members.one_pass(name) or name == "sampa"


def memorisation(results: Results) -> Found:
    """SAM-ON minus SAM at equal training accuracy, by the line of test on training accuracy.

    The line is that of the methods within `NEAR` of SAM's training accuracy, without SAM and
    without those that perturb norm layers alone. The interval holds the slope's own error, too.
    """
    table = fits(results).drop_duplicates(["train", "test"])  # two names of one step
    on, sam = (_fits_by_seed(results, results.cell(m)) for m in (ON, ALL))
    near = (table["train"] - sam["train"].mean()).abs() <= NEAR
    others = table[near & ~table["method"].map(_is_sam) & ~table["key"].map(_in_the_norms)]
    if len(others) < FEWEST or others["train"].std() == 0:
        return None
    line = linregress(others["train"], others["test"])
    both = (on - sam).dropna()
    off = both["test"] - line.slope * both["train"]
    error = line.stderr * both["train"].mean()
    found = blurred(off, error, len(others) - 2, results.margin)
    r = float(np.corrcoef(table["train"], table["test"])[0, 1])
    line_of = f"a line through {len(others)} points; correlation {number(r)} over {len(table)}"
    return found, f"SAM-ON − SAM at equal training accuracy, by {line_of}"


def _is_sam(method: Method) -> bool:
    """SAM, whatever statistics BatchNorm takes: its weights are the same."""
    return method in (ALL, ALL.control(batchnorm="first"))


def _in_the_norms(key: str) -> bool:
    """Whether a mask perturbs parameters of norm layers alone."""
    return key in ("only_norm", "only_gamma", "only_beta") or key.startswith("blocks_")


def _fits_by_seed(results: Results, cell: Cell) -> pd.DataFrame:
    runs = results.runs(cell)
    index = [r["config"]["seed"] for r in runs]
    train = [r["curves"]["train_accuracy"][-1] for r in runs]
    return pd.DataFrame({"train": train, "test": [r["test_accuracy"] for r in runs]}, index)


def _log_norms(results: Results, cell: Cell) -> pd.Series:
    """Logarithm of the norm of the final weights, by seed; NaN of a run that diverged."""
    curves = {r["config"]["seed"]: r["curves"]["weight_norm"] for r in results.runs(cell)}
    last = {seed: curve[-1] if curve else None for seed, curve in curves.items()}
    return pd.Series({s: math.nan if norm is None else math.log(norm) for s, norm in last.items()})


def effective_rate(results: Results) -> Found:
    """Norm of the final weights, SAM-ON over SAM: a scale-free network moves by lr / ||w||^2."""

    on, sam = (_log_norms(results, results.cell(m)) for m in (ON, ALL))
    change = (100 * (on - sam)).dropna()
    return (
        (compare(change, NORM), "norm of the final weights, SAM-ON over SAM")
        if len(change)
        else None
    )


def toy(results: Results) -> Found:
    """Mean |gamma| at the end, SAM-ON minus SAM."""
    found = shift.difference(results, ON, ALL)
    return (found, "mean |γ|, SAM-ON − SAM") if found.seeds else None


def by_the_law(results: Results) -> Found:
    """The chosen rho of SAM-ON over the one the law gives it, a number and not a sample."""
    found = prediction(results, ON)
    if found is None:
        return None
    rho = results.rho(results.cell(ON))
    off = found.octaves(rho)
    seen = SAME if abs(off) <= 0.5 else SEEN if off > 0 else REVERSED
    what = f"SAM-ON's chosen ρ is {rho:g}, the law's {found.rho:.3g}"
    return Comparison(off, math.nan, math.nan, 1, math.nan, seen), what


# --- from steps made for it -----------------------------------------------------------------------


def _on(results: Results, name: str) -> Cell | None:
    return family.of_member(results, name)[1]


def _sam_on_minus(name: str, label: str) -> Callable[[Results], Found]:
    def look(results: Results) -> Found:
        other = _on(results, name)
        if other is None:
            return None
        share = family.percent(family.retention(results, other))
        return results.compare(results.cell(ON), other), f"SAM-ON − {label}, which has {share}"

    return look


def felt(results: Results) -> Found:
    """The perturbed gradient felt by all but the mask, minus felt by the mask alone."""
    mask, others = _on(results, "felt_by_mask"), _on(results, "felt_by_others")
    if mask is None or others is None:
        return None
    kept = (family.percent(family.retention(results, c)) for c in (others, mask))
    what = "felt by all other weights: {}; felt by γ and β alone: {}".format(*kept)
    return results.compare(others, mask), what


def following_lr(results: Results) -> Found:
    """What rho proportional to the learning rate costs SAM-ON, minus what it costs SAM."""
    everything, on = family.of_member(results, "rho_lr")
    if everything is None or on is None:
        return None
    table = results.together(results.cell(ON), on, results.cell(ALL), everything)
    cost = (table[0] - table[1]) - (table[2] - table[3])
    root = _on(results, "rho_root_lr")
    what = "what it costs SAM-ON − what it costs SAM"
    if root:
        lost = results.compare(results.cell(ON), root)
        what += f"; ρ proportional to the rate's root costs SAM-ON {lost}"
    return results.judge(cost), what


EXPLANATIONS = (
    Explanation(
        "less memorisation",
        "Test accuracy follows from training accuracy: at equal training accuracy SAM-ON and SAM "
        "show no difference.",
        memorisation,
        (SAME,),
    ),
    Explanation(
        "a gradient-norm penalty on γ and β",
        "Descending L + λ‖∇L‖ on γ and β, without an ascent, does as well: SAM-ON is not ahead.",
        _sam_on_minus("penalty", "penalty"),
        (SAME, REVERSED),
    ),
    Explanation(
        "noise rather than ascent",
        "A random direction in γ and β does as well: SAM-ON is not ahead.",
        _sam_on_minus("random_sam", "random direction"),
        (SAME, REVERSED),
    ),
    Explanation(
        "any move along the gradient",
        "The sign does not matter: SAM-ON is not ahead of the same step downhill.",
        _sam_on_minus("downhill", "sign flipped"),
        (SAME, REVERSED),
    ),
    Explanation(
        "the other weights feel it",
        "The perturbed gradient does more in the weights that were not perturbed than in γ and β.",
        felt,
    ),
    Explanation(
        "a larger effective learning rate",
        "SAM-ON ends with a smaller norm of the weights than SAM (within one percent is no "
        "difference), so that the same rate turns them further.",
        effective_rate,
        (REVERSED,),
        "percent",
    ),
    Explanation(
        "nothing but the size of the step (the law)",
        "The chosen ρ of SAM-ON over SAM's is 1/√(share of ‖g‖² on the norm layers), within √2.",
        by_the_law,
        (SAME,),
        "",
    ),
    Explanation(
        "the toy of two parameters",
        "A perturbed scale ends larger: mean |γ| at the end is larger with SAM-ON than with SAM.",
        toy,
        unit="",
    ),
    Explanation(
        "a constant ρ late in training",
        "With ρ proportional to the learning rate SAM-ON loses more than SAM.",
        following_lr,
    ),
)
