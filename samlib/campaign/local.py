"""Jobs in worker processes on this machine, one thread each.

A worker that dies (out of memory, killed) costs its job an attempt, nothing more.
"""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from samlib.campaign.jobs import ATTEMPTS, Job, Outcome, gpu_share, one_job
from samlib.files import DiskError
from samlib.records import journal
from samlib.records.results_folder import CampaignError, ResultsFolder, origin


def default_workers(device: str, jobs: Iterable[Job]) -> int:
    """Worker processes where none were asked for: one per core, or as many as share a GPU well.

    Runs share a device as processes, not as one network with batched weights, so that a run
    computes what it would alone, on the CPU bit for bit: it has BatchNorm statistics of its own,
    and diverges, fails or is resumed by itself.

    Args:
        device: cpu or cuda.
        jobs: what is to be done; on a GPU the largest share among them decides.
    """
    cores = os.cpu_count() or 1
    if device == "cpu":
        return cores
    return min(cores, int(1 / max(map(gpu_share, jobs), default=1.0)))


def _one_job(begun_by: dict, job: Job, *place) -> str | None:
    """`one_job`, in a worker that may have been started long after the campaign was."""
    if origin() != begun_by:
        raise CampaignError(
            "the code or a package was changed while the campaign ran, and a worker started since "
            "would mix its numbers with those of the old one: start the command again"
        )
    return one_job(job, *place)


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
        campaign: ResultsFolder,
        *,
        workers: int = 1,
        device: str = "cpu",
        data_dir: Path | None = None,
        keep_weights: bool = True,
    ):
        self.workers = workers
        self._campaign = campaign
        self._place = (campaign, device, data_dir, keep_weights)
        self._origin = origin()
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

    def __exit__(self, kind, *exception) -> None:
        """End the workers; in mid-run at once, as what they had finished is on disk already."""
        if kind is not None:
            for process in self._processes():
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(
        self,
        jobs: Iterable[Job],
        *,
        may_start: Callable[[Job], bool] = lambda job: True,
        on_done: Callable[[Job, str | None], None] = lambda job, failure: None,
    ) -> Outcome:
        """Run jobs; their records do not depend on the number of workers.

        Args:
            jobs: what to train or measure, in this order.
            may_start: asked before each start; a job refused is skipped.
            on_done: told of every job that ended, with the reason if it failed.

        Raises:
            DiskError: a record cannot be written; what was written before is kept.
            CampaignError: the code was changed meanwhile, and a new worker has the new one.
        """
        outcome, deaths = Outcome(), Counter()
        waiting: deque[Job] = deque(jobs)
        suspects: deque[Job] = deque()  # in flight when a worker died: each runs alone
        suspected = False  # what is in flight is one of them
        flying: dict[Future, Job] = {}

        def finish(job: Job, failure: str | None) -> None:
            if failure is None:
                outcome.done.append(job.run_id)
            else:
                outcome.failed[job.run_id] = failure
            on_done(job, failure)

        def start(job: Job) -> None:
            if not may_start(job):
                outcome.skipped.append(job.run_id)
                return
            try:
                future = self._submit(job)
            except BrokenProcessPool:
                if flying:  # told below, with how they ended
                    suspects.append(job)
                    return
                self._restart()  # a worker died while it had nothing to do
                future = self._submit(job)
            flying[future] = job

        while waiting or suspects or flying:
            if not flying:
                suspected = bool(suspects)
                if suspected:
                    start(suspects.popleft())
            while waiting and not suspects and not suspected and len(flying) < self.workers:
                start(waiting.popleft())
            if not flying:
                continue
            ended, _ = wait(flying, return_when=FIRST_COMPLETED)
            if not any(_died(future) for future in ended):
                for future in ended:
                    finish(flying.pop(future), _failure(future))
                continue
            # The pool is broken and cannot say by whom, unless a run's worker was alone in it: an
            # idle one may die, too.
            alone = len(flying) == 1 and len(self._processes()) <= 1
            cause = self._restart()
            for future, job in flying.items():
                if future.done() and not future.cancelled() and not _died(future):
                    finish(job, _failure(future))
                    continue
                deaths[job.run_id] += alone
                whose = "its worker died" if alone else "its worker, or one beside it, died"
                journal.add(self._campaign, job.run_id, whose + cause)
                if deaths[job.run_id] < ATTEMPTS:
                    suspects.append(job)
                else:
                    finish(job, f"its worker died {ATTEMPTS} times{cause}")
            flying.clear()
        return outcome

    def _submit(self, job: Job) -> Future:
        return self._pool.submit(_one_job, self._origin, job, *self._place)

    def _processes(self) -> list[multiprocessing.Process]:
        return list((self._pool._processes or {}).values())

    def _restart(self) -> str:
        """Start new workers; returns what is known of how one of the old ones died."""
        processes = self._processes()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._start()
        codes = {process.exitcode for process in processes}
        if -signal.SIGKILL in codes:
            return " (killed: out of memory?)"
        codes -= {None, 0, -signal.SIGTERM}  # the pool ends the others so
        return f" (exit code {codes.pop()})" if codes else ""


def _died(future: Future) -> bool:
    return not future.cancelled() and isinstance(future.exception(), BrokenProcessPool)


def _failure(future: Future) -> str | None:
    error = future.exception()
    if isinstance(error, DiskError | CampaignError):
        raise error
    return future.result() if error is None else f"{type(error).__name__}: {error}"
