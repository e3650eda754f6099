"""The profiles: at which scale, with which grids and seeds the study is run."""

from dataclasses import replace

from .config import RunConfig
from .errors import choose
from .geometry import VARIANTS
from .study import Profile

# 500 digits, 40 % of the labels redrawn, no augmentation: the base optimizer fits every label,
# right or wrong, so that there is something for flatness to prevent.
_DIGITS = RunConfig(
    dataset="digits",
    model="wrn10_1",
    train_size=500,
    validation_size=297,
    label_noise=0.4,
    epochs=20,
    batch_size=64,
    mask_samples=128,
    eval_every=5,
)


def _ladder(first: float, steps: int = 4) -> tuple[float, ...]:
    """Values of rho, each twice the one before."""
    return tuple(first * 2**step for step in range(steps))


# Every method gets four values a factor of two apart. Where a ladder starts was read off a coarse
# search on the validation split of two seeds that no table uses; what is chosen at its edge is
# marked in every table.
_QUICK_GRIDS = {
    ("l2", "all"): _ladder(0.125),
    ("l2", "only_norm"): _ladder(1.0),
    ("l2", "no_norm"): _ladder(0.125),
    ("elementwise_l2", "all"): _ladder(1.0),
    ("elementwise_l2", "only_norm"): _ladder(1.0),
    ("elementwise_l2", "no_norm"): _ladder(1.0),
    ("elementwise_l2_orig", "all"): _ladder(1.0),
    ("elementwise_l2_orig", "only_norm"): _ladder(1.0),
    ("elementwise_linf", "all"): _ladder(0.01),
    ("elementwise_linf", "only_norm"): _ladder(0.1),
    ("elementwise_linf", "no_norm"): _ladder(0.01),
    ("elementwise_linf_orig", "all"): _ladder(0.01),
    ("elementwise_linf_orig", "only_norm"): _ladder(0.05),
    ("layerwise_l2", "all"): _ladder(0.025),
    ("layerwise_l2", "only_norm"): _ladder(0.25),
    ("layerwise_l2", "no_norm"): _ladder(0.025),
    ("layerwise_l2_orig", "all"): _ladder(0.025),
    ("layerwise_l2_orig", "only_norm"): _ladder(0.25),
    ("fisher", "all"): _ladder(0.125),
    ("fisher", "only_norm"): _ladder(1.0),
    ("l2", "random", "mask", "norm"): _ladder(4.0),
    ("l2", "random", "all", "norm"): _ladder(40.0),
    ("l2", "fisher", "mask", "norm"): _ladder(0.5),
    ("l2", "fisher", "all", "norm"): _ladder(1.0),
    ("l2", "dynamic", "mask", "norm"): _ladder(2.0),
    ("l2", "dynamic", "all", "norm"): _ladder(20.0),
    ("l2", "random", "mask", "0.5"): _ladder(0.25),
    ("l2", "random", "all", "0.5"): _ladder(0.25),
    ("l2", "fisher", "mask", "0.5"): _ladder(0.125),
    ("l2", "fisher", "all", "0.5"): _ladder(0.125),
    ("l2", "dynamic", "mask", "0.5"): _ladder(0.25),
    ("l2", "dynamic", "all", "0.5"): _ladder(0.25),
}

_QUICK = Profile(
    name="quick",
    about="digits with 40 % label noise, scaled-down models, two CPU cores, under 20 minutes",
    bases={
        "wrn": _DIGITS,
        "resnet": _DIGITS.replace(model="resnet8"),
        "resnext": _DIGITS.replace(model="resnext11_4x2d"),
    },
    headline="wrn",
    geometries=tuple(VARIANTS),
    grids=_QUICK_GRIDS,
    sweep_seeds=2,
    seeds=5,
    headline_seeds=10,
    sparsities=(None, 0.5),
)

_SMOKE = replace(
    _QUICK,
    name="smoke",
    about="one epoch on a hundred digits: every notebook end to end, no result",
    bases={
        family: base.replace(
            epochs=1, train_size=100, validation_size=100, mask_samples=16, eval_every=1
        )
        for family, base in _QUICK.bases.items()
    },
    geometries=("l2", "elementwise_l2"),
    grids={key: grid[1:3] for key, grid in _QUICK_GRIDS.items()},
    sweep_seeds=1,
    seeds=2,
    headline_seeds=2,
    sparsities=(None,),
)

PROFILES: dict[str, Profile] = {p.name: p for p in (_QUICK, _SMOKE)}


def get(name: str) -> Profile:
    """A profile by name.

    Raises:
        ConfigError: an unknown name; the message lists the valid ones.
    """
    return PROFILES[choose("profile", name, PROFILES)]
