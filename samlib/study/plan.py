"""Which runs and measurements each chapter needs."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from samlib.data.datasets import INFO
from samlib.errors import choose
from samlib.study.cells import Cell, ToMeasure
from samlib.study.methods import ALL, BASE, CURVES, HEADLINE, ON, SCALES, SWEPT, Method
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
    """Base optimizer, SAM and SAM-ON: the finding in one picture."""
    return Needs([profile.cell(profile.headline, method) for method in HEADLINE])


def variants(profile: Profile) -> Needs:
    """Every geometry x {all, only-norm} and the base optimizer: the paper's Table 1."""
    methods = [Method(g, mask) for g in profile.geometries for mask in ("all", "only_norm")]
    return Needs([profile.cell(f, method) for f in profile.families for method in (BASE, *methods)])


def architectures(profile: Profile) -> Needs:
    """Base optimizer, SAM and SAM-ON on every network, transformers with one more variant."""
    cells = [profile.cell(family, method) for family in profile.bases for method in HEADLINE]
    elementwise = [Method("elementwise_l2", mask) for mask in ("all", "only_norm")]
    cells += [
        profile.cell(family, method)
        for family in profile.transformers
        for method in elementwise
        if (family, *method.key) in profile.grids
    ]
    return Needs(cells)


def rho_sweep(profile: Profile) -> Needs:
    """Accuracy against rho for three masks and four geometries: the paper's Figure 1."""
    methods = [Method(g, mask) for g in SWEPT for mask in CURVES]
    return Needs([profile.cell(profile.headline, method) for method in (BASE, *methods)])


def carriers(profile: Profile) -> Needs:
    """The runs of the rho sweep: what falls on norm layers, and what leaving them out costs."""
    return rho_sweep(profile)


def sparsity(profile: Profile) -> Needs:
    """Sparse masks under both radius rules, every other mask, and the structured controls."""
    sparse = [
        Method("l2", mask, radius, level)
        for mask, level in profile.sparse
        for radius in ("mask", "all")
    ]
    fixed = [m.but(**FIXED) for m in (*HEADLINE, *SCALES)]
    methods = (*HEADLINE, *sparse, *profile.masks, *SCALES, *fixed)
    return Needs([profile.cell(profile.headline, method) for method in methods])


def sharpness(profile: Profile) -> Needs:
    """Sharpness of the base optimizer, and of SAM and SAM-ON at every rho."""
    cells = introduction(profile).cells
    return Needs(cells, [ToMeasure(c, "sharpness", profile.seeds, every_rho=True) for c in cells])


def shift(profile: Profile) -> Needs:
    """gamma and beta at the end of training, with the two controls."""
    controls = [m.but(**c) for c in (FIXED, UNDECAYED) for m in HEADLINE]
    methods = (*HEADLINE, *controls)
    return Needs([profile.cell(profile.headline, method) for method in methods])


def cost(profile: Profile) -> Needs:
    """Accuracy of SAM-ON on some of the stages only; step times are `bench`'s."""
    return Needs([profile.cell(profile.headline, method) for method in (*HEADLINE, *BLOCKS)])


def when(profile: Profile) -> Needs:
    """SAM and SAM-ON early or late only, and BatchNorm statistics of the first pass only."""
    epochs = profile.bases[profile.headline].epochs
    at = sorted({max(1, round(share * epochs)) for share in SWITCHES} - {epochs})
    switched = [
        method.but(own_rho=False, **{side: epoch})
        for method in (ALL, ON)
        for side in ("start", "end")
        for epoch in at
    ]
    first = [method.but(batchnorm="first") for method in (ALL, ON)]
    methods = (*HEADLINE, *switched, *first)
    return Needs([profile.cell(profile.headline, method) for method in methods])


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
    "sparsity": sparsity,
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
    return tuple(NEEDS) if profile.chapters is None else profile.chapters


def has(profile: Profile, notebook: str) -> bool:
    """Whether a notebook is part of a profile; one that needs no runs is part of each."""
    return notebook not in NEEDS or notebook in chapters(profile)


def decisive(profile: Profile) -> list[Needs]:
    """What decides most, whatever its chapter: should time run out, this much is there.

    The base optimizer, SAM and SAM-ON on the headline's network, then on the other BatchNorm
    networks; random masks as sparse as SAM-ON's under both radius rules, and no-norm; transformers.
    """
    controls = [
        *(Method("l2", "random", radius) for radius in ("mask", "all")),
        Method("l2", "no_norm"),
    ]
    headline = {family: [(family, m) for m in HEADLINE] for family in profile.bases}
    batchnorm = {family: headline[family] for family in profile.families}
    in_order = [
        *({profile.headline: headline[profile.headline]} | batchnorm).values(),
        *([(profile.headline, method)] for method in controls),
        *(headline[f] for f in profile.transformers if f != profile.headline),
    ]
    cells = all_cells(needs(profile) for needs in _in(profile))
    needed = {(cell.base, cell.method): cell for cell in cells}
    found = ([needed.get((profile.bases[f], m)) for f, m in group] for group in in_order)
    return [Needs(cells) for group in found if (cells := [cell for cell in group if cell])]


def _in(profile: Profile) -> list[Callable[[Profile], Needs]]:
    return [NEEDS[name] for name in chapters(profile)]


def chapter_needs(profile: Profile, only: str | None = None) -> list[Needs]:
    """The needs of every chapter, or of one, in the order they should be met.

    Of every chapter: after what is `decisive`.

    Raises:
        ConfigError: no such chapter, or not one of the profile's.
    """
    if only is not None:
        of_profile = f"notebook of profile {profile.name}"
        return [NEEDS[choose(of_profile, only, chapters(profile))](profile)]
    return [*decisive(profile), *(needs(profile) for needs in _in(profile))]


def all_cells(needs: Iterable[Needs]) -> list[Cell]:
    """Every cell once, in order."""
    return list(dict.fromkeys(cell for need in needs for cell in need.cells))
