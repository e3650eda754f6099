"""Numbers the paper's authors reported, each with where it was found.

The paper's body could not be obtained; what stands here comes from the authors' poster and from
their published rho-sweep figure, digitised. Beside it stand what others measured (`INDEPENDENT`)
and what was computed from the authors' networks (`SHARE_AT_START`). Everything else is "not
sourced".
"""

from typing import NamedTuple

NOT_SOURCED = "not sourced"

POSTER = "poster (NeurIPS 2023)"
FIGURE = "rho-sweep figure, digitised (±0.03 to ±0.05)"


class Number(NamedTuple):
    """A reported accuracy in percent, its printed spread (unit not stated), and its source."""

    value: float
    spread: float | None
    source: str


# WRN-28-10 on CIFAR-100, top-1 test accuracy (poster; specification 4.1)
HEADLINE = {
    "base": Number(80.71, 0.2, POSTER),
    "all": Number(83.11, 0.3, POSTER),
    "only_norm": Number(84.19, 0.2, POSTER),
}

# The same network, sparse perturbations (poster; specification 4.2): (mask, sparsity in percent).
# Which radius rule the masks used is not sourced.
SPARSITY = {
    ("all", 0.0): Number(83.11, 0.3, POSTER),
    ("only_norm", 99.95): Number(84.19, 0.2, POSTER),
    ("random", 99.95): Number(80.97, 0.2, POSTER),
    ("fisher", 50.0): Number(83.94, 0.1, POSTER),
    ("fisher", 99.95): Number(83.14, 0.1, POSTER),
}

SAM_RHO = 0.1  # of SAM in the poster's comparison: the literature's value (specification 4.1)
# The same network, accuracy against rho (figure; specification 4.4): (geometry, mask) -> points.
# Past the last point a curve leaves the figure through its bottom edge at 80.40.
RHO_SWEEP: dict[tuple[str, str], dict[float, float]] = {
    ("l2", "all"): {0.05: 82.31, 0.1: 83.11, 0.2: 83.58, 0.5: 83.33},
    ("l2", "only_norm"): {0.1: 82.47, 0.2: 82.97, 0.5: 83.83, 1: 84.18, 5: 83.76},
    ("l2", "no_norm"): {0.1: 83.06, 0.2: 83.40, 0.5: 83.29},
    ("elementwise_l2", "all"): {
        0.5: 81.81,
        1: 82.38,
        2.5: 83.42,
        5: 83.80,
        10: 83.55,
        15: 82.09,
    },
    ("elementwise_l2", "only_norm"): {1: 82.73, 2.5: 83.67, 5: 84.35, 10: 84.67, 15: 84.32},
    ("elementwise_l2", "no_norm"): {1: 81.05, 2.5: 81.22, 5: 81.36},
    ("layerwise_l2", "all"): {0.001: 81.58, 0.01: 83.23, 0.05: 83.54, 0.1: 82.56},
    ("layerwise_l2", "only_norm"): {
        0.001: 80.63,
        0.01: 81.21,
        0.05: 82.90,
        0.1: 83.49,
        0.2: 84.05,
        0.5: 84.35,
        1: 82.98,
    },
    ("layerwise_l2", "no_norm"): {0.001: 81.53, 0.01: 83.15, 0.05: 83.53, 0.1: 82.53},
    ("elementwise_linf", "all"): {0.001: 81.82, 0.005: 82.93, 0.01: 83.25},
    ("elementwise_linf", "only_norm"): {
        0.001: 81.02,
        0.01: 82.23,
        0.05: 84.14,
        0.1: 84.75,
        0.2: 84.07,
    },
    ("elementwise_linf", "no_norm"): {0.001: 81.41, 0.01: 82.72},
}
SGD_LINE = Number(80.70, None, FIGURE)


def headline_gap() -> float:
    """SAM-ON minus SAM as the poster's headline has it: a tuned rho against rho = 0.1."""
    return HEADLINE["only_norm"].value - HEADLINE["all"].value


def best_gap(geometry: str, better: str, worse: str) -> float:
    """Best point of one of the figure's curves minus best of another, in points."""
    return best(geometry, better)[1].value - best(geometry, worse)[1].value


def rho_ratio(geometry: str) -> float:
    """The rho of the figure's best only-norm point over that of its best point for all."""
    return best(geometry, "only_norm")[0] / best(geometry, "all")[0]


def best(geometry: str, mask: str) -> tuple[float, Number] | None:
    """The rho and accuracy of a reported curve's best point, chosen on the test set; or None."""
    curve = RHO_SWEEP.get((geometry, mask))
    if curve is None:
        return None
    rho = max(curve, key=curve.get)
    return rho, Number(curve[rho], None, FIGURE)


# The same network and data: logit-normalised l_inf m-sharpness (poster; specification 4.1),
# averaged over three models; what the spread is is not stated. (steps, radius) -> base, all, ON.
SHARPNESS: dict[tuple[int, float], dict[str, Number]] = {
    (20, 0.003): {
        "base": Number(0.071, 0.000, POSTER),
        "all": Number(0.048, 0.001, POSTER),
        "only_norm": Number(0.090, 0.005, POSTER),
    },
    (20, 0.007): {
        "base": Number(0.433, 0.002, POSTER),
        "all": Number(0.309, 0.011, POSTER),
        "only_norm": Number(0.585, 0.018, POSTER),
    },
    (1, 0.01): {
        "base": Number(0.204, 0.005, POSTER),
        "all": Number(0.183, 0.002, POSTER),
        "only_norm": Number(0.315, 0.010, POSTER),
    },
    (1, 0.03): {
        "base": Number(0.809, 0.003, POSTER),
        "all": Number(0.769, 0.017, POSTER),
        "only_norm": Number(0.843, 0.007, POSTER),
    },
}


