"""Which runs make which table or figure.

A `Cell` is one method on one model: its rho grid, the seeds every rho gets, and the seeds the
chosen rho gets. rho is chosen by mean validation accuracy over the sweep's seeds, the same rule
for every method; which runs a cell still needs therefore follows from the records it has.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .config import NO_PERTURBATION, RunConfig
from .errors import choose
from .records import Records


@dataclass(frozen=True)
class Method:
    """What is perturbed and how, whatever the model."""

    geometry: str = NO_PERTURBATION
    mask: str = "all"
    radius_over: str = "mask"
    sparsity: float | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """Entry of `Profile.grids`: geometry, mask and, for a sparse mask, radius rule and level.

        >>> Method("l2", "only_norm").key, Method("l2", "random", "all", 0.5).key
        (('l2', 'only_norm'), ('l2', 'random', 'all', '0.5'))
        """
        if self.mask not in SPARSE_MASKS:
            return self.geometry, self.mask
        level = "norm" if self.sparsity is None else f"{self.sparsity:g}"
        return self.geometry, self.mask, self.radius_over, level

    @functools.cache  # noqa: B019 (methods and bases are few and live as long as the study)
    def on(self, base: RunConfig, rho: float, seed: int) -> RunConfig:
        """The configuration of one run."""
        if self.geometry == NO_PERTURBATION:
            return base.replace(seed=seed)
        return base.replace(
            seed=seed,
            rho=rho,
            geometry=self.geometry,
            mask=self.mask,
            radius_over=self.radius_over,
            sparsity=self.sparsity,
        )


BASE = Method()
ALL = Method("l2", "all")  # SAM
ON = Method("l2", "only_norm")  # SAM-ON
HEADLINE = (BASE, ALL, ON)
# the geometries of the paper's rho figure, swept with all seeds in the headline family
SWEPT = ("l2", "elementwise_l2", "elementwise_linf", "layerwise_l2")
SPARSE_MASKS = ("random", "fisher", "dynamic")
BATCHNORM_FAMILIES = ("wrn", "resnet", "resnext")


@dataclass(frozen=True)
class Cell:
    """One method on one model, with its grid.

    Attributes:
        base: configuration of the base optimizer; its seed is ignored.
        method: what is perturbed.
        grid: values of rho; (0.0,) for the base optimizer.
        sweep_seeds: seeds 0 to sweep_seeds - 1 run at every rho and choose it.
        seeds: seeds 0 to seeds - 1 run at the chosen rho.
    """

    base: RunConfig
    method: Method
    grid: tuple[float, ...]
    sweep_seeds: int
    seeds: int

    def at(self, rho: float, seeds: int) -> list[RunConfig]:
        """Runs at one rho."""
        return [self.method.on(self.base, rho, seed) for seed in range(seeds)]

    @property
    def sweep(self) -> list[RunConfig]:
        """The runs that choose rho; none if there is nothing to choose."""
        if len(self.grid) == 1:
            return []
        return [run for rho in self.grid for run in self.at(rho, self.sweep_seeds)]

    def validation(self, rho: float, records: Records) -> float | None:
        """Mean validation accuracy over the sweep's seeds, in percent; None if one is missing."""
        found = [records.get(run.run_id) for run in self.at(rho, self.sweep_seeds)]
        if any(record is None for record in found):
            return None
        return sum(record["validation_accuracy"] for record in found) / len(found)

    def chosen(self, records: Records) -> float | None:
        """The rho with the best mean validation accuracy, the smaller one if two are equal.

        None while the sweep is not complete.
        """
        if len(self.grid) == 1:
            return self.grid[0]
        scores = {rho: self.validation(rho, records) for rho in sorted(self.grid)}
        if any(score is None for score in scores.values()):
            return None
        return max(scores, key=scores.get)

    def runs(self, records: Records) -> list[RunConfig]:
        """Every run of the cell that is known by now, done or not."""
        rho = self.chosen(records)
        return self.sweep + ([] if rho is None else self.at(rho, self.seeds))

    @property
    def size(self) -> int:
        """How many runs the cell comes to."""
        if len(self.grid) == 1:
            return self.seeds
        return len(self.grid) * self.sweep_seeds + max(0, self.seeds - self.sweep_seeds)


def needed(cells: Iterable[Cell], records: Records) -> list[RunConfig]:
    """Every known run of some cells, shared ones once, in the order of the cells."""
    runs = {run.run_id: run for cell in cells for run in cell.runs(records)}
    return list(runs.values())


