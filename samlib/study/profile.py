"""A profile: the scale at which the study is run, and where each method's search for rho begins."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from samlib.errors import ConfigError
from samlib.models import is_vit
from samlib.sam.geometry import VARIANTS
from samlib.study.cells import Cell
from samlib.study.methods import ALL, BASE, ON, SPARSE_MASKS, Method
from samlib.study.search import ladder
from samlib.trainer.config import RunConfig

TUNING = (1000, 1001)  # seeds that choose a value and are never compared
MARGIN = 0.2  # points of accuracy: smaller differences are of no interest


@dataclass(frozen=True)
class Row:
    """A line of a profile's grids: a method that the profile runs.

    Attributes:
        method: with its changes, if the changed method has a search of its own.
        start: values its search begins with, a factor of 2 apart; none for the base optimizer, one
            for a rho that is reported.
        problem: the network of the row; None means every network.
        seeds: number of compared seeds; None means the profile's default, which also applies to a
            method that differs from the row's.
    """

    method: Method
    start: tuple[float, ...] = ()
    problem: str | None = None
    seeds: int | None = None


def pair(geometry: str, everything: float, only_norm: float, **row) -> tuple[Row, Row]:
    """Rows of a SAM variant: masks all and only norm, each with the first of its four values."""
    return (
        Row(Method(geometry, "all"), ladder(everything), **row),
        Row(Method(geometry, "only_norm"), ladder(only_norm), **row),
    )


@dataclass(frozen=True)
class Profile:
    """A scale at which the study is run: data, models, grids and seeds.

    Attributes:
        name: of the profile and of its results folder.
        about: one line for the book.
        where: the problem in two or three words, as verdicts name it: "on noisy digits".
        bases: configuration of the base optimizer by problem: wrn, resnet, resnext or vit, and
            after a dash what it differs in (wrn-autoaugment, vit-lion).
        headline: the problem of the headline, the rho curves and the masks.
        grids: which methods are run, and where each search begins. A row with the method's changes
            comes before a row without, and a row of the problem before a row for all problems. A
            variant with rows for all and only_norm joins the table of variants, a mask with a row
            for l2 the table of masks.
        seeds: seeds of a comparison, unless its row says otherwise.
        first_seed: the first seed of a comparison; the others follow.
        fresh: seeds of a confirmation, which no other run has; see `plan.confirmation`.
        tuning: the seeds that choose rho.
        measured_seeds: seeds whose final weights are measured, of the base optimizer (its weight
            decay tuned, too), SAM and SAM-ON.
        refine: whether a search is extended and refined; see `search.search`.
        margin: differences of accuracy within it, in points, are of no interest.
        order: what is run before the chapters, group by group: pairs of problem and method.
        chapters: the chapters of the profile; None means all.
        device: default device of the runs, cpu or cuda.
    """

    name: str
    about: str
    where: str
    bases: dict[str, RunConfig]
    headline: str
    grids: tuple[Row, ...]
    seeds: int
    measured_seeds: int
    first_seed: int = 0
    fresh: tuple[int, ...] = ()
    tuning: tuple[int, ...] = TUNING
    refine: bool = True
    margin: float = MARGIN
    order: tuple[tuple[tuple[str, Method], ...], ...] = ()
    chapters: tuple[str, ...] | None = None
    device: str = "cpu"

    def cell(self, problem: str, method: Method) -> Cell:
        """The cell of a method in a problem.

        Raises:
            ConfigError: the profile has no row for the method.
        """
        row = self.row(problem, method)
        count = self._count(row) if row.method == method else self.seeds
        seeds = self._seeds(self._most_seeds(problem) if method == BASE else count)
        cell = Cell(
            self.bases[problem], method, row.start or (0.0,), self.tuning, seeds, self.refine
        )
        if method.rho_from == "plain":
            return replace(cell, like=self.cell(problem, method.plain))
        if method.rho_from == "law":
            like = self.cell(problem, Method(method.geometry, "all"))
            counted = self.cell(problem, ON) if method.mask == "random" else None
            return replace(cell, like=like, counted=counted)
        return cell

    def problem_of(self, cell: Cell) -> str:
        """The problem that a cell of the profile is of."""
        return next(name for name, base in self.bases.items() if base == cell.base)

    def row(self, problem: str, method: Method) -> Row:
        """The row where a method's search begins.

        Raises:
            ConfigError: the profile has no row for the method.
        """
        found = self._row(problem, method)
        if found is None:
            raise ConfigError(
                f"profile {self.name} has no values of rho for {method} on {problem}: add a row to "
                "its grids in samlib/study/profiles"
            )
        return found

    def _row(self, problem: str, method: Method) -> Row | None:
        wanted = [replace(method, rho_from="search"), method.plain]
        if method.rho_from == "reported":
            wanted = [method]  # a search's row does not name that value
        found = (self._by_method.get((f, m)) for m in wanted for f in (problem, None))
        return next((row for row in found if row is not None), None)

    @functools.cached_property
    def _by_method(self) -> dict[tuple[str | None, Method], Row]:
        return {(row.problem, row.method): row for row in self.grids}

    def has(self, problem: str, method: Method) -> bool:
        """Whether the profile runs a method on a network."""
        return self._row(problem, method) is not None

    def _rows(self, problem: str) -> Iterator[Row]:
        return (row for row in self.grids if row.problem in (None, problem))

    def _count(self, row: Row) -> int:
        return self.seeds if row.seeds is None else row.seeds

    def _most_seeds(self, problem: str) -> int:
        """Seeds of the base optimizer, which is compared with every method."""
        return max(self._count(row) for row in self._rows(problem))

    def _seeds(self, count: int) -> tuple[int, ...]:
        return tuple(range(self.first_seed, self.first_seed + count))

    @property
    def problems(self) -> tuple[str, ...]:
        """The BatchNorm problems this profile runs, in its order."""
        return tuple(f for f in self.bases if f not in self.transformers)

    @property
    def transformers(self) -> tuple[str, ...]:
        """The LayerNorm problems this profile runs, in its order."""
        return tuple(f for f, base in self.bases.items() if is_vit(base.model))

    def geometries(self, problem: str) -> tuple[str, ...]:
        """The rows of the variants table: those with rows for all and for only_norm."""
        pairs = {g: [Method(g, mask) for mask in ("all", "only_norm")] for g in VARIANTS}
        return tuple(g for g, pair in pairs.items() if all(self.has(problem, m) for m in pair))

    @property
    def masks(self) -> tuple[Method, ...]:
        """SAM on every mask with a row beside all and only_norm, sparse masks left out."""
        methods = (row.method for row in self._rows(self.headline))
        return tuple(
            m
            for m in dict.fromkeys(methods)
            if m.geometry == ALL.geometry
            and m == m.plain
            and m.mask not in SPARSE_MASKS
            and m not in (ALL, ON)
        )

    @property
    def sparse(self) -> tuple[Method, ...]:
        """SAM on sparse masks, by level and radius rule, in the order of the rows."""
        methods = (row.method for row in self._rows(self.headline))
        return tuple(m for m in methods if m.mask in SPARSE_MASKS and m == m.plain)
