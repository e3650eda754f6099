"""Which runs and measurements each chapter needs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from samlib.data.datasets import INFO
from samlib.errors import choose
from samlib.study.cells import Cell, ToMeasure
from samlib.study.methods import ALL, BASE, CURVES, DECAY, HEADLINE, ON, SCALES, SWEPT, Method
from samlib.study.profile import Profile

# Controls of SAM-ON: the norm layers' parameters held at their initial values, or not decayed.
FIXED = {"updated": "no_norm"}
UNDECAYED = {"decayed": "no_norm"}
PARTS = (Method("l2", "only_gamma"), Method("l2", "only_beta"))
BLOCKS = tuple(Method("l2", f"blocks_{stages}") for stages in ("1", "2", "3", "23"))
# When the perturbation is active: shares of the epochs at which it starts, or ends.
SWITCHES = (0.25, 0.5, 0.75)


class Needs(NamedTuple):
    """What a chapter is made from."""

    cells: Sequence[Cell]
    measured: Sequence[ToMeasure] = ()


def introduction(profile: Profile) -> Needs:
    """Base optimizer, SAM and SAM-ON, and the base optimizer with its weight decay tuned."""
    return Needs(_of_headline(profile, (*HEADLINE, *_known(profile, [DECAY]))))


def variants(profile: Profile) -> Needs:
    """Every geometry x {all, only-norm} and the base optimizer: the paper's Table 1.

    A network that is run with plain SAM alone is in `architectures` only.
    """
    cells = [
        profile.cell(family, method)
        for family in varied(profile)
        for method in (BASE, *_pairs(profile.geometries(family)))
    ]
    return Needs(cells)


def varied(profile: Profile) -> list[str]:
    """The BatchNorm families that are run with more variants than plain SAM."""
    return [family for family in profile.families if len(profile.geometries(family)) > 1]


def _pairs(geometries: Iterable[str]) -> list[Method]:
    return [Method(g, mask) for g in geometries for mask in ("all", "only_norm")]


def architectures(profile: Profile) -> Needs:
    """Base optimizer, SAM and SAM-ON on every network, transformers with more variants."""
    cells = [profile.cell(family, method) for family in profile.bases for method in HEADLINE]
    cells += [
        profile.cell(family, method)
        for family in profile.transformers
        for method in _pairs(profile.geometries(family))
    ]
    return Needs(cells)


def rho_sweep(profile: Profile) -> Needs:
    """Accuracy against rho for three masks and four geometries: the paper's Figure 1."""
    return Needs(_of_headline(profile, (BASE, *_swept(profile))))


def _swept(profile: Profile) -> list[Method]:
    return _known(profile, (Method(g, mask) for g in SWEPT for mask in CURVES))


def _of_headline(profile: Profile, methods: Iterable[Method]) -> list[Cell]:
    return [profile.cell(profile.headline, method) for method in dict.fromkeys(methods)]


def carriers(profile: Profile) -> Needs:
    """The runs of the rho sweep: what falls on norm layers, and what leaving them out costs."""
    return rho_sweep(profile)


def sparsity(profile: Profile) -> Needs:
    """Sparse masks of SAM-ON's size and of others, under the radius rules the profile has."""
    return Needs(_of_headline(profile, (*HEADLINE, *profile.sparse)) if profile.sparse else [])


def parts(profile: Profile) -> Needs:
    """SAM on every other mask: gamma or beta alone, the layers of some stages."""
    return Needs(_of_headline(profile, (*HEADLINE, *profile.masks)) if profile.masks else [])


def scales(profile: Profile) -> Needs:
    """SAM on per-channel scales of the weights, and everything with gamma and beta fixed."""
    own = _known(profile, SCALES)
    fixed = [m.but(rho_from="plain", **FIXED) for m in (*HEADLINE, *own)]
    return Needs(_of_headline(profile, (*HEADLINE, *own, *fixed)) if own else [])


def _known(profile: Profile, methods: Iterable[Method]) -> list[Method]:
    return [method for method in methods if profile.has(profile.headline, method)]


