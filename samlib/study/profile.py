"""A profile: the scale at which the study is run, and where each method's grid comes from."""

from dataclasses import dataclass, replace

from samlib.errors import ConfigError
from samlib.models import is_vit
from samlib.sam.geometry import VARIANTS
from samlib.study.cells import Cell
from samlib.study.methods import ALL, CURVES, DECISIVE, HEADLINE, ON, SPARSE_MASKS, SWEPT, Method
from samlib.trainer.config import NO_PERTURBATION, RunConfig


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
