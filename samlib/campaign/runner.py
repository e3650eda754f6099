"""Train and measure the missing runs of a profile, in order."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from samlib.campaign import capacity
from samlib.campaign.backlog import Backlog, Estimate
from samlib.campaign.jobs import Job, Outcome
from samlib.campaign.local import LocalExecutor, default_workers
from samlib.campaign.progress import Progress
from samlib.errors import choose
from samlib.measures import measurement
from samlib.records import journal, origins, store
from samlib.records.results_folder import ResultsFolder
from samlib.study.cells import Needs
from samlib.trainer.config import RunConfig
from samlib.trainer.one_run import usable_device

EXECUTORS = ("local", "ray")


def start_executor(
    name: str,
    folder: ResultsFolder,
    workers: int | None,
    device: str,
    data_dir: Path | None,
    jobs: Iterable[Job] = (),
):
    """An executor by its name: worker processes here, or tasks of a Ray cluster.

    Args:
        name: one of `EXECUTORS`.
        folder, device, data_dir: as in `local.LocalExecutor`.
        workers: None means `local.default_workers`, or as many as fit the cluster.
        jobs: those to come included; their shares of a GPU set the default number of workers.

    Raises:
        ConfigError: an unknown name, no such device, or too little disk or memory (`capacity`).
        ExtraMissing: Ray is not installed.
        ClusterError: no cluster can be reached.
    """
    if choose("executor", name, EXECUTORS) == "ray":
        from samlib.campaign.ray_executor import RayExecutor

        return RayExecutor(folder, workers=workers, device=device, data_dir=data_dir)
    usable_device(device)
    jobs = list(jobs)
    workers = workers or default_workers(device, jobs)
    capacity.check(jobs, folder, workers, device)
    return LocalExecutor(folder, workers=workers, device=device, data_dir=data_dir)


def run_missing(
    needs: Sequence[Needs],
    folder: ResultsFolder,
    *,
    workers: int | None = None,
    device: str = "cpu",
    data_dir: Path | None = None,
    time_budget: float | None = None,
    quiet: bool = False,
    executor: str = "local",
    unseen: Callable[[RunConfig], float | None] = lambda config: None,
) -> Outcome:
    """Train and measure the runs of some chapters that have no record yet.

    Args:
        needs: chapter by chapter, the most decisive first; a later one begins where a worker has
            nothing left of those before it.
        folder: results folder; the caller holds its lock.
        workers, device, data_dir: as in `start_executor`.
        time_budget: seconds; no job is started that is expected to end later.
        quiet: show no progress.
        executor: one of `EXECUTORS`; records do not depend on it.
        unseen: as in `backlog.Estimate`.

    Raises:
        ExtraMissing: Ray is not installed.
        ClusterError: the cluster cannot be reached, or is gone.
        RecordError: the folder was made by another record format.
    """
    begun = time.monotonic()
    journal.begin(folder)
    runs = store.read(folder.runs, set_aside=True)
    measured = measurement.read(folder, runs, set_aside=True)
    backlog = Backlog(needs, runs, measured)
    estimate = Estimate(backlog.runs, backlog.measures, folder=folder, unseen=unseen)
    failed: set[str] = set()
    progress = Progress(backlog.total, 0)

    def report(final: bool = False) -> None:
        if quiet or not (final or progress.due):
            return
        todo = [job for job in backlog.jobs() if job.name not in failed]
        progress.done, progress.total = backlog.done, backlog.total
        progress.failed = len(failed)
        left = estimate.total([*todo, *backlog.to_come()])
        progress.show(None if left is None else left / at_work.workers, final)

    def may_start(job: Job) -> bool:
        if time_budget is None:
            return True
        left = time_budget - (time.monotonic() - begun)
        if left > 0 and folder.checkpoint(job.name).exists():  # a part of it is done
            return True
        return left > (estimate.seconds(job) or 0)

    def on_done(job: Job, failure: str | None) -> None:
        if failure is None:
            estimate.add(backlog.learn(job, folder))
        else:
            failed.add(job.name)
            journal.note_failure(folder, job.name, failure)
            if not quiet:
                log = folder.log(job.name)
                print(f"\n{job.name} failed: {failure} (log: {log})", file=sys.stderr)
        report()

    todo = backlog.jobs()
    if not todo:
        return Outcome()
    everything = [*todo, *backlog.to_come()]
    taken = {job.measure for job in everything} - {None}
    there = [*runs.values(), *(r for name in taken for r in measured[name].values())]
    for said in () if quiet else origins.of_joined(there, device):
        print(f"warning: {said}", file=sys.stderr)
    with start_executor(executor, folder, workers, device, data_dir, everything) as at_work:
        report()
        outcome = at_work.run(backlog.one_by_one(), may_start=may_start, on_done=on_done)
    report(final=True)
    return outcome
