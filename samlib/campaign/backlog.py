"""The jobs a profile still needs, and their expected time."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from samlib.campaign.jobs import Job, RunJob
from samlib.measures.measurement import MeasureJob, MeasureRecords
from samlib.records import store
from samlib.records.results_folder import ResultsFolder
from samlib.records.store import Records
from samlib.study.cells import Needs, all_cells, count_runs, missing_measurements, missing_runs
from samlib.study.members import one_pass
from samlib.trainer.config import NO_PERTURBATION, RunConfig


class Estimate:
    """Expected time of jobs, estimated from the campaign's records.

    Args:
        runs, measures: the records.
        folder: where a run's weights are looked for; a measurement of a finished run repeats the
            run if its weights are not there. None: they are there.
        unseen: seconds of a run whose network has no record; None where they are not known.
    """

    def __init__(
        self,
        runs: Records,
        measures: MeasureRecords | None = None,
        *,
        folder: ResultsFolder | None = None,
        unseen: Callable[[RunConfig], float | None] = lambda config: None,
    ):
        self._seconds: dict[tuple, list[float]] = {}
        self._runs, self._folder, self._unseen = runs, folder, unseen
        for records in (runs, *(measures or {}).values()):
            for record in records.values():
                self.add(record)

    @staticmethod
    def _kind(config: dict, measure: str | None) -> tuple:
        where = (config["dataset"], config["model"], measure)
        if measure is not None:
            return where
        single = one_pass(config["member"])  # a step of the base optimizer's time
        perturbed = config["geometry"] != NO_PERTURBATION and not single
        only_norm = perturbed and config["mask"] == "only_norm"
        return *where, perturbed, only_norm, config["batch_size"]

    def add(self, record: dict) -> None:
        """Include one more record, of a run or of a measurement."""
        kind = self._kind(record["config"], record.get("measure"))
        epochs = len(record["times"].get("epochs", [1]))
        self._seconds.setdefault(kind, []).append(store.seconds(record) / epochs)

    def seconds(self, job: Job) -> float | None:
        """Expected wall time of a job; None where nothing is known of it."""
        return self.total([job])

    def total(self, jobs: Sequence[Job]) -> float | None:
        """Expected seconds of some jobs in sequence; None where nothing is known of any.

        Where `is_floor`, the jobs take longer.
        """
        again = [RunJob(run) for run in self._repeated(jobs)]
        own = [(job, self._own(job)) for job in (*jobs, *again)]
        known = [seconds for _, seconds in own if seconds is not None]
        if not known:
            return None if jobs else 0.0
        unknown = sum(seconds is None and job.measure is None for job, seconds in own)
        return sum(known) + statistics.mean(known) * unknown

    def is_floor(self, jobs: Sequence[Job]) -> bool:
        """Whether one of the jobs is a measurement that no record has timed."""
        return any(job.measure is not None and self._own(job) is None for job in jobs)

    def _own(self, job: Job) -> float | None:
        """Expected seconds of a job without the runs that it repeats."""
        kind, epochs = self._kind(job.config.to_dict(), job.measure), job.epochs
        known = self._seconds.get(kind)
        if known is not None:
            return statistics.median(known) * epochs
        same = [statistics.median(v) for k, v in self._seconds.items() if k[:3] == kind[:3]]
        if same:  # the slowest kind on the same model stands in
            return max(same) * epochs
        return self._unseen(job.config) if job.measure is None else None

    def _repeated(self, jobs: Sequence[Job]) -> list[RunConfig]:
        """Finished runs that measurements repeat for their weights, each once."""
        if self._folder is None:
            return []
        wanted = dict.fromkeys(run for job in jobs if job.measure is not None for run in job.runs)
        return [
            run
            for run in wanted
            if run.run_id in self._runs and not self._folder.weights(run.run_id).exists()
        ]


@dataclass
class Backlog:
    """The jobs of some chapters, done and missing.

    Attributes:
        needs: the chapters' needs, in the order of the work.
        runs, measures: the records so far; a new one is added by `learn`.
    """

    needs: Sequence[Needs]
    runs: Records
    measures: MeasureRecords

    def __post_init__(self):
        self.cells = all_cells(self.needs)
        self.measured = list(dict.fromkeys(m for need in self.needs for m in need.measured))

    def jobs(self, needs: Sequence[Needs] | None = None) -> list[Job]:
        """Missing jobs that can start now: runs, then measurements of finished runs."""
        needs = self.needs if needs is None else needs
        cells = all_cells(needs)
        measured = [m for need in needs for m in need.measured]
        return [
            *map(RunJob, missing_runs(cells, self.runs)),
            *missing_measurements(measured, self.runs, self.measures),
        ]

    def one_by_one(self) -> Iterator[Job | None]:
        """Jobs that can start now, each once, of the first chapter that has one; None for none.

        Asked again after every job, so that a worker with nothing left of one chapter begins the
        next, and what a search finds out is run before later chapters.
        """
        handed: set[str] = set()
        left = list(self.needs)
        while True:
            found = None
            for need in list(left):
                todo = self.jobs([need])
                found = next((job for job in todo if job.name not in handed), None)
                if found is not None:
                    handed.add(found.name)
                    break
                if not todo and not self._expected([need]):
                    left.remove(need)
            yield found

    def to_come(self) -> list[Job]:
        """Jobs beyond `jobs`: what waits for a run, and one for each that is not known yet.

        One that is not known has the network of its cell, at a value that will be another.
        """
        waiting, found = {}, []
        for cell in self.cells:
            found += [RunJob(cell.any_run)] * cell.expected(self.runs)
        for m in self.measured:
            found += [MeasureJob(m.cell.any_run, m.measure)] * m.expected(self.runs)
            jobs = (MeasureJob(run, m.measure) for run in m.runs(self.runs))
            waiting |= {
                job: None for job in jobs if any(r.run_id not in self.runs for r in job.runs)
            }
        return [*found, *waiting]

    def _expected(self, needs: Sequence[Needs]) -> int:
        """Jobs that are not known yet."""
        cells = sum(cell.expected(self.runs) for cell in all_cells(needs))
        return cells + sum(m.expected(self.runs) for need in needs for m in need.measured)

    @property
    def total(self) -> int:
        """Estimated number of all runs and measurements."""
        expected = sum(m.expected(self.runs) for m in self.measured)
        return count_runs(self.cells, self.runs) + len(self._to_measure()) + expected

    def _to_measure(self) -> set[tuple[str, str]]:
        """Measure and run id of every known measurement, done or not."""
        return {(m.measure, r.run_id) for m in self.measured for r in m.runs(self.runs)}

    @property
    def done(self) -> int:
        """Number of runs and measurements with a record."""
        runs = {r.run_id for c in self.cells for r in c.runs(self.runs)} & self.runs.keys()
        found = [run_id in self.measures[name] for name, run_id in self._to_measure()]
        return len(runs) + sum(found)

    def learn(self, job: Job, folder: ResultsFolder) -> dict:
        """Read the record a job has written into the backlog; returns the record."""
        kept = self.runs if job.measure is None else self.measures[job.measure]
        kept[job.config.run_id] = found = store.read_one(job.record(folder))
        return found