def law(profile: Profile) -> Needs:
    """SAM-ON and a random mask at the rho the law predicts from SAM's runs, beside their own."""
    own = _known(profile, (ALL, ON, Method("l2", "random")))
    predicted = [replace(method, rho_from="law") for method in own if method != ALL]
    return Needs(_of_headline(profile, (*own, *predicted)))


def sharpness(profile: Profile) -> Needs:
    """Sharpness of the base optimizer, SAM and SAM-ON, and of every value of their searches."""
    cells, count = introduction(profile).cells, profile.measured_seeds
    compared = [ToMeasure(cell, "sharpness", count) for cell in cells]
    searched = [ToMeasure(cell, "sharpness", count, every_value=True) for cell in cells[1:]]
    return Needs(cells, [*compared, *searched])


def shift(profile: Profile) -> Needs:
    """gamma and beta at the end of training, with the two controls."""
    controls = [m.but(rho_from="plain", **c) for c in (FIXED, UNDECAYED) for m in HEADLINE]
    return Needs(_of_headline(profile, (*HEADLINE, *controls)))


def cost(profile: Profile) -> Needs:
    """Accuracy of SAM-ON on some of the stages only; step times are `bench`'s."""
    return Needs(_of_headline(profile, (*HEADLINE, *_known(profile, BLOCKS))))


def when(profile: Profile) -> Needs:
    """SAM and SAM-ON early or late only, and BatchNorm statistics of the first pass only."""
    epochs = profile.bases[profile.headline].epochs
    at = sorted({max(1, round(share * epochs)) for share in SWITCHES} - {epochs})
    switched = [
        method.but(rho_from="plain", **{side: epoch})
        for method in (ALL, ON)
        for side in ("start", "end")
        for epoch in at
    ]
    first = [method.but(rho_from="plain", batchnorm="first") for method in (ALL, ON)]
    return Needs(_of_headline(profile, (*HEADLINE, *switched, *first)))


def robustness(profile: Profile) -> Needs:
    """The headline runs on corrupted and attacked test images, or on ImageNet's shifted sets."""
    cells = introduction(profile).cells
    folders = INFO[profile.bases[profile.headline].dataset].folders
    measure = "shifted_sets" if folders else "robustness"
    return Needs(cells, [ToMeasure(cell, measure, profile.measured_seeds) for cell in cells])


# The most decisive first; a notebook that is not here needs no runs.
NEEDS: dict[str, Callable[[Profile], Needs]] = {
    "introduction": introduction,
    "rho_sweep": rho_sweep,
    "carriers": carriers,
    "law": law,
    "sparsity": sparsity,
    "parts": parts,
    "scales": scales,
    "architectures": architectures,
    "variants": variants,
    "when": when,
    "shift": shift,
    "cost": cost,
    "robustness": robustness,
    "sharpness": sharpness,
}


def chapters(profile: Profile) -> tuple[str, ...]:
    """Names of the chapters a profile runs, in the order their needs should be met."""
    named = NEEDS if profile.chapters is None else profile.chapters
    return tuple(name for name in named if NEEDS[name](profile).cells)


def has(profile: Profile, notebook: str) -> bool:
    """Whether a notebook is part of a profile; one that needs no runs is part of each."""
    return notebook not in NEEDS or notebook in chapters(profile)


def groups(profile: Profile) -> list[Needs]:
    """What is run first, whatever its chapter: should time run out, this much is there."""
    return [Needs([profile.cell(f, method) for f, method in group]) for group in profile.order]


def _in(profile: Profile) -> list[Callable[[Profile], Needs]]:
    return [NEEDS[name] for name in chapters(profile)]


def chapter_needs(profile: Profile, only: str | None = None) -> list[Needs]:
    """The needs of every chapter, or of one, in the order they should be met.

    Of every chapter: after the profile's `groups`.

    Raises:
        ConfigError: no such chapter, or not one of the profile's.
    """
    if only is not None:
        of_profile = f"notebook of profile {profile.name}"
        return [NEEDS[choose(of_profile, only, chapters(profile))](profile)]
    return [*groups(profile), *(needs(profile) for needs in _in(profile))]


def all_cells(needs: Iterable[Needs]) -> list[Cell]:
    """Every cell once, in order."""
    return list(dict.fromkeys(cell for need in needs for cell in need.cells))
