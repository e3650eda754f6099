"""Jobs as tasks of a Ray cluster, which may be many machines.

A node that shares the campaign's folder works there like a local worker: a run whose node died
resumes elsewhere from its checkpoint. A node without the folder works in a folder of its own, and
record, weights and log return through Ray. The process that holds the folder writes every record,
so that no delay of a network file system stands between a record and its reader.

Every node needs this package at the same versions, and the data there or in the shared folder. No
other module imports Ray.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from samlib.campaign.jobs import ATTEMPTS, Job, Outcome, gpu_share, run_job
from samlib.errors import ConfigError, SamlibError
from samlib.extras import needed
from samlib.files import DiskError, write_atomically
from samlib.records import journal
from samlib.records.results_folder import ResultsFolder, origin

_LOOK = 5.0  # seconds between two looks at which nodes there are
_PATIENCE = 60.0  # seconds without any node before the campaign is given up


class ClusterError(SamlibError):
    """The cluster cannot be reached, or is gone."""


def resources(job: Job, device: str) -> dict[str, float]:
    """Ray resources of a job: one core, for its one thread, and its share of a GPU."""
    asked = {"num_cpus": 1.0}
    if device != "cpu":
        asked["num_gpus"] = gpu_share(job)
    return asked


@dataclass(frozen=True)
class Site:
    """Campaign data that a task needs.

    Attributes:
        folder: path on the machine that holds the folder.
        token: content of the folder's `logs/shared`; None: nodes do not look for the folder.
        name: name of the campaign in a node's folder for temporary files.
        origin: code and versions required of a node.
        device, data_dir: as in `local.LocalExecutor`.
    """

    folder: ResultsFolder
    token: str | None
    name: str
    origin: dict
    device: str
    data_dir: Path | None

    @property
    def shared(self) -> bool:
        """Whether this node shares the campaign's folder."""
        try:
            return self.token is not None and _token(self.folder).read_text() == self.token
        except (OSError, ValueError):
            return False


@dataclass
class Answer:
    """Result of a task: reason of a failure, whether the disk failed, and the files."""

    failure: str | None = None
    disk: bool = False
    files: dict[str, bytes] = field(default_factory=dict)  # by path in the campaign's folder
    log: bytes = b""


def work(job: Job, site: Site, inputs: dict[str, bytes]) -> Answer:
    """Train or measure one run on the calling node.

    Args:
        job: the run, or the measurement.
        site: campaign of the job.
        inputs: files that the job reads, for a node without the campaign's folder.
    """
    if origin() != site.origin:
        return Answer(
            f"{socket.gethostname()} has other code or package versions than the machine that the "
            "campaign was started on: install the same there"
        )
    with contextlib.ExitStack() as stack:
        folder = site.folder if site.shared else stack.enter_context(_apart(site, job))
        try:
            if folder is not site.folder:
                for name, content in inputs.items():
                    write_atomically(folder.path / name, content)
            failure = run_job(job, folder, site.device, site.data_dir)
        except DiskError as error:
            return Answer(f"{socket.gethostname()}: {error}", disk=True)
        answer = Answer(failure)
        if failure is None:
            made = [] if folder is site.folder else [folder.weights(run.run_id) for run in job.runs]
            made.append(job.record(folder))  # last: where it is, the weights are, too
            names = {str(path.relative_to(folder.path)): path for path in made}
            answer.files = {
                name: path.read_bytes()
                for name, path in names.items()
                if name not in inputs and path.exists()
            }
        if folder is not site.folder:
            with contextlib.suppress(OSError):
                answer.log = folder.log(job.name).read_bytes()
        return answer


@contextmanager
def _apart(site: Site, job: Job) -> Iterator[ResultsFolder]:
    """A folder on this node for one job, with the checkpoint of a killed worker, if any."""
    place = Path(tempfile.gettempdir()) / f"samlib-{os.getuid()}" / site.name / job.name
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = ResultsFolder(place)
    for left in place.iterdir():
        if left != folder.checkpoint("any").parent:
            shutil.rmtree(left, ignore_errors=True)
    yield folder
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):  # another job is there
        place.parent.rmdir()


def _token(folder: ResultsFolder) -> Path:
    return folder.logs / "shared"


def import_ray():
    """Ray, without its usage statistics.

    Raises:
        ExtraMissing: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What Ray will do by default one day: leave CUDA_VISIBLE_DEVICES alone where no GPU is asked.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with needed("--executor ray"):
        import ray
    return ray


def connect(workers: int | None) -> None:
    """Join the cluster that RAY_ADDRESS or `ray start` on this machine names, or start one here.

    Args:
        workers: CPUs of a cluster that is started here; None is one per core.

    Raises:
        ExtraMissing: Ray is not installed.
        ClusterError: the named cluster cannot be reached.
    """
    ray = import_ray()
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = _address()
    if address == "local":
        quiet |= {"num_cpus": workers or os.cpu_count(), "include_dashboard": False}
    try:
        _check(address)
        with _sigterm_kept():
            ray.init(address=address, **quiet)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"cannot join the Ray cluster at {address}: {_first_line(error)}; start it, have it "
            "forgotten (unset RAY_ADDRESS, `ray stop`), or use --executor local"
        ) from error


def _address() -> str:
    """The address of the cluster to join, found where Ray looks for it; "local" if there is none.

    Ray's own search would also find what another process has started for itself.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    started = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        return started.read_text().strip() or "local"
    except OSError:
        return "local"


