"""Where runs run: worker processes on this machine, one thread each.

The worker writes the record itself, so that a finished run is on disk whatever happens to
anybody else. A worker that dies (out of memory, killed) costs its run an attempt, nothing more.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from . import checkpoint, records
from .campaign import Campaign
from .config import RunConfig
from .errors import SamlibError
from .files import DiskError
from .train import train

ATTEMPTS = 3  # of a run whose worker died


@dataclass
class Outcome:
    """What became of the runs handed to `execute`: ids done, reasons by id, ids not started."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def one_run(
    config: RunConfig, campaign: Campaign, device: str, data_dir: Path | None, keep_weights: bool
) -> str | None:
    """Train one configuration and write its record; returns why it failed, or None."""
    run_id = config.run_id
    try:
        result = train(
            config,
            device=device,
            data_dir=data_dir,
            weights=campaign.weights(run_id) if keep_weights else None,
            checkpoints=campaign.checkpoint(run_id),
        )
        records.write(campaign.runs, result)
        checkpoint.discard(campaign.checkpoint(run_id))
    except DiskError:
        raise  # no other run could be kept, either
    except SamlibError as error:
        return str(error)
    except Exception as error:
        log = campaign.log(run_id)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
        return f"{type(error).__name__}: {error} (full text in {log})"
    return None


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # A checkpoint found damaged is told in the campaign's own summary, not by a worker.
    warnings.simplefilter("default")

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


class LocalExecutor:
    """Worker processes on this machine, kept from one call of `run` to the next.

    Args:
        campaign: where records go.
        workers: processes, one thread each.
        device, data_dir: as in `train.train`.
        keep_weights: also write final weights.
    """

    def __init__(
        self,
        campaign: Campaign,
        *,
        workers: int = 1,
        device: str = "cpu",
        data_dir: Path | None = None,
        keep_weights: bool = True,
    ):
        self.workers = workers
        self._job = (campaign, device, data_dir, keep_weights)
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self.workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(os.getpid(),),
        )

    def __enter__(self) -> "LocalExecutor":
        return self

    def __exit__(self, *exception) -> None:
        """End the workers at once; what they had finished is on disk already."""
        for process in list((self._pool._processes or {}).values()):
            process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(
        self,
        configs: Iterable[RunConfig],
        *,
        may_start: Callable[[RunConfig], bool] = lambda config: True,
        on_done: Callable[[RunConfig, str | None], None] = lambda config, failure: None,
    ) -> Outcome:
        """Run configurations; their records do not depend on the number of workers.

        Args:
            configs: what to run, in this order.
            may_start: asked before each start; a run refused is skipped.
            on_done: told of every run that ended, with the reason if it failed.

        Raises:
            DiskError: a record cannot be written; what was written before is kept.
        """
        outcome, deaths = Outcome(), Counter()
        waiting: deque[RunConfig] = deque(configs)
        suspects: deque[RunConfig] = deque()  # in flight when a worker died: each runs alone
        flying: dict[Future, RunConfig] = {}

        def finish(config: RunConfig, failure: str | None) -> None:
            if failure is None:
                outcome.done.append(config.run_id)
            else:
                outcome.failed[config.run_id] = failure
            on_done(config, failure)

        def start(config: RunConfig) -> None:
            if not may_start(config):
                outcome.skipped.append(config.run_id)
                return
            try:
                job = self._pool.submit(one_run, config, *self._job)
            except BrokenProcessPool:  # a worker died while it had nothing to do
                self._restart()
                job = self._pool.submit(one_run, config, *self._job)
            flying[job] = config

        while waiting or suspects or flying:
            if suspects and not flying:
                start(suspects.popleft())
            while waiting and not suspects and len(flying) < self.workers:
                start(waiting.popleft())
            if not flying:
                continue
            ended, _ = wait(flying, return_when=FIRST_COMPLETED)
            if not any(_died(job) for job in ended):
                for job in ended:
                    finish(flying.pop(job), _failure(job))
                continue
            # The pool is broken and cannot say by whom, unless a run was alone in it.
            alone = len(flying) == 1
            self._restart()
            for job, config in flying.items():
                if job.done() and not job.cancelled() and not _died(job):
                    finish(config, _failure(job))
                    continue
                deaths[config.run_id] += alone
                if deaths[config.run_id] < ATTEMPTS:
                    suspects.append(config)
                else:
                    finish(config, f"its worker died {ATTEMPTS} times (out of memory?)")
            flying.clear()
        return outcome

    def _restart(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._start()


def _died(job: Future) -> bool:
    return not job.cancelled() and isinstance(job.exception(), BrokenProcessPool)


def _failure(job: Future) -> str | None:
    error = job.exception()
    if isinstance(error, DiskError):
        raise error
    return job.result() if error is None else f"{type(error).__name__}: {error}"
