"""A cell: one method on one network, where its search for rho begins, its seeds, and its runs.

The seeds that choose rho are never compared. Which runs a cell still needs follows from the records
it has: the values searched so far, then the evaluation seeds at the chosen one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from samlib.measures.measurement import MeasureJob, MeasureRecords
from samlib.records.store import Records
from samlib.study import law
from samlib.study.methods import Method
from samlib.study.search import Search, search
from samlib.trainer.config import RunConfig


@dataclass(frozen=True)
class Cell:
    """One method on one network.

    Attributes:
        base: configuration of the base optimizer; its seed is ignored.
        method: what is perturbed.
        start: values the search begins with; a single value is taken without a search.
        tuning: seeds that run at every value searched and choose one.
        seeds: seeds of the comparisons, which run at the chosen value; none of them is in `tuning`.
        refine: whether the ladder is extended and refined; see `search.search`.
        like: the cell whose chosen rho this one takes, or that the law starts from.
        counted: for a random mask at the law's rho, the cell whose mask has as many coordinates.
    """

    base: RunConfig
    method: Method
    start: tuple[float, ...]
    tuning: tuple[int, ...]
    seeds: tuple[int, ...]
    refine: bool = True
    like: "Cell | None" = None
    counted: "Cell | None" = None

    def at(self, value: float, seeds: Iterable[int] | None = None) -> list[RunConfig]:
        """Runs at one value; by default of the seeds that are compared."""
        seeds = self.seeds if seeds is None else seeds
        return [self.method.on(self.base, value, seed) for seed in seeds]

    def validation(self, value: float, records: Records) -> float | None:
        """Mean validation accuracy over the tuning seeds, in percent; None if one is missing.

        Rounded, so that as many right answers are as good whichever seeds gave them.
        """
        found = [records.get(run.run_id) for run in self.at(value, self.tuning)]
        if any(record is None for record in found):
            return None
        return round(fmean(record["validation_accuracy"] for record in found), 9)

    def search(self, records: Records) -> Search:
        """State of the search for this cell's value."""
        return search(self.start, lambda v: self.validation(v, records), refine=self.refine)

    def values(self, records: Records) -> tuple[float, ...]:
        """Every value the search needs so far, ascending."""
        return self.search(records).values

    def chosen(self, records: Records) -> float | None:
        """The value the cell is compared at; None while unknown."""
        if self.method.rho_from == "law":
            return self._by_law(records)
        return (self.like or self).search(records).chosen

    def _by_law(self, records: Records) -> float | None:
        rho = self.like.chosen(records)
        if rho is None:
            return None
        if self.counted is not None:
            share = law.counted_share(self.counted.any_run, records)
        else:
            share = law.norm_share(self.like.at(rho, self.like.tuning), records)
        return share and law.predicted(rho, share)

    @property
    def repeats(self) -> bool:
        """Whether it is another cell on other seeds, at the rho chosen there."""
        return self.like is not None and self.like.method == self.method

    @property
    def any_run(self) -> RunConfig:
        """The first run of the cell's search."""
        return self.at(self.start[0], self.tuning)[0]

    def tuning_runs(self, records: Records) -> list[RunConfig]:
        """The known runs that choose the value; none for a cell without a search."""
        cell = self.like or self
        if len(cell.start) == 1:
            return []
        found = [run for v in cell.values(records) for run in cell.at(v, cell.tuning)]
        return found + ([self.counted.any_run] if self.counted else [])

    def runs(self, records: Records) -> list[RunConfig]:
        """Every known run of the cell, done or not."""
        value = self.chosen(records)
        return self.tuning_runs(records) + ([] if value is None else self.at(value))

    def expected(self, records: Records) -> int:
        """Estimated number of runs that will join the known ones."""
        if self.chosen(records) is not None:
            return 0
        more = 0 if self.like else self.search(records).expected
        return more * len(self.tuning) + len(self.seeds)


def known_runs(cells: Iterable[Cell], records: Records) -> list[RunConfig]:
    """Every known run of some cells, shared ones once, in the order of the cells."""
    runs = {run.run_id: run for cell in cells for run in cell.runs(records)}
    return list(runs.values())


def missing_runs(cells: Iterable[Cell], records: Records) -> list[RunConfig]:
    """The known runs of some cells that have no record, in the order of the cells."""
    return [run for run in known_runs(cells, records) if run.run_id not in records]


def count_runs(cells: Iterable[Cell], records: Records) -> int:
    """Number of runs of some cells, with an estimate of those not known yet."""
    cells = list(dict.fromkeys(cells))
    return len(known_runs(cells, records)) + sum(cell.expected(records) for cell in cells)


@dataclass(frozen=True)
class ToMeasure:
    """Runs whose final weights are measured.

    Attributes:
        cell: the cell they belong to.
        measure: name in `measurement.MEASURES`.
        seeds: number of seeds, counted from the first.
        every_value: measure the tuning runs at every value of the search, not the compared runs.
    """

    cell: Cell
    measure: str
    seeds: int
    every_value: bool = False

    def runs(self, records: Records) -> list[RunConfig]:
        """The known runs to be measured, done or not."""
        if self.every_value:
            seeds = self.cell.tuning[: self.seeds]
            return [run for v in self.cell.values(records) for run in self.cell.at(v, seeds)]
        chosen = self.cell.chosen(records)
        return [] if chosen is None else self.cell.at(chosen, self.cell.seeds[: self.seeds])

    def expected(self, records: Records) -> int:
        """Estimated number of runs that will join the known ones."""
        if self.every_value:
            return self.cell.search(records).expected * min(self.seeds, len(self.cell.tuning))
        known = self.cell.chosen(records) is not None
        return 0 if known else min(self.seeds, len(self.cell.seeds))


def missing_measurements(
    measured: Iterable[ToMeasure], runs: Records, measures: MeasureRecords
) -> list[MeasureJob]:
    """Missing measurements of finished runs, in order."""
    wanted = dict.fromkeys(MeasureJob(run, w.measure) for w in measured for run in w.runs(runs))
    return [
        job
        for job in wanted
        if job.config.run_id not in measures[job.measure]
        and all(run.run_id in runs for run in job.runs)
    ]


class Needs(NamedTuple):
    """Runs and measurements of a chapter.

    Attributes:
        cells, measured: without them the chapter has nothing to say.
        beside: cells whose rows say that they are not run yet; the chapter stands without them.
    """

    cells: Sequence[Cell]
    measured: Sequence[ToMeasure] = ()
    beside: Sequence[Cell] = ()

    def with_beside(self) -> "Needs":
        """The same with nothing left out."""
        return Needs(all_cells([self]), self.measured)


def all_cells(needs: Iterable[Needs]) -> list[Cell]:
    """Every cell once, in order."""
    return list(dict.fromkeys(cell for need in needs for cell in (*need.cells, *need.beside)))
