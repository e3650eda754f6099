"""A cell: one method on one network, its values of rho and its seeds, and the runs it needs.

rho is chosen by mean validation accuracy over the sweep's seeds, the same rule for every method;
which runs a cell still needs therefore follows from the records it has.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from samlib.measures.measurement import MeasureJob, MeasureRecords
from samlib.records.store import Records
from samlib.study.methods import Method
from samlib.trainer.config import RunConfig


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


def known_runs(cells: Iterable[Cell], records: Records) -> list[RunConfig]:
    """Every known run of some cells, shared ones once, in the order of the cells."""
    runs = {run.run_id: run for cell in cells for run in cell.runs(records)}
    return list(runs.values())


def missing_runs(cells: Iterable[Cell], records: Records) -> list[RunConfig]:
    """The known runs of some cells that have no record, in the order of the cells."""
    return [run for run in known_runs(cells, records) if run.run_id not in records]


def count_runs(cells: Iterable[Cell]) -> int:
    """How many runs some cells come to, those not known yet included."""
    return sum(cell.size for cell in dict.fromkeys(cells))


@dataclass(frozen=True)
class ToMeasure:
    """Runs whose final weights are measured.

    Attributes:
        cell: the cell they belong to.
        measure: name in `measurement.MEASURES`.
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


def missing_measurements(
    measured: Iterable[ToMeasure], runs: Records, measures: MeasureRecords
) -> list[MeasureJob]:
    """What is still to be measured, of the runs that are known and done, in order."""
    jobs = {
        MeasureJob(run, wanted.measure): None
        for wanted in measured
        for run in wanted.runs(runs)
        if run.run_id in runs and run.run_id not in measures[wanted.measure]
    }
    return list(jobs)
