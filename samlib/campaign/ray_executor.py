"""Jobs as tasks of a Ray cluster, which may be many machines; see `ray_node` for what a task does.

The process that holds the folder writes every record, so that no delay of a network file system
stands between a record and its reader. Every node needs this package at the same versions, and the
data there or in the shared folder.
"""

import contextlib
import hashlib
import socket
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path

from samlib.campaign.jobs import ATTEMPTS, Job, Outcome, gpu_share, written
from samlib.campaign.ray_cluster import ClusterError, connect, import_ray
from samlib.campaign.ray_node import Answer, Site, token_file, work
from samlib.errors import ConfigError, first_line
from samlib.files import write_atomically
from samlib.records import journal
from samlib.records.results_folder import ResultsFolder, origin

_LOOK = 5.0  # seconds between two looks at which nodes there are
_PATIENCE = 60.0  # seconds without any node before the campaign is given up


def resources(job: Job, device: str) -> dict[str, float]:
    """Ray resources of a job: one core, for its one thread, and its share of a GPU."""
    asked = {"num_cpus": 1.0}
    if device != "cpu":
        asked["num_gpus"] = gpu_share(job)
    return asked


class RayExecutor:
    """Tasks of a Ray cluster, with the interface of `local.LocalExecutor`.

    Args:
        folder: where records and weights go.
        workers: largest number of jobs at once, and CPUs of a cluster that is started here; None:
            as many as fit.
        device: cpu or cuda; Ray chooses the GPU.
        data_dir: as in `one_run.train`, on every node.
        shared: nodes may look for the campaign's folder.

    Raises:
        ConfigError: a GPU is given by its number.
        ExtraMissing: Ray is not installed.
        ClusterError: no cluster, or none with such a device.
    """

    def __init__(
        self,
        folder: ResultsFolder,
        *,
        workers: int | None = None,
        device: str = "cpu",
        data_dir: Path | None = None,
        shared: bool = True,
    ):
        if device not in ("cpu", "cuda"):
            raise ConfigError(f"Ray chooses the GPU: device must be cpu or cuda, not {device!r}")
        self._ray = import_ray()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            connect(workers)
        self._most, self._kind = workers, "CPU" if device == "cpu" else "GPU"
        # A process that has used a GPU keeps some of its memory: the next run gets a new one.
        self._task = self._ray.remote(max_retries=0, max_calls=int(device != "cpu"))(work)
        path = folder.path.absolute()
        name = hashlib.sha256(f"{socket.gethostname()}:{path}".encode()).hexdigest()[:16]
        self._site = Site(
            ResultsFolder(path),
            uuid.uuid4().hex if shared else None,
            name,
            origin(),
            device,
            data_dir and data_dir.absolute(),
        )
        self._folder = folder
        self._flying: dict = {}  # jobs by the reference to what their task will return
        self._before: dict[str, int | None] = {}  # when the records of the jobs were written
        self._without_node: float | None = None
        room = self._room()[self._kind]
        self.workers = max(1, min(int(room), workers or int(room)))
        if not room:
            self.__exit__()
            raise ClusterError(f"the Ray cluster has no {self._kind}: no run could start")
        if shared:
            with contextlib.suppress(OSError):  # then results come back through Ray
                token_file(folder).parent.mkdir(parents=True, exist_ok=True)
                token_file(folder).write_text(self._site.token)

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *exception) -> None:
        """End the tasks at once; finished runs are on disk already."""
        with contextlib.suppress(OSError):
            token_file(self._folder).unlink(missing_ok=True)
        with contextlib.suppress(self._ray.exceptions.RayError):
            for flying in self._flying:
                self._ray.cancel(flying, force=True)
            if self._flying:  # nobody writes to the folder once its lock is given back
                self._ray.wait(list(self._flying), num_returns=len(self._flying), timeout=_LOOK)
        self._flying.clear()
        if self._ours:
            self._ray.shutdown()

    def run(
        self,
        jobs: Iterable[Job | None],
        *,
        may_start: Callable[[Job], bool] = lambda job: True,
        on_done: Callable[[Job, str | None], None] = lambda job, failure: None,
    ) -> Outcome:
        """Run jobs; records do not depend on the node. See `local.LocalExecutor.run`.

        Raises:
            DiskError: a record cannot be written, here or on a node.
            OtherCode: a node has other code or package versions.
            ClusterError: the cluster has had no node for a minute.
        """
        outcome, deaths = Outcome(), Counter()
        waiting: deque[Job] = deque()  # the next job, after those whose worker died
        source = iter(jobs)
        while True:
            room = self._room()
            self._check_for_nodes(room)
            while True:
                if not waiting and (job := next(source, None)) is not None:
                    waiting.append(job)
                if not waiting or not self._fits(waiting[0], room):
                    break
                job = waiting.popleft()
                if may_start(job):
                    self._start(job)
                else:
                    outcome.skipped.append(job.name)
            if not self._flying:
                return outcome
            self.workers = max(self.workers, len(self._flying))
            for flown in self._ray.wait(list(self._flying), timeout=_LOOK)[0]:
                job = self._flying.pop(flown)
                answer = self._answer(flown)
                if isinstance(answer, str):
                    deaths[job.name] += 1
                    journal.add(self._folder, job.name, f"its worker or node died: {answer}")
                    if written(job, self._folder) not in (None, self._before[job.name]):
                        answer = Answer()  # it died after its work, in a folder that is shared
                    elif deaths[job.name] < ATTEMPTS:
                        waiting.appendleft(job)
                        continue
                    else:
                        answer = Answer(f"its worker or node died {ATTEMPTS} times: {answer}")
                self._take(job, answer)
                if answer.failure is None:
                    outcome.done.append(job.name)
                else:
                    outcome.failed[job.name] = answer.failure
                on_done(job, answer.failure)

    def _room(self) -> Counter:
        return Counter(self._ray.cluster_resources())

    def _check_for_nodes(self, room: Counter) -> None:
        if room[self._kind]:
            self._without_node = None
        elif self._without_node is None:
            self._without_node = time.monotonic()
        elif time.monotonic() - self._without_node > _PATIENCE:
            raise ClusterError(
                "no node of the Ray cluster is left; finished runs are kept, and the same command "
                "continues"
            )

    def _fits(self, job: Job, room: Counter) -> bool:
        """Whether a job would start at once: a job that waits in Ray cannot be refused later."""
        if not self._flying:
            return True
        asked = Counter()
        for each in (*self._flying.values(), job):
            asked.update(resources(each, self._site.device))
        enough = asked["num_cpus"] <= room["CPU"] and asked["num_gpus"] <= room["GPU"]
        return enough and (self._most is None or len(self._flying) < self._most)

    def _start(self, job: Job) -> None:
        inputs = {
            str(path.relative_to(self._folder.path)): path.read_bytes()
            for path in job.reads(self._folder)
            if path.exists()
        }
        self._before[job.name] = written(job, self._folder)
        task = self._task.options(name=job.name, **resources(job, self._site.device))
        self._flying[task.remote(job, self._site, inputs)] = job

    def _answer(self, flown) -> Answer | str:
        """Result of a task, or the cause of its worker's or node's death."""
        try:
            return self._ray.get(flown)
        except self._ray.exceptions.RayTaskError as error:  # not in the run: `run_job` returns
            cause = error.cause if isinstance(error.cause, Exception) else error
            return Answer(f"{type(cause).__name__}: {first_line(cause)}")
        except self._ray.exceptions.RayError as error:
            return f"{type(error).__name__}: {first_line(error)}"

    def _take(self, job: Job, answer: Answer) -> None:
        if answer.log:
            with contextlib.suppress(OSError):
                path = self._folder.log(job.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "ab") as log:
                    log.write(answer.log)
        if answer.ends:
            raise answer.ends(answer.failure)
        for name, content in answer.files.items():
            write_atomically(self._folder.path / name, content)