def _check(address: str) -> None:
    """Raise an error of the connection at once; Ray itself would try for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LOOK).close()


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep the command line's SIGTERM handler, which Ray replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


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
        self._without_node: float | None = None
        room = self._room()[self._kind]
        self.workers = max(1, min(int(room), workers or int(room)))
        if not room:
            self.__exit__()
            raise ClusterError(f"the Ray cluster has no {self._kind}: no run could start")
        if shared:
            with contextlib.suppress(OSError):  # then results come back through Ray
                _token(folder).parent.mkdir(parents=True, exist_ok=True)
                _token(folder).write_text(self._site.token)

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *exception) -> None:
        """End the tasks at once; finished runs are on disk already."""
        with contextlib.suppress(OSError):
            _token(self._folder).unlink(missing_ok=True)
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
        jobs: Iterable[Job],
        *,
        may_start: Callable[[Job], bool] = lambda job: True,
        on_done: Callable[[Job, str | None], None] = lambda job, failure: None,
    ) -> Outcome:
        """Run jobs; records do not depend on the node. See `local.LocalExecutor.run`.

        Raises:
            DiskError: a record cannot be written, here or on a node.
            ClusterError: the cluster has had no node for a minute.
        """
        outcome, deaths = Outcome(), Counter()
        waiting: deque[Job] = deque(jobs)
        while waiting or self._flying:
            room = self._room()
            self._check_for_nodes(room)
            while waiting and self._fits(waiting[0], room):
                job = waiting.popleft()
                if may_start(job):
                    self._start(job)
                else:
                    outcome.skipped.append(job.name)
            if not self._flying:
                continue
            self.workers = max(self.workers, len(self._flying))
            for flown in self._ray.wait(list(self._flying), timeout=_LOOK)[0]:
                job = self._flying.pop(flown)
                answer = self._answer(flown)
                if isinstance(answer, str):
                    deaths[job.name] += 1
                    journal.add(self._folder, job.name, f"its worker or node died: {answer}")
                    if deaths[job.name] < ATTEMPTS:
                        waiting.appendleft(job)
                        continue
                    answer = Answer(f"its worker or node died {ATTEMPTS} times: {answer}")
                self._take(job, answer)
                if answer.failure is None:
                    outcome.done.append(job.name)
                else:
                    outcome.failed[job.name] = answer.failure
                on_done(job, answer.failure)
        return outcome

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
        task = self._task.options(name=job.name, **resources(job, self._site.device))
        self._flying[task.remote(job, self._site, inputs)] = job

    def _answer(self, flown) -> Answer | str:
        """Result of a task, or the cause of its worker's or node's death."""
        try:
            return self._ray.get(flown)
        except self._ray.exceptions.RayTaskError as error:  # not in the run: `run_job` returns
            cause = error.cause if isinstance(error.cause, Exception) else error
            return Answer(f"{type(cause).__name__}: {_first_line(cause)}")
        except self._ray.exceptions.RayError as error:
            return f"{type(error).__name__}: {_first_line(error)}"

    def _take(self, job: Job, answer: Answer) -> None:
        if answer.log:
            with contextlib.suppress(OSError):
                path = self._folder.log(job.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "ab") as log:
                    log.write(answer.log)
        if answer.disk:
            raise DiskError(answer.failure)
        for name, content in answer.files.items():
            write_atomically(self._folder.path / name, content)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]


@contextmanager
def simulated(nodes: int) -> Iterator:
    """A cluster of `nodes` nodes with one CPU each on this machine, beside an idle head.

    Its processes are those of a real cluster; `RAY_ADDRESS` names the cluster inside the block.
    """
    import_ray()
    from ray.cluster_utils import Cluster

    # A folder of its own, lest a cluster that runs on this machine be taken for it; not the
    # system's, whose path may be too long for a socket's.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, _environment(RAY_TMPDIR=folder):
        with _environment(RAY_ADDRESS=None), _sigterm_kept():
            head = {"num_cpus": 0, "include_dashboard": False}
            cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            with _sigterm_kept():
                for _ in range(nodes):
                    cluster.add_node(wait=False, num_cpus=1)
                cluster.wait_for_nodes()
            with _environment(RAY_ADDRESS=cluster.address):
                yield cluster
        finally:
            cluster.shutdown()


@contextmanager
def _environment(**variables: str | None) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
