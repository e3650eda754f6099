"""Bringing a profile's records up to date: what is missing, in which order, for how long."""

import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from . import journal, measuring, study
from . import records as records_
from .campaign import Campaign
from .config import NO_PERTURBATION
from .errors import choose
from .execute import Job, LocalExecutor, Outcome, default_workers
from .measuring import Measurement, Measures
from .plan import Needs, all_cells
from .records import Records


class Estimate:
    """How long jobs take, learned from records of this machine's campaign."""

    def __init__(self, runs: Records, measures: Measures | None = None):
        self._seconds: dict[tuple, list[float]] = {}
        for records in (runs, *(measures or {}).values()):
            for record in records.values():
                self.add(record)

    @staticmethod
    def _kind(config: dict, measure: str | None) -> tuple:
        where = (config["dataset"], config["model"], measure)
        if measure is not None:
            return where
        perturbed = config["geometry"] != NO_PERTURBATION
        return *where, perturbed, config["mask"] == "only_norm", config["batch_size"]

    def add(self, record: dict) -> None:
        """Learn from one more record, of a run or of a measurement."""
        kind = self._kind(record["config"], record.get("measure"))
        epochs = len(record["times"].get("epochs", [1]))
        self._seconds.setdefault(kind, []).append(record["times"]["wall"] / epochs)

    def seconds(self, job: Job) -> float | None:
        """Expected wall time of a job; None if nothing like it on its model has run."""
        measure = job.measure if isinstance(job, Measurement) else None
        config = job.config if isinstance(job, Measurement) else job
        epochs = config.epochs if measure is None else 1
        kind = self._kind(config.to_dict(), measure)
        known = self._seconds.get(kind)
        if known is None:  # the slowest kind on the same model stands in
            same = [statistics.median(v) for k, v in self._seconds.items() if k[:3] == kind[:3]]
            return max(same) * epochs if same else None
        return statistics.median(known) * epochs

    def total(self, jobs: Sequence[Job], unknown: int = 0) -> float | None:
        """Expected seconds of some jobs one after the other, and of as many more like them."""
        known = [s for s in map(self.seconds, jobs) if s is not None]
        if not known:
            return None if jobs or unknown else 0.0
        return sum(known) + statistics.mean(known) * (len(jobs) - len(known) + unknown)


@dataclass
class Backlog:
    """What some chapters need, and what of it is there.

    Attributes:
        needs: the chapters' needs, in the order they should be met.
        runs, measures: the records so far; a new one is added by `learn`.
    """

    needs: Sequence[Needs]
    runs: Records
    measures: Measures

    def __post_init__(self):
        self.cells = all_cells(self.needs)
        self.measured = list(dict.fromkeys(m for need in self.needs for m in need.measured))
        self.total = study.size(self.cells) + sum(m.size for m in self.measured)

    def jobs(self, needs: Sequence[Needs] | None = None) -> list[Job]:
        """What is missing and can be done by now: runs, then measurements of runs that are done."""
        needs = self.needs if needs is None else needs
        cells = all_cells(needs)
        measured = [m for need in needs for m in need.measured]
        return [
            *study.missing(cells, self.runs),
            *measuring.missing(measured, self.runs, self.measures),
        ]

    @property
    def done(self) -> int:
        """How many of the runs and measurements are there."""
        runs = {r.run_id for c in self.cells for r in c.runs(self.runs)} & self.runs.keys()
        found = {
            (m.measure, r.run_id)
            for m in self.measured
            for r in m.runs(self.runs)
            if r.run_id in self.measures[m.measure]
        }
        return len(runs) + len(found)

    def learn(self, job: Job, campaign: Campaign) -> dict:
        """Take in the record a job has written; returns it."""
        if isinstance(job, Measurement):
            folder, kept = campaign.measures(job.measure), self.measures[job.measure]
            run_id = job.config.run_id
        else:
            folder, kept, run_id = campaign.runs, self.runs, job.run_id
        kept[run_id] = records_.read_one(folder / f"{run_id}.json")
        return kept[run_id]


