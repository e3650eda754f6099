"""Bringing a profile's records up to date: everything missing is trained and measured, in order."""

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from samlib.campaign.backlog import Backlog, Estimate
from samlib.campaign.jobs import Job, Outcome
from samlib.campaign.local import LocalExecutor, default_workers
from samlib.campaign.progress import Progress
from samlib.errors import choose
from samlib.measures import measurement
from samlib.records import journal
from samlib.records import store as records_
from samlib.records.results_folder import ResultsFolder
from samlib.study.plan import Needs

EXECUTORS = ("local", "ray")


def start_executor(
    name: str,
    campaign: ResultsFolder,
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
        from samlib.campaign.ray_cluster import RayExecutor

        return RayExecutor(campaign, workers=workers, device=device, data_dir=data_dir)
    workers = workers or default_workers(device, jobs)
    return LocalExecutor(campaign, workers=workers, device=device, data_dir=data_dir)


def bring_up_to_date(
    needs: Sequence[Needs],
    campaign: ResultsFolder,
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
    backlog = Backlog(needs, runs, measurement.read(campaign, runs, set_aside=True))
    estimate = Estimate(backlog.runs, backlog.measures)
    outcome = Outcome()
    progress = Progress(backlog.total, 0)

    def report(final: bool = False) -> None:
        todo = [job for job in backlog.jobs() if job.run_id not in outcome.failed]
        progress.done, progress.total = backlog.done, backlog.total
        progress.failed = len(outcome.failed)
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