def missing(cells: Iterable[Cell], records: Records) -> list[RunConfig]:
    """The known runs of some cells that have no record, in the order of the cells."""
    return [run for run in needed(cells, records) if run.run_id not in records]


def size(cells: Iterable[Cell]) -> int:
    """How many runs some cells come to, those not known yet included."""
    return sum(cell.size for cell in dict.fromkeys(cells))


@dataclass(frozen=True)
class Profile:
    """A scale at which the study is run: data, models, grids and seeds.

    Attributes:
        name: of the profile and of its results folder.
        about: one line for the book.
        bases: configuration of the base optimizer by family (wrn, resnet, resnext, vit).
        headline: the family of the headline, the rho curves and the sparsity table.
        geometries: the rows of the variants table.
        ladders: values of rho of the curves over rho, by geometry; the same for every mask.
        grids: values of rho elsewhere, by `Method.key`; as many on every side of a comparison,
            so that rho is tuned alike.
        sweep_seeds: seeds that choose rho; the rho curves run with all `seeds`.
        seeds: seeds of every comparison.
        headline_seeds: seeds of the base optimizer, SAM and SAM-ON in the headline family.
        sparse: masks and sparsities of the sparsity table; None is the norm layers' own.
        device: where the runs are meant to run, cpu or cuda.
    """

    name: str
    about: str
    bases: dict[str, RunConfig]
    headline: str
    geometries: tuple[str, ...]
    ladders: dict[str, tuple[float, ...]]
    grids: dict[tuple[str, ...], tuple[float, ...]]
    sweep_seeds: int
    seeds: int
    headline_seeds: int
    sparse: tuple[tuple[str, float | None], ...] = tuple((mask, None) for mask in SPARSE_MASKS)
    device: str = "cpu"

    def cell(self, family: str, method: Method) -> Cell:
        """The one cell of a method in a family: every notebook gets the same."""
        leads = family == self.headline
        curve = leads and method.geometry in SWEPT and method.mask not in SPARSE_MASKS
        if method == BASE:
            grid = (0.0,)
        else:
            grid = self.ladders[method.geometry] if curve else self.grids[method.key]
        return Cell(
            self.bases[family],
            method,
            grid,
            self.seeds if curve else self.sweep_seeds,
            self.headline_seeds if leads and method in HEADLINE else self.seeds,
        )

    @property
    def families(self) -> tuple[str, ...]:
        """The BatchNorm families this profile runs, in the order of the paper's Table 1."""
        return tuple(family for family in BATCHNORM_FAMILIES if family in self.bases)


def introduction(profile: Profile) -> list[Cell]:
    """Base optimizer, SAM and SAM-ON: the finding in one picture."""
    return [profile.cell(profile.headline, method) for method in HEADLINE]


def variants(profile: Profile) -> list[Cell]:
    """Every geometry x {all, only-norm} and the base optimizer: the paper's Table 1."""
    methods = [Method(g, mask) for g in profile.geometries for mask in ("all", "only_norm")]
    return [profile.cell(f, method) for f in profile.families for method in (BASE, *methods)]


def rho_sweep(profile: Profile) -> list[Cell]:
    """Accuracy against rho for three masks and four geometries: the paper's Figure 1."""
    masks = ("all", "only_norm", "no_norm")
    methods = [Method(g, mask) for g in SWEPT for mask in masks]
    return [profile.cell(profile.headline, method) for method in (BASE, *methods)]


def sparsity(profile: Profile) -> list[Cell]:
    """Sparse masks under both radius rules, beside SAM and SAM-ON: its sparsity table."""
    sparse = [
        Method("l2", mask, radius, level)
        for mask, level in profile.sparse
        for radius in ("mask", "all")
    ]
    return [profile.cell(profile.headline, method) for method in (*HEADLINE, *sparse)]


# What each notebook needs, the most decisive first; a notebook that is not here needs no runs.
NOTEBOOKS: dict[str, Callable[[Profile], list[Cell]]] = {
    "introduction": introduction,
    "rho_sweep": rho_sweep,
    "sparsity": sparsity,
    "variants": variants,
}


def notebook_cells(profile: Profile, only: str | None = None) -> list[list[Cell]]:
    """The cells of every notebook, or of one, as groups in the order they should run.

    Raises:
        ConfigError: no such notebook.
    """
    if only is not None:
        return [NOTEBOOKS[choose("notebook", only, NOTEBOOKS)](profile)]
    return [cells(profile) for cells in NOTEBOOKS.values()]
