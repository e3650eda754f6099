"""The claims of the paper, and what each profile's problem can say about them.

Both were set before the runs of `cifar100-10k`, except for the bearings of 11a, 11b, 11c and 14 and
some wording (page `changes`), and after the first records of `quick`. A claim that says several
things is split.
"""

from dataclasses import dataclass
from typing import NamedTuple

from samlib.report import paper
from samlib.report.names import GEOMETRY_NAMES
from samlib.report.text import number
from samlib.study.methods import SWEPT


@dataclass(frozen=True)
class Claim:
    """A falsifiable claim (specification 7).

    Attributes:
        key: its number there, with a letter where it says several things.
        statement: what the paper claims.
        decided_by: the measurement that decides it here.
        reported: the authors' number.
        own: whether the claim is this study's, and the paper does not state it.
    """

    key: str
    statement: str
    decided_by: str
    reported: str
    own: bool = False


def _imagenet(optimizer: str, name: str) -> str:
    base, sam, on = (f"{n.value:.2f}" for n in paper.IMAGENET[optimizer].values())
    return f"{on}; SAM {sam}, {name} {base} (ImageNet, ViT-S/32)"


def _lead(numbers: dict[str, paper.Number]) -> str:
    return number(numbers["only_norm"].value - numbers["all"].value, "+.2f")


_SHARP = {key: found.value for key, found in paper.SHARPNESS[20, 0.003].items()}
_ATTACKED = paper.SHIFTED["ℓ₂ attack, 0.5"]
_GAPS = {g: paper.best_gap(g, "only_norm", "all") for g in SWEPT}
# The order is that of importance.
CLAIMS = (
    Claim(
        "3",
        "SAM-ON beats SAM, with ρ tuned for both",
        "SAM-ON − SAM, both at the ρ their validation split chose, last epoch",
        f"{_GAPS['l2']:+.2f}, each at its best ρ; {paper.headline_gap():+.2f} with SAM at ρ = 0.1",
    ),
    Claim(
        "8",
        "Sparsity alone does not explain SAM-ON's gain",
        "SAM-ON − random mask, − SSAM-F, − SSAM-D of its size, radius over the mask, each tuned",
        "84.19; 80.97 with a random mask, 83.14 with SSAM-F",
    ),
    Claim(
        "1",
        "SAM-ON is at least as good as SAM for every SAM variant on BatchNorm networks",
        "only norm − all at the chosen ρ, every variant other than SAM and every such network",
        ", ".join(f"{gap:+.2f} ({GEOMETRY_NAMES[g]})" for g, gap in _GAPS.items() if g != "l2"),
    ),
    Claim(
        "4",
        "Leaving the normalization layers out of the perturbation harms",
        "all − no norm of elementwise ℓ₂, where the largest effect is predicted, or else of SAM",
        f"{paper.best_gap('elementwise_l2', 'all', 'no_norm'):+.2f} (elementwise ℓ₂), "
        f"{paper.best_gap('l2', 'all', 'no_norm'):+.2f} (SAM)",
    ),
    Claim(
        "7",
        "The best ρ of SAM-ON is larger than SAM's",
        "the ratio of the chosen values, described",
        ", ".join(f"{paper.rho_ratio(g):g} × for {GEOMETRY_NAMES[g]}" for g in SWEPT),
    ),
    Claim(
        "5",
        "SAM-ON works for LayerNorm transformers, too",
        "ViT with AdamW: SAM-ON − AdamW seen, and SAM-ON − SAM seen or no difference",
        f"{_imagenet('adamw', 'AdamW')}; CIFAR: could not be sourced",
    ),
    Claim(
        "6",
        "With Lion, SAM-ON beats SAM and Lion alone",
        "ViT with Lion: SAM-ON − Lion and SAM-ON − SAM, each seen",
        _imagenet("lion", "Lion"),
    ),
    Claim(
        "14",
        "The gain is due to normalization layers, not to per-channel scales",
        "SAM-ON − SAM on per-channel scales of the weights, of outputs and of inputs, each seen",
        "implied by the title",
        own=True,
    ),
    Claim(
        "15",
        "Statistics of the perturbed pass do not cause the gain over the base optimizer",
        "SAM-ON − base optimizer, statistics of the first pass only and recalibrated, each seen",
        "left open by the authors' code",
        own=True,
    ),
    Claim(
        "9",
        "SAM-ON is sharper and still generalises better",
        "logit-normalised ℓ∞ m-sharpness at the chosen ρ, adaptive, 20 steps, radius 0.003: the "
        "log ratio of SAM-ON to the base optimizer and to SAM, each above zero",
        f"{_SHARP['only_norm'] / _SHARP['base']:.2f} × SGD's, "
        f"{_SHARP['only_norm'] / _SHARP['all']:.2f} × SAM's",
    ),
    Claim(
        "10",
        "γ ends larger with SAM-ON than with SAM",
        "mean of |γ| over all channels at the end, SAM-ON − SAM; within ±0.01 is no difference",
        "modes {:.2f} (SAM-ON), {:.2f} and {:.2f} (SAM)".format(
            *paper.GAMMA["only_norm"], *paper.GAMMA["all"]
        ),
    ),
    Claim(
        "13",
        "Gains under distribution shift and attack exceed the clean gain",
        "SAM-ON − SAM under each condition that costs the base optimizer 5 points, minus the same "
        "on clean images",
        f"SAM-ON − SAM {_lead(_ATTACKED)} under an ℓ₂ attack of 0.5, "
        f"{_lead(paper.IMAGENET['adamw'])} clean (ImageNet, ViT-S/32, AdamW)",
    ),
    Claim(
        "11a",
        "A step of SAM-ON costs less than one of SAM, and stages 2 and 3 alone still less",
        "medians of step times; less is an upper quartile below the other's lower one",
        "1.73 × SGD's against 1.96 ×; 1.38 × for stages 2 and 3",
    ),
    Claim(
        "11b",
        "Stages 2 and 3 alone lose nothing",
        "SAM-ON on stages 2 and 3 − SAM-ON on all, seen or no difference",
        "84.42 against 84.03",
    ),
    Claim(
        "11c",
        "Stage 1 alone gains nothing",
        "base optimizer − SAM-ON on stage 1 alone, seen or no difference",
        "80.58 against 80.61 for SGD",
    ),
    Claim(
        "12",
        "Normalization layers hold about 0.1 % of the parameters",
        "counts: within a factor of two in each of the paper's five CIFAR-100 networks",
        "less than 0.1 % (v1), typically 0.1 % (v2)",
    ),
    Claim(
        "2",
        "WRN-28-10 on CIFAR-100: SGD 80.71, SAM 83.11, SAM-ON 84.19",
        "the same three numbers within ±0.4, at ρ = 0.1 and 1",
        "80.71, 83.11, 84.19",
    ),
)
BY_KEY = {claim.key: claim for claim in CLAIMS}

