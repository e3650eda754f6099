"""Which runs and measurements each chapter needs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from samlib.data.info import INFO
from samlib.errors import choose
from samlib.study import members
from samlib.study.cells import Cell, Needs, ToMeasure
from samlib.study.methods import (
    ALL,
    BASE,
    CURVES,
    DECAY,
    HEADLINE,
    ON,
    RANDOM,
    REPORTED,
    SCALES,
    SWEPT,
    Method,
)
from samlib.study.profile import Profile

# Controls of SAM-ON: the norm layers' parameters held at their initial values, or not decayed.
FIXED = {"updated": "no_norm"}
UNDECAYED = {"decayed": "no_norm"}
PARTS = (Method("l2", "only_gamma"), Method("l2", "only_beta"))
DYT = {"model": "vit_micro_dyt"}  # the transformer with DyT in the place of LayerNorm
BLOCKS = tuple(Method("l2", f"blocks_{stages}") for stages in ("1", "2", "3", "23"))
RANKED_SEEDS = 1  # where networks are ranked, one of each is enough
# When the perturbation is active: shares of the epochs at which it starts, or ends.
SWITCHES = (0.5,)


def introduction(profile: Profile) -> Needs:
    """Base optimizer, SAM and SAM-ON; beside them a tuned weight decay, and rho as reported."""
    beside = _of_headline(profile, known(profile, (DECAY, *REPORTED)))
    return Needs(_of_headline(profile, HEADLINE), beside=beside)


def variants(profile: Profile) -> Needs:
    """Every geometry x {all, only-norm} and the base optimizer: the paper's Table 1.

    A network that is run with plain SAM alone is in `architectures` only.
    """
    cells = [
        profile.cell(problem, method)
        for problem in varied(profile)
        for method in (BASE, *_pairs(profile.geometries(problem)))
    ]
    return Needs(cells)


def varied(profile: Profile) -> list[str]:
    """The BatchNorm problems that are run with more variants than plain SAM."""
    return [p for p in profile.problems if len(profile.geometries(p)) > 1]


def _pairs(geometries: Iterable[str]) -> list[Method]:
    return [Method(g, mask) for g in geometries for mask in ("all", "only_norm")]


def architectures(profile: Profile) -> Needs:
    """Base optimizer, SAM and SAM-ON on every network, transformers with more variants."""
    cells = [profile.cell(problem, method) for problem in profile.bases for method in HEADLINE]
    cells += [
        profile.cell(problem, method)
        for problem in profile.transformers
        for method in _pairs(profile.geometries(problem))
    ]
    return Needs(cells)


def rho_sweep(profile: Profile) -> Needs:
    """Accuracy against rho for three masks and four geometries, SAM's two first: Figure 1."""
    beside = [m for m in _swept(profile) if m not in HEADLINE]
    return Needs(_of_headline(profile, HEADLINE), beside=_of_headline(profile, beside))


def _swept(profile: Profile) -> list[Method]:
    return known(profile, (Method(g, mask) for g in SWEPT for mask in CURVES))


def _of_headline(profile: Profile, methods: Iterable[Method]) -> list[Cell]:
    return [profile.cell(profile.headline, method) for method in dict.fromkeys(methods)]


def carriers(profile: Profile) -> Needs:
    """The share on norm layers, and the cost of leaving them out, by geometry: SAM's first."""
    both = known(profile, (Method(g, mask) for g in SWEPT for mask in ("all", "no_norm")))
    first = [method for method in both if method.geometry == ALL.geometry]
    beside = [method for method in both if method not in first]
    return Needs(_of_headline(profile, first), beside=_of_headline(profile, beside))


def sparsity(profile: Profile) -> Needs:
    """A random mask of SAM-ON's size; beside it other masks, sizes and radius rules."""
    if not profile.sparse:
        return Needs([])
    first = (*HEADLINE, *known(profile, [RANDOM]))
    beside = [method for method in profile.sparse if method not in first]
    return Needs(_of_headline(profile, first), beside=_of_headline(profile, beside))


def parts(profile: Profile) -> Needs:
    """SAM on every other mask: gamma or beta alone, the layers of some stages."""
    return Needs(_of_headline(profile, (*HEADLINE, *profile.masks)) if profile.masks else [])