# Modes of gamma over all channels (poster's histograms, read off at ±0.005; specification 4.6);
# model and data set are not stated.
GAMMA = {"all": (0.06, 0.09), "only_norm": (0.20,)}


# ViT-S/32 on ImageNet, top-1 test accuracy (poster; specification 4.3): optimizer -> base, all,
# only-norm. "71.37 ± 0.026" is printed so and is likely a misprint.
IMAGENET: dict[str, dict[str, Number]] = {
    "adamw": {
        "base": Number(66.89, 0.04, POSTER),
        "all": Number(71.47, 0.12, POSTER),
        "only_norm": Number(71.37, 0.026, POSTER),
    },
    "lion": {
        "base": Number(68.20, 0.02, POSTER),
        "all": Number(71.90, 0.19, POSTER),
        "only_norm": Number(72.64, 0.14, POSTER),
    },
}

# Independent runs of SAM and of SAM on the BatchNorm layers only, CIFAR-100, rho tuned for each,
# running statistics of the first pass (arXiv 2401.12033, table 3; specification 4.7).
MSAM_PAPER = "Becker et al. (2024), table 3"
INDEPENDENT: dict[str, dict[str, Number]] = {
    "WRN-28-10": {
        "base": Number(81.51, 0.09, MSAM_PAPER),
        "all": Number(84.16, 0.12, MSAM_PAPER),
        "only_norm": Number(84.57, 0.07, MSAM_PAPER),
    },
    "WRN-16-4": {
        "base": Number(76.90, 0.15, MSAM_PAPER),
        "all": Number(79.25, 0.10, MSAM_PAPER),
        "only_norm": Number(79.73, 0.24, MSAM_PAPER),
    },
    "ResNet-50": {
        "base": Number(81.46, 0.13, MSAM_PAPER),
        "all": Number(83.36, 0.17, MSAM_PAPER),
        "only_norm": Number(84.51, 0.17, MSAM_PAPER),
    },
}

# The same networks elsewhere (poster; specification 4.3), AdamW: shifted test sets and attacks of
# radius in pixels in [0, 1] -> base, all, only-norm.
SHIFTED: dict[str, dict[str, Number]] = {
    "ImageNetV2": {
        "base": Number(48.43, 0.48, POSTER),
        "all": Number(53.61, 0.11, POSTER),
        "only_norm": Number(53.67, 0.29, POSTER),
    },
    "ImageNet-R": {
        "base": Number(25.04, 0.04, POSTER),
        "all": Number(31.56, 0.48, POSTER),
        "only_norm": Number(32.98, 0.10, POSTER),
    },
    "ImageNet-A": {
        "base": Number(4.72, 0.15, POSTER),
        "all": Number(5.21, 0.05, POSTER),
        "only_norm": Number(5.19, 0.18, POSTER),
    },
    "ImageNet-Sketch": {
        "base": Number(13.68, 0.24, POSTER),
        "all": Number(18.50, 0.44, POSTER),
        "only_norm": Number(19.35, 0.17, POSTER),
    },
    "ObjectNet": {
        "base": Number(11.32, 0.39, POSTER),
        "all": Number(13.75, 0.12, POSTER),
        "only_norm": Number(13.55, 0.25, POSTER),
    },
    "ℓ₂ attack, 0.25": {
        "base": Number(19.67, 0.47, POSTER),
        "all": Number(37.53, 0.69, POSTER),
        "only_norm": Number(41.16, 0.24, POSTER),
    },
    "ℓ₂ attack, 0.5": {
        "base": Number(5.47, 0.18, POSTER),
        "all": Number(17.71, 0.61, POSTER),
        "only_norm": Number(22.72, 0.25, POSTER),
    },
    "ℓ∞ attack, 0.25/255": {
        "base": Number(33.45, 0.80, POSTER),
        "all": Number(48.08, 0.14, POSTER),
        "only_norm": Number(49.34, 0.08, POSTER),
    },
    "ℓ∞ attack, 0.5/255": {
        "base": Number(14.98, 0.18, POSTER),
        "all": Number(29.68, 0.09, POSTER),
        "only_norm": Number(32.46, 0.15, POSTER),
    },
}

# Runtime in units of SGD's and test accuracy, WRN-28 (poster's runtime figure, digitised;
# specification 4.5); data set, rho and hardware are not stated.
RUNTIME_FIGURE = "poster's runtime figure, digitised (±0.005 in time, ±0.05 points)"
RUNTIME: dict[str, tuple[float, Number]] = {
    "base": (1.00, Number(80.61, None, RUNTIME_FIGURE)),
    "all": (1.96, Number(83.35, None, RUNTIME_FIGURE)),
    "only_norm": (1.73, Number(84.03, None, RUNTIME_FIGURE)),
    "blocks_1": (1.70, Number(80.58, None, RUNTIME_FIGURE)),
    "blocks_2": (1.37, Number(81.42, None, RUNTIME_FIGURE)),
    "blocks_3": (1.29, Number(83.06, None, RUNTIME_FIGURE)),
    "blocks_23": (1.38, Number(84.42, None, RUNTIME_FIGURE)),
}

# Not reported but computed before any run here: share of ||eps||^2 on norm layers when everything
# is perturbed, WRN-28-10 at initialisation, one CIFAR-100 batch (specification 1.4).
SHARE_AT_START = {
    "l2": 0.0014,
    "elementwise_l2": 0.985,
    "elementwise_linf": 0.336,
    "layerwise_l2": 0.0006,
}