SAME, ANALOGUE, DIFFERS, UNTESTABLE = "same", "analogue", "regime differs", "not testable here"


class Bearing(NamedTuple):
    """What a problem can say about a claim, and why, in at most ten words."""

    on_paper: str
    reason: str


_COUNTED = Bearing(SAME, "a count")
_STEP = Bearing(ANALOGUE, "a smaller network, and another device")
_MEMORISED = Bearing(DIFFERS, "the gain is over memorised noise, after 72 steps")
_LEARNING = Bearing(DIFFERS, "a small transformer, still learning after 320 steps")
_NOISY = Bearing(ANALOGUE, "label noise instead of long training; small networks")
_WHOLE = Bearing(ANALOGUE, "a smaller network, less than a fifth of the steps")
_SHORT = Bearing(ANALOGUE, "a fifth of CIFAR-100, small network, 1/16 of the steps")
_SMALL_VIT = Bearing(ANALOGUE, "a fifth of CIFAR-100, small transformer, few steps")
_OTHER_NETWORK = Bearing(UNTESTABLE, "about WRN-28-10 after 200 epochs only")
_OWN = Bearing(SAME, "the paper's data, network and schedule")
_FIFTH = Bearing(ANALOGUE, "CIFAR-100, but a fifth of the schedule")
_ON_IMAGENET = Bearing(DIFFERS, "the paper's numbers are of ImageNet")

_CIFAR_CLAIMS = ("1", "2", "3", "4", "5", "7", "8", "9", "10", "11b", "11c", "14", "15")
_BEARINGS: dict[str, dict[str, Bearing]] = {
    "quick": {
        **dict.fromkeys(("3", "7", "8", "14", "15"), _NOISY),
        **dict.fromkeys(("1", "4", "13", "11b"), _MEMORISED),
        **dict.fromkeys(("5", "6"), _LEARNING),
        "9": Bearing(UNTESTABLE, "the base optimizer's sharpness is that of memorised noise"),
        "10": Bearing(UNTESTABLE, "weight decay acts 1,100 times less than in the paper"),
        "11c": Bearing(UNTESTABLE, "a few hundred random weights gain here, too"),
        "2": _OTHER_NETWORK,
    },
    "cifar100-10k": {
        **dict.fromkeys(("1", "3", "4", "7", "8", "9", "10", "15"), _SHORT),
        **dict.fromkeys(("5", "6"), _SMALL_VIT),
        "13": _ON_IMAGENET,
        "2": _OTHER_NETWORK,
    },
    "cifar100-45k": {
        **dict.fromkeys(("3", "7", "15"), _WHOLE),
        "13": _ON_IMAGENET,
        "2": _OTHER_NETWORK,
    },
    "cifar100-short": {
        **dict.fromkeys(_CIFAR_CLAIMS, _FIFTH),
        "13": _ON_IMAGENET,
        "2": _OTHER_NETWORK,
    },
    "paper": {
        **dict.fromkeys(_CIFAR_CLAIMS, _OWN),
        "11a": Bearing(ANALOGUE, "the paper's network, the device may be another"),
        "6": Bearing(ANALOGUE, "the paper's number is of ImageNet"),
        "13": _ON_IMAGENET,
    },
    "imagenet": {
        **dict.fromkeys(("5", "6", "13"), _OWN),
        "3": Bearing(ANALOGUE, "the paper's ImageNet; its number is of CIFAR-100"),
        "2": _OTHER_NETWORK,
    },
    "smoke": dict.fromkeys(
        BY_KEY.keys() - {"11a", "12"}, Bearing(UNTESTABLE, "a test of the code, not of the paper")
    ),
}
_EVERYWHERE = {"11a": _STEP, "12": _COUNTED}  # where the profile says nothing else
_NOT_PLANNED = Bearing(UNTESTABLE, "not part of this profile")


def bearing(profile: str, key: str) -> Bearing:
    """What a profile's problem can say about a claim."""
    return _BEARINGS[profile].get(key, _EVERYWHERE.get(key, _NOT_PLANNED))
