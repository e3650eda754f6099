"""A campaign under torchrun: the missing runs one after the other, each on all workers."""

import math
import sys
import time
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from samlib.campaign.backlog import Estimate
from samlib.campaign.jobs import Outcome, RunJob
from samlib.errors import ConfigError, SamlibError, first_line
from samlib.records import journal, origins, store
from samlib.records.journal import Journal
from samlib.records.results_folder import ResultsFolder
from samlib.study.cells import Needs, all_cells, missing_runs
from samlib.trainer import checkpoint
from samlib.trainer.config import RunConfig
from samlib.trainer.distributed import train_distributed
from samlib.trainer.process_group import Workers


def run_missing_on_all_workers(
    needs: Sequence[Needs],
    folder: ResultsFolder,
    workers: Workers,
    *,
    perturbation: str = "worker",
    data_dir: Path | None = None,
    time_budget: float | None = None,
) -> Outcome:
    """Train the missing runs of some chapters one after the other, each on all workers.

    Only the first worker uses the folder and estimates times. `runner.run_missing` in one process
    measures the final weights.

    Args:
        needs: as in `runner.run_missing`.
        folder: results folder; the first worker holds its lock.
        workers, perturbation, data_dir: as in `distributed.train_distributed`.
        time_budget: seconds; no run is started that is expected to end later.

    Returns:
        What was done, what was refused and why (a run that several workers cannot train is no
        reason to leave out the others), and the first run that would have ended too late.
    """
    begun, outcome, there = time.monotonic(), Outcome(), {}
    if workers.rank == 0:
        journal.begin(folder)
        there = store.read(folder.runs, set_aside=True)
    estimate = Estimate(there)
    for chapter in needs:
        while config := _next(chapter, folder, workers, outcome.failed):
            left = math.inf if time_budget is None else time_budget - (time.monotonic() - begun)
            begun_before = left > 0 and folder.checkpoint(config.run_id).exists()
            whole = 0 if begun_before else estimate.seconds(RunJob(config)) or 0
            late = workers.rank == 0 and left <= whole
            if workers.total(float(late))[0]:
                outcome.skipped.append(config.run_id)
                return outcome
            if not (outcome.done or outcome.failed):
                among = {"workers": workers.count, "perturbation": perturbation}
                for said in origins.of_joined(there.values(), workers.device, among):
                    print(f"warning: {said}", file=sys.stderr)
            try:
                with _journal(config, folder, workers) as log:
                    record = train_distributed(
                        config,
                        workers,
                        perturbation=perturbation,
                        data_dir=data_dir,
                        weights=folder.weights(config.run_id),
                        checkpoints=folder.checkpoint(config.run_id),
                        on_epoch=log and log.epoch,
                    )
                    if log is not None:
                        store.write(folder.runs, record)
                        checkpoint.discard(folder.checkpoint(config.run_id))
                        log.end(record)
            except ConfigError as error:  # by every worker, before any of them trains
                outcome.failed[config.run_id] = str(error)
                continue
            estimate.add(record)
            outcome.done.append(config.run_id)
    return outcome


def _next(
    chapter: Needs, folder: ResultsFolder, workers: Workers, refused: Collection[str]
) -> RunConfig | None:
    """The first missing run, read by the first worker: network disks may lag for others."""
    found = None
    if workers.rank == 0:
        known = missing_runs(all_cells([chapter]), store.read(folder.runs))
        missing = [run for run in known if run.run_id not in refused]
        found = missing[0].to_dict() if missing else None
    fields = workers.from_first(found)
    return fields and RunConfig.from_dict(fields)


@contextmanager
def _journal(
    config: RunConfig, folder: ResultsFolder, workers: Workers
) -> Iterator[Journal | None]:
    """The journal of a run, for the first worker; a failure is noted with its reason."""
    if workers.rank:
        yield None
        return
    device = f"{workers.device.partition(':')[0]} x {workers.count}"
    with Journal(folder, config.run_id, config, device) as log:
        try:
            yield log
        except Exception as error:
            meant = isinstance(error, SamlibError)
            reason = str(error) if meant else f"{type(error).__name__}: {error}"
            log.stamp(f"failed: {reason}" if meant else f"failed\n{traceback.format_exc()}")
            journal.note_failure(folder, config.run_id, first_line(reason))
            raise
