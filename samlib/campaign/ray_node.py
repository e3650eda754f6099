"""What a node of a Ray cluster does for a campaign: one job, in the campaign's folder or its own.

A node that shares the campaign's folder works there like a local worker: a run whose node died
resumes elsewhere from its checkpoint. A node without the folder works in a folder of its own, and
record, weights and log return through Ray.
"""

import contextlib
import getpass
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from samlib.campaign.jobs import Job, run_job
from samlib.errors import SamlibError
from samlib.files import DiskError, write_atomically
from samlib.records.results_folder import OtherCode, ResultsFolder, origin


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
            return self.token is not None and token_file(self.folder).read_text() == self.token
        except (OSError, ValueError):
            return False


@dataclass
class Answer:
    """Result of a task: reason of a failure, the error that ends all, and the files."""

    failure: str | None = None
    ends: type[SamlibError] | None = None  # the campaign: other jobs would fail, too
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
            "campaign was started on: install the same there and start the command again",
            ends=OtherCode,
        )
    with contextlib.ExitStack() as stack:
        folder = site.folder if site.shared else stack.enter_context(_apart(site, job))
        try:
            if folder is not site.folder:
                for name, content in inputs.items():
                    write_atomically(folder.path / name, content)
            failure = run_job(job, folder, site.device, site.data_dir)
        except DiskError as error:
            return Answer(f"{socket.gethostname()}: {error}", ends=DiskError)
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
    user = getattr(os, "getuid", getpass.getuser)()  # Windows has no numbers of users
    place = Path(tempfile.gettempdir()) / f"samlib-{user}" / site.name / job.name
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = ResultsFolder(place)
    for left in place.iterdir():
        if left != folder.checkpoint("any").parent:
            shutil.rmtree(left, ignore_errors=True)
    yield folder
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):  # another job is there
        place.parent.rmdir()


def token_file(folder: ResultsFolder) -> Path:
    """Where the campaign notes its token, by which a node knows that it shares the folder."""
    return folder.logs / "shared"