def scales(profile: Profile) -> Needs:
    """SAM on per-channel scales of the weights, and everything with gamma and beta fixed."""
    own = known(profile, SCALES)
    fixed = [held(m) for m in (*HEADLINE, *own)]
    return Needs(_of_headline(profile, (*HEADLINE, *own, *fixed)) if own else [])


def held(method: Method) -> Method:
    """The method with the norm layers' parameters held at their initial values."""
    return method.control(**FIXED)


def known(profile: Profile, methods: Iterable[Method]) -> list[Method]:
    """Those of some methods that the profile runs on its headline network."""
    return [method for method in methods if profile.has(profile.headline, method)]


def law(profile: Profile) -> Needs:
    """SAM-ON and a random mask at the rho predicted from SAM's runs, and at their tuned rho."""
    own = known(profile, (ALL, ON, RANDOM))
    predicted = [replace(method, rho_from="law") for method in own if method != ALL]
    return Needs(_of_headline(profile, (*own, *predicted)))


def sharpness(profile: Profile) -> Needs:
    """Sharpness of the headline's tuned runs, and of every rho that SAM and SAM-ON tried."""
    cells, count = _tuned(profile), profile.measured_seeds
    compared = [ToMeasure(cell, "sharpness", count) for cell in cells]
    searched = [ToMeasure(cell, "sharpness", count, every_value=True) for cell in cells[1:3]]
    return Needs(cells, [*compared, *searched])


def _tuned(profile: Profile) -> list[Cell]:
    """Base optimizer, SAM and SAM-ON, and the base optimizer with its weight decay tuned."""
    return _of_headline(profile, (*HEADLINE, *known(profile, [DECAY])))


def shift(profile: Profile) -> Needs:
    """gamma and beta at the end of training; beside them the two controls."""
    controls = [m.control(**c) for c in (FIXED, UNDECAYED) for m in HEADLINE]
    return Needs(_of_headline(profile, HEADLINE), beside=_of_headline(profile, controls))


def cost(profile: Profile) -> Needs:
    """Accuracy of SAM-ON on some of the stages only; step times are `bench`'s."""
    return Needs(_of_headline(profile, (*HEADLINE, *known(profile, BLOCKS))))


def when(profile: Profile) -> Needs:
    """SAM and SAM-ON early or late only."""
    epochs = profile.bases[profile.headline].epochs
    at = sorted({max(1, round(share * epochs)) for share in SWITCHES} - {epochs})
    switched = [
        method.control(**{side: epoch})
        for method in (ALL, ON)
        for side in ("start", "end")
        for epoch in at
    ]
    return Needs(_of_headline(profile, (*HEADLINE, *switched)))


def batchnorm(profile: Profile) -> Needs:
    """Recalibrated BatchNorm statistics; beside them those of the first pass alone."""
    first = [method.control(batchnorm="first") for method in (ALL, ON)]
    return Needs(_of_headline(profile, HEADLINE), beside=_of_headline(profile, first))


def robustness(profile: Profile) -> Needs:
    """The headline runs on corrupted and attacked test images, or on ImageNet's shifted sets."""
    cells, measure = _tuned(profile), robustness_measure(profile)
    return Needs(cells, [ToMeasure(cell, measure, profile.measured_seeds) for cell in cells])


def robustness_measure(profile: Profile) -> str:
    """What `robustness` measures: corruptions and attacks, or shifted sets that are on disk."""
    folders = INFO[profile.bases[profile.headline].dataset].folders
    return "shifted_sets" if folders else "robustness"


def inside(profile: Profile) -> Needs:
    """Final weights of base optimizer, SAM and SAM-ON: swapped norms, curvature, turning digits."""
    cells, count = _of_headline(profile, HEADLINE), profile.measured_seeds
    wanted = {"connectivity": cells[1:], "curvature": cells, "robustness": cells}
    if profile.bases[profile.headline].dataset == "digits":
        wanted["self_training"] = cells
    return Needs(cells, [ToMeasure(cell, m, count) for m, of in wanted.items() for cell in of])


def family(profile: Profile) -> Needs:
    """The members of the family, mask all and only norm, each with a rho of its own."""
    return _beside_headline(profile, members.methods(profile))


def _beside_headline(profile: Profile, methods: Sequence[Method]) -> Needs:
    """Base optimizer, SAM and SAM-ON, and what is read against them; nothing where that is none."""
    return Needs(_of_headline(profile, (*HEADLINE, *methods)) if methods else [])


