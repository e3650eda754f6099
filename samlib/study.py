"""What the study is made of: methods, cells and profiles. Which chapter needs which is `plan`.

A `Cell` is one method on one model: its rho grid, the seeds every rho gets, and the seeds the
chosen rho gets. rho is chosen by mean validation accuracy over the sweep's seeds, the same rule
for every method; which runs a cell still needs therefore follows from the records it has.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from .config import NO_PERTURBATION, RunConfig
from .errors import ConfigError
from .geometry import VARIANTS
from .models import is_vit
from .records import Records


@dataclass(frozen=True)
class Method:
    """What is perturbed and how, whatever the model.

    Attributes:
        geometry, mask, radius_over, sparsity: as in RunConfig.
        changes: other fields of RunConfig in which the method differs, with their values.
        own_rho: False takes the rho of the method without its changes instead of tuning one.
    """

    geometry: str = NO_PERTURBATION
    mask: str = "all"
    radius_over: str = "mask"
    sparsity: float | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    own_rho: bool = True

    def but(self, own_rho: bool = True, **changes) -> "Method":
        """The method with some more fields of RunConfig changed."""
        return replace(self, changes=(*self.changes, *changes.items()), own_rho=own_rho)

    @property
    def plain(self) -> "Method":
        """The method without its changes."""
        return replace(self, changes=(), own_rho=True)

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
            return base.replace(seed=seed, **dict(self.changes))
        return base.replace(
            seed=seed,
            **dict(self.changes),
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
CURVES = ("all", "only_norm", "no_norm")  # and the masks it draws
SPARSE_MASKS = ("random", "fisher", "dynamic")
# SAM on per-channel scales of the weights, which need no normalization layer.
SCALES = (Method("output_scales", "convolutions"), Method("input_scales", "weights"))
# What a claim is decided by beside the headline: masks of SAM-ON's sparsity, the scales, the
# variant whose norm layers carry most, the first and the last stages, statistics of the first pass.
DECISIVE = (
    *(Method("l2", mask, radius) for mask in SPARSE_MASKS for radius in ("mask", "all")),
    *SCALES,
    *(Method("elementwise_l2", mask) for mask in ("all", "no_norm")),
    *(Method("l2", f"blocks_{stages}") for stages in ("1", "23")),
    *(method.but(batchnorm="first") for method in (ALL, ON)),
)


@dataclass(frozen=True)
class Cell:
    """One method on one model, with its grid.

    Attributes:
        base: configuration of the base optimizer; its seed is ignored.
        method: what is perturbed.
        grid: values of rho; (0.0,) for the base optimizer.
        sweep_seeds: seeds 0 to sweep_seeds - 1 run at every rho and choose it.
        seeds: seeds 0 to seeds - 1 run at the chosen rho.
        like: the cell whose chosen rho this one takes; None chooses its own.
    """

    base: RunConfig
    method: Method
    grid: tuple[float, ...]
    sweep_seeds: int
    seeds: int
    like: "Cell | None" = None

    def at(self, rho: float, seeds: int) -> list[RunConfig]:
        """Runs at one rho."""
        return [self.method.on(self.base, rho, seed) for seed in range(seeds)]

    @property
    def sweep(self) -> list[RunConfig]:
        """The runs that choose rho; none if there is nothing to choose."""
        if self.like is not None:
            return self.like.sweep
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
        if self.like is not None:
            return self.like.chosen(records)
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
        """How many runs the cell comes to, those that choose rho for another one left out."""
        if self.like is not None or len(self.grid) == 1:
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
        bases: configuration of the base optimizer by family: wrn, resnet, resnext or vit, and
            after a dash what it differs in (wrn-autoaugment, vit-lion).
        headline: the family of the headline, the rho curves and the sparsity table.
        ladders: values of rho that every mask shares: of the headline family's curves over rho by
            geometry, of SAM and SAM-ON on transformers by family.
        grids: values of rho elsewhere, by `Method.key` or, for one family alone, by its name and
            the key; as many on both sides of a comparison within a table. A variant with grids for
            all and only_norm is a row of the variants table, a mask with a grid for l2 one of the
            sparsity chapter's.
        sweep_seeds: seeds that choose rho there.
        seeds: seeds of every comparison.
        headline_seeds: seeds of the base optimizer, SAM and SAM-ON in the headline family.
        decisive_seeds: seeds of `DECISIVE` in the headline family, and of the base optimizer, SAM
            and SAM-ON on transformers.
        measured_seeds: seeds of those whose robustness is measured.
        curve_seeds: seeds at every rho of the rho curves; None is all `seeds`.
        transformer_seeds: seeds at every rho of a transformer's ladder; None is `sweep_seeds`.
        sparse: masks and sparsities of the sparsity table; None is the norm layers' own.
        chapters: which chapters it runs; None is all of them.
        device: where the runs are meant to run, cpu or cuda.
    """

    name: str
    about: str
    bases: dict[str, RunConfig]
    headline: str
    ladders: dict[str, tuple[float, ...]]
    grids: dict[tuple[str, ...], tuple[float, ...]]
    sweep_seeds: int
    seeds: int
    headline_seeds: int
    decisive_seeds: int
    measured_seeds: int
    curve_seeds: int | None = None
    transformer_seeds: int | None = None
    sparse: tuple[tuple[str, float | None], ...] = tuple((mask, None) for mask in SPARSE_MASKS)
    chapters: tuple[str, ...] | None = None
    device: str = "cpu"

    def cell(self, family: str, method: Method) -> Cell:
        """The one cell of a method in a family: every notebook gets the same.

        Raises:
            ConfigError: no grid to choose the method's rho from.
        """
        if not method.own_rho:
            like = self.cell(family, method.plain)
            return replace(like, method=method, seeds=self.seeds, like=like)
        grid, sweep_seeds = self._sweep(family, method)
        seeds = self._seeds(family, method)
        return Cell(self.bases[family], method, grid, sweep_seeds, seeds)

    def _sweep(self, family: str, method: Method) -> tuple[tuple[float, ...], int]:
        """The values of rho a method chooses from, and on how many seeds."""
        if method.geometry == NO_PERTURBATION:
            return (0.0,), self.sweep_seeds
        curve = method == method.plain and method.geometry in SWEPT and method.mask in CURVES
        if family == self.headline and curve:
            return self.ladders[method.geometry], self.curve_seeds or self.seeds
        if family in self.ladders and method in HEADLINE:
            return self.ladders[family], self.transformer_seeds or self.sweep_seeds
        grid = self.grids.get((family, *method.key)) or self.grids.get(method.key)
        if grid is None:
            raise ConfigError(
                f"profile {self.name} has no values of rho for {method.key}: add a line to its "
                "grids in samlib/profiles.py"
            )
        return grid, self.sweep_seeds

    def _seeds(self, family: str, method: Method) -> int:
        leads = family == self.headline
        if leads and method in HEADLINE:
            return self.headline_seeds
        if (leads and method in DECISIVE) or (family in self.transformers and method in HEADLINE):
            return self.decisive_seeds
        return self.seeds

    @property
    def families(self) -> tuple[str, ...]:
        """The BatchNorm families this profile runs, in its order."""
        return tuple(f for f in self.bases if f not in self.transformers)

    @property
    def transformers(self) -> tuple[str, ...]:
        """The LayerNorm families this profile runs, in its order."""
        return tuple(f for f, base in self.bases.items() if is_vit(base.model))

    @property
    def geometries(self) -> tuple[str, ...]:
        """The rows of the variants table: those with grids for all and for only_norm."""
        both = ("all", "only_norm")
        return tuple(g for g in VARIANTS if all((g, mask) in self.grids for mask in both))

    @property
    def masks(self) -> tuple[Method, ...]:
        """SAM on every mask with a grid beside all and only_norm, sparse masks left out."""
        plain = (key for key in self.grids if len(key) == 2 and key[0] == ALL.geometry)
        methods = (Method(*key) for key in plain)
        return tuple(method for method in methods if method not in (ALL, ON))


@dataclass(frozen=True)
class Measured:
    """Runs whose final weights are measured.

    Attributes:
        cell: the cell they belong to.
        measure: name in `measuring.MEASURES`.
        seeds: how many, the first ones.
        every_rho: at each rho of the grid instead of at the chosen one.
    """

    cell: Cell
    measure: str
    seeds: int
    every_rho: bool = False

    def runs(self, records: Records) -> list[RunConfig]:
        """The runs to be measured that are known by now, done or not."""
        cell, rho = self.cell, self.cell.chosen(records)
        rhos = cell.grid if self.every_rho else () if rho is None else (rho,)
        return [run for value in rhos for run in cell.at(value, self.seeds)]

    @property
    def size(self) -> int:
        """How many runs are measured."""
        return self.seeds * (len(self.cell.grid) if self.every_rho else 1)