def clock(seconds: float | None) -> str:
    """A duration for people.

    >>> clock(75), clock(3 * 3600 + 120), clock(None)
    ('1m15s', '3h02m', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def bar(done: int, total: int) -> str:
    """How much of a whole is done.

    >>> bar(1, 2)
    '[############............]'
    """
    done = round(24 * done / total) if total else 24
    return f"[{'#' * done:.<24}]"


EXECUTORS = ("local", "ray")


def start_executor(
    name: str,
    campaign: Campaign,
    workers: int | None,
    device: str,
    data_dir: Path | None,
    jobs: Iterable[Job] = (),
):
    """An executor by its name: worker processes here, or tasks of a Ray cluster.

    Args:
        name: one of `EXECUTORS`.
        campaign, device, data_dir: as in `execute.LocalExecutor`.
        workers: None is `execute.default_workers`, or as many as the cluster has room for.
        jobs: what is to be done, as far as it is known: how well it shares a GPU.

    Raises:
        ConfigError: an unknown name, or Ray is not installed.
        ClusterError: no cluster can be reached.
    """
    if choose("executor", name, EXECUTORS) == "ray":
        from .cluster import RayExecutor  # Ray is optional

        return RayExecutor(campaign, workers=workers, device=device, data_dir=data_dir)
    workers = workers or default_workers(device, jobs)
    return LocalExecutor(campaign, workers=workers, device=device, data_dir=data_dir)


class Progress:
    """One line that is rewritten on a terminal, and a line now and then in a log file."""

    def __init__(self, total: int, done: int, stream: TextIO | None = None, every: float = 30.0):
        self.total, self.done, self.failed = total, done, 0
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._every, self._last, self._shown = every, -every, -1

    def show(self, left: float | None, final: bool = False) -> None:
        """Print the state if it is due; `left` is the expected time in seconds."""
        now = time.monotonic()
        due = self.live or final or now - self._last >= self._every
        if not due or (final and self._shown == self.done):
            return
        self._last, self._shown = now, self.done
        text = f"{bar(self.done, self.total)} {self.done}/{self.total} runs, {clock(left)} left"
        if self.failed:
            text += f", {self.failed} failed"
        self.stream.write(f"\r\x1b[K{text}" if self.live else f"{text}\n")
        if self.live and final:
            self.stream.write("\n")
        self.stream.flush()


def bring_up_to_date(
    needs: Sequence[Needs],
    campaign: Campaign,
    *,
    workers: int | None = None,
    device: str = "cpu",
    data_dir: Path | None = None,
    time_budget: float | None = None,
    quiet: bool = False,
    executor: str = "local",
) -> Outcome:
    """Train and measure everything some chapters need that has no record yet.

    Args:
        needs: chapter by chapter; each is complete before the next begins, so that what is
            most decisive comes first.
        campaign: where the records are; the caller holds its lock.
        workers, device, data_dir: as in `start_executor`.
        time_budget: seconds; nothing is started that is expected to end after them.
        quiet: show no progress.
        executor: where runs run, one of `EXECUTORS`; records do not depend on it.

    Raises:
        ConfigError: Ray is asked for and not installed.
        ClusterError: its cluster cannot be reached, or is gone.
        RecordError: the folder was made by another record format.
    """
    begun = time.monotonic()
    journal.begin(campaign)
    runs = records_.read(campaign.runs, set_aside=True)
    backlog = Backlog(needs, runs, measuring.read(campaign, runs, set_aside=True))
    estimate = Estimate(backlog.runs, backlog.measures)
    outcome = Outcome()
    progress = Progress(backlog.total, 0)

    def report(final: bool = False) -> None:
        todo = [job for job in backlog.jobs() if job.run_id not in outcome.failed]
        progress.done, progress.failed = backlog.done, len(outcome.failed)
        left = estimate.total(todo, max(0, backlog.total - progress.done - len(todo)))
        if not quiet:
            progress.show(None if left is None else left / at_work.workers, final)

    def may_start(job: Job) -> bool:
        if time_budget is None:
            return True
        left = time_budget - (time.monotonic() - begun)
        return left > (estimate.seconds(job) or 0)

    def on_done(job: Job, failure: str | None) -> None:
        if failure is None:
            estimate.add(backlog.learn(job, campaign))
        else:
            outcome.failed[job.run_id] = failure
            journal.note_failure(campaign, job.run_id, failure)
            if not quiet:
                log = campaign.log(job.run_id)
                print(f"\n{job.run_id} failed: {failure} (log: {log})", file=sys.stderr)
        report()

    todo = backlog.jobs()
    if not todo:
        return outcome
    with start_executor(executor, campaign, workers, device, data_dir, todo) as at_work:
        report()
        for chapter in needs:
            while True:  # once for the sweeps, then for the rho they chose and the measures
                tried = {*outcome.failed, *outcome.skipped}
                todo = [job for job in backlog.jobs([chapter]) if job.run_id not in tried]
                if not todo:
                    break
                part = at_work.run(todo, may_start=may_start, on_done=on_done)
                outcome.done += part.done
                outcome.skipped += part.skipped
    report(final=True)
    return outcome
