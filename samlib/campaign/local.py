"""Jobs in worker processes on this machine, one thread each.

A worker that dies (out of memory, killed) costs its job an attempt, nothing more.
"""

import multiprocessing
import os
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from samlib.campaign.jobs import ATTEMPTS, Job, Outcome, gpu_share, run_job, written
from samlib.files import DiskError
from samlib.records import journal
from samlib.records.results_folder import OtherCode, ResultsFolder, origin

_KILLED = -9  # exit code of a process that SIGKILL ended


def cores() -> int:
    """Cores that this process may use: of a cluster's node often a share; Linux alone tells it."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def default_workers(device: str, jobs: Iterable[Job]) -> int:
    """Default number of worker processes: one per core, or as many as share a GPU well.

    Runs share a device as processes, not as one network with batched weights. A run therefore
    computes the same numbers as alone, on the CPU bit for bit, has BatchNorm statistics of its
    own, and diverges, fails or resumes by itself.

    Args:
        device: cpu or cuda.
        jobs: jobs to be done; on a GPU the largest share among them decides.
    """
    if device == "cpu":
        return cores()
    return min(cores(), int(1 / max(map(gpu_share, jobs), default=1.0)))


def _run_job(begun_by: dict, job: Job, *place) -> str | None:
    """`run_job`, in a worker that may have been started long after the campaign."""
    if origin() != begun_by:
        raise OtherCode(
            "the code or a package was changed while the campaign ran, and a worker started since "
            "would mix its numbers with those of the old one: start the command again"
        )
    return run_job(job, *place)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # A checkpoint found damaged is told in the campaign's own summary, not by a worker.
    warnings.simplefilter("default")

    def leave_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


class _Worker:
    """One process, started for its first job and again after a death."""

    def __init__(self):
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, mp_context=spawn, initializer=_start_worker)

    def submit(self, *call) -> Future:
        """Hand the worker a call; a worker that died while idle is started again."""
        if any(process.exitcode is not None for process in self._processes()):
            self.restart()
        try:
            return self._pool.submit(*call)
        except BrokenProcessPool:
            self.restart()
            return self._pool.submit(*call)

    def restart(self) -> str:
        """Start the worker again; returns the known cause of its death."""
        processes = self._processes()
        self._pool.shutdown()
        self._pool = self._start()
        code = next((process.exitcode for process in processes), None)
        if code == _KILLED:
            return " (killed: out of memory?)"
        return f" (exit code {code})" if code else ""

    def end(self, at_once: bool) -> None:
        """End the worker after its current job, or at once."""
        for process in self._processes() if at_once else ():
            process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def _processes(self) -> list[multiprocessing.Process]:
        return list((self._pool._processes or {}).values())


class LocalExecutor:
    """Worker processes on this machine, kept from one call of `run` to the next.

    Each worker is a pool of its own, so that a death is blamed on the one job of that worker. A
    pool has files open: it is made for a job that no idle worker can take.

    Args:
        folder: results folder of records and weights.
        workers: processes at once, one thread each.
        device, data_dir: as in `one_run.train`.
    """

    def __init__(
        self,
        folder: ResultsFolder,
        *,
        workers: int = 1,
        device: str = "cpu",
        data_dir: Path | None = None,
    ):
        self.workers = workers
        self._folder = folder
        self._place = (folder, device, data_dir)
        self._origin = origin()
        self._idle: list[_Worker] = []
        self._busy: dict[Future, tuple[Job, _Worker]] = {}
        self._before: dict[str, int | None] = {}  # when the records of the jobs were written

    def __enter__(self) -> "LocalExecutor":
        return self

    def __exit__(self, kind, *exception) -> None:
        """End the workers, in mid-run at once: finished runs are on disk already."""
        for worker in (*self._idle, *(worker for _, worker in self._busy.values())):
            worker.end(at_once=kind is not None)

    def run(
        self,
        jobs: Iterable[Job | None],
        *,
        may_start: Callable[[Job], bool] = lambda job: True,
        on_done: Callable[[Job, str | None], None] = lambda job, failure: None,
    ) -> Outcome:
        """Run jobs; their records do not depend on the number of workers.

        Args:
            jobs: jobs, in the order of the work; None is no job until another has ended.
            may_start: called before each start; False skips the job.
            on_done: called after every job, with the reason if the job failed.

        Raises:
            DiskError: a record cannot be written; earlier records are kept.
            OtherCode: a new worker would run changed code.
        """
        outcome, deaths = Outcome(), Counter()
        again: list[Job] = []  # whose worker died
        source = iter(jobs)
        while True:
            while len(self._busy) < self.workers:
                job = again.pop() if again else next(source, None)
                if job is None:
                    break
                if may_start(job):
                    self._start(job)
                else:
                    outcome.skipped.append(job.name)
            if not self._busy:
                return outcome
            for future in wait(self._busy, return_when=FIRST_COMPLETED)[0]:
                job, worker = self._busy.pop(future)
                self._idle.append(worker)
                if isinstance(future.exception(), BrokenProcessPool):
                    deaths[job.name] += 1
                    cause, failure = worker.restart(), None
                    journal.add(self._folder, job.name, f"its worker died{cause}")
                    # Else it died after its work.
                    if written(job, self._folder) in (None, self._before[job.name]):
                        if deaths[job.name] < ATTEMPTS:
                            again.append(job)
                            continue
                        failure = f"its worker died {ATTEMPTS} times{cause}"
                else:
                    failure = _failure(future)
                if failure is None:
                    outcome.done.append(job.name)
                else:
                    outcome.failed[job.name] = failure
                on_done(job, failure)

    def _start(self, job: Job) -> None:
        worker = self._idle.pop() if self._idle else _Worker()
        self._before[job.name] = written(job, self._folder)
        self._busy[worker.submit(_run_job, self._origin, job, *self._place)] = job, worker


def _failure(future: Future) -> str | None:
    error = future.exception()
    if isinstance(error, DiskError | OtherCode):
        raise error
    return future.result() if error is None else f"{type(error).__name__}: {error}"