def _only_norm(methods: Iterable[Method]) -> list[Method]:
    return [method for method in methods if method.mask == ON.mask]


def robust_family(profile: Profile) -> Needs:
    """A run of every member on corrupted and attacked test images, in short."""
    cells = family(profile).cells if robustness_measure(profile) == "robustness" else []
    return Needs(cells, [ToMeasure(cell, "robustness_in_short", RANKED_SEEDS) for cell in cells])


def one_pass(profile: Profile) -> Needs:
    """Those whose step is a single pass; beside them the confirmation of one, and mask all."""
    methods = members.methods(profile, members.ONE_PASS)
    own = _only_norm(methods)
    whole = _of_headline(profile, (method for method in methods if method not in own))
    return _beside_headline(profile, own)._replace(beside=[*confirmation(profile), *whole])


def confirmation(profile: Profile) -> list[Cell]:
    """Base optimizer, SAM-ON and MSAM with only norm on fresh seeds, at the rho chosen before.

    What the first seeds suggested is tested on others: nothing is tuned on these seeds, and they
    are not pooled with the first. None where the profile has no such seeds.
    """
    one_pass = _only_norm(members.methods(profile, ["msam"]))
    if not (profile.fresh and one_pass):
        return []
    cells = _of_headline(profile, (BASE, ON, *one_pass))
    return [replace(cell, seeds=profile.fresh, like=cell) for cell in cells]


def is_it_norm(profile: Profile) -> Needs:
    """Three routes to claim 14: DyT for LayerNorm, scales outside norm layers, gamma released."""
    own, replaced = known(profile, SCALES), dyt(profile)
    if not (own or replaced):
        return Needs([])
    fixed = [held(m) for m in (*HEADLINE, *own)]
    methods = (*HEADLINE, *known(profile, PARTS[:1]), *own, *(fixed if own else ()))
    return Needs([*_of_headline(profile, methods), *replaced])


def dyt(profile: Profile) -> list[Cell]:
    """Base optimizer, SAM and SAM-ON with LayerNorm, then with DyT; none where that has no rows."""
    replaced = [method.but(**DYT) for method in HEADLINE]
    if not {row.method for row in profile.grids} >= set(replaced):
        return []
    return [profile.cell("vit", method) for method in (*HEADLINE, *replaced)]


def systems(profile: Profile) -> Needs:
    """The family with only norm: each method's result in one number."""
    return _beside_headline(profile, _only_norm(members.methods(profile)))


def why(profile: Profile) -> Needs:
    """Base optimizer, SAM and SAM-ON; beside them steps that exist to test an explanation."""
    controls = members.methods(profile, members.CONTROLS)
    return Needs(_of_headline(profile, HEADLINE), beside=_of_headline(profile, controls))


# The most decisive first; a notebook that is not here needs no runs.
NEEDS: dict[str, Callable[[Profile], Needs]] = {
    needs.__name__: needs
    for needs in (
        *(introduction, rho_sweep, carriers, law, sparsity, parts, scales, architectures, variants),
        *(batchnorm, when, shift, cost, robustness, sharpness, inside),
        *(one_pass, family, robust_family, why, is_it_norm, systems),
    )
}


def chapters(profile: Profile) -> tuple[str, ...]:
    """Names of a profile's chapters, in the order of the work."""
    named = NEEDS if profile.chapters is None else profile.chapters
    return tuple(name for name in named if NEEDS[name](profile).cells)


def has(profile: Profile, notebook: str) -> bool:
    """Whether a notebook is part of a profile; a notebook without runs is part of every one."""
    return notebook not in NEEDS or notebook in chapters(profile)


def groups(profile: Profile) -> list[Needs]:
    """Runs that come before the chapters, so that they exist if time runs out."""
    return [
        Needs([profile.cell(problem, method) for problem, method in group])
        for group in profile.order
    ]


def chapter_needs(profile: Profile, only: str | None = None) -> list[Needs]:
    """The needs of one chapter, or the profile's `groups` and then the needs of every chapter.

    Raises:
        ConfigError: the profile has no such chapter.
    """
    if only is not None:
        if only not in NEEDS or not has(profile, only):
            choose(f"notebook of profile {profile.name}", only, chapters(profile))
        return [NEEDS[only](profile)]
    return [*groups(profile), *(NEEDS[name](profile) for name in chapters(profile))]
