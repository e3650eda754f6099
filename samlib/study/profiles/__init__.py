"""The profiles: at which scale, with which grids and seeds the study is run."""

from samlib.errors import choose
from samlib.study.profile import Profile
from samlib.study.profiles.cifar import CIFAR100_10K, CIFAR100_45K, CIFAR100_SHORT, PAPER
from samlib.study.profiles.imagenet import IMAGENET
from samlib.study.profiles.quick import QUICK, SMOKE

PROFILES: dict[str, Profile] = {
    p.name: p for p in (SMOKE, QUICK, CIFAR100_10K, CIFAR100_45K, CIFAR100_SHORT, PAPER, IMAGENET)
}


def get(name: str) -> Profile:
    """A profile by name.

    Raises:
        ConfigError: an unknown name; the message lists the valid ones.
    """
    return PROFILES[choose("profile", name, PROFILES)]
