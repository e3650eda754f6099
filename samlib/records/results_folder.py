"""A results folder: its paths, its lock, and the replacement of old results by new ones."""

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from samlib.errors import SamlibError
from samlib.files import TEMPORARY, DiskError, as_disk_error, write_atomically
from samlib.provenance import MEASURING, packages, source_digest
from samlib.records import lock


class FolderInUse(SamlibError):
    """Another process writes to the folder; the message names it."""


class OtherCode(SamlibError):
    """Results of other code would be mixed with ours; the message says what to do."""


@dataclass(frozen=True)
class ResultsFolder:
    """One profile's results: records, and beside them files kept out of git."""

    path: Path

    @property
    def runs(self) -> Path:
        """Run records, one JSON file each."""
        return self.path / "runs"

    def measures(self, measure: str) -> Path:
        """Records of one measure, one JSON file per run."""
        return self.path / "measures" / measure

    def weights(self, run_id: str) -> Path:
        """Final weights of a run."""
        return self.path / "weights" / f"{run_id}.pt"

    def checkpoint(self, run_id: str) -> Path:
        """Newest checkpoint of an unfinished run."""
        return self.path / "checkpoints" / f"{run_id}.pt"

    @property
    def logs(self) -> Path:
        """Logs of jobs; see `journal`."""
        return self.path / "logs"

    def log(self, run_id: str) -> Path:
        """Log of a run."""
        return self.logs / f"{run_id}.log"

    @property
    def holder(self) -> str | None:
        """The process that holds the folder now, or None."""
        note = lock.held(self.path / ".lock")
        return None if note is None else _holder(note)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; a crash frees it.

        Raises:
            FolderInUse: another process holds it.
            DiskError: the folder cannot be made, or its file system has no locks.
        """
        path = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk refuses is not tried again when the file is closed.
            handle = open(path, "rb+", buffering=0, opener=_opened_or_made)  # noqa: SIM115
        except OSError as error:
            raise DiskError(f"cannot write to {self.path}: {error.strerror}") from error
        with handle:
            if not _hold(handle, path):
                raise FolderInUse(
                    f"{self.path} is being written by {_holder(lock.read_note(handle))}: "
                    "wait for it or stop it"
                )
            handle.truncate(0)
            with contextlib.suppress(OSError):  # on a full disk the lock holds without a name
                lock.write_note(handle, f"process {os.getpid()}".encode())
            self._sweep()
            try:
                yield
            finally:  # a worker may have been killed in the middle of a checkpoint
                self._sweep()

    def _sweep(self) -> None:
        """Remove files that a killed process left half written."""
        for place in (".", "runs", "weights", "checkpoints", "measures/*"):
            for left in self.path.glob(f"{place}/{TEMPORARY}"):
                with contextlib.suppress(OSError):
                    left.unlink()


def _opened_or_made(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _hold(handle: BinaryIO, path: Path) -> bool:
    try:
        # New results put in place meanwhile took their lock along; that at `path` is not ours.
        return lock.hold(handle) and os.path.samestat(os.fstat(handle.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DiskError(
            f"cannot lock {path.parent}: {error.strerror}; choose a folder on a file system "
            "with locks with --results (Lustre has them where it is mounted with -o flock)"
        ) from error


def _holder(note: bytes) -> str:
    return note.decode(errors="replace").strip("\0 ") or "another process"


def committed(results: Path, profile: str) -> ResultsFolder:
    """The folder of a profile's results: `<results>/<profile>`."""
    _recover(results, profile)
    return ResultsFolder(results / profile)


def in_progress(results: Path, profile: str) -> ResultsFolder:
    """The folder of a profile's new results until they are complete; see `check_origin`."""
    _recover(results, profile)
    return both(results, profile)[1]


def both(results: Path, profile: str) -> tuple[ResultsFolder, ResultsFolder]:
    """Both folders, `committed` and `in_progress`, without recovery: for read-only callers."""
    return ResultsFolder(results / profile), ResultsFolder(results / f".campaign-{profile}")


def origin() -> dict:
    """Code and versions of this process that numbers depend on."""
    return {
        "source": source_digest(),
        "measuring": source_digest(MEASURING),
        "packages": packages(),
        "python": platform.python_version(),
    }


def check_origin(folder: ResultsFolder) -> None:
    """Note the code that begins a results folder, or check that the same code resumes it.

    The caller holds the folder's lock.

    Raises:
        OtherCode: other code began the folder, and its numbers must not be mixed with ours.
        DiskError: the note cannot be written.
    """
    note = folder.path / "campaign.json"
    now = origin()
    if not note.exists():
        write_atomically(note, json.dumps(now).encode())
        return
    try:
        begun = json.loads(note.read_bytes())
    except ValueError:
        begun = None
    if begun != now:
        raise OtherCode(
            f"{folder.path} was begun by other code or package versions: remove that folder "
            "to start anew, or go back to the code that began it to continue"
        )


def replace_committed(new: ResultsFolder, results: Path, profile: str) -> ResultsFolder:
    """Replace a profile's committed results by new, complete ones; returns the committed folder.

    Raises:
        DiskError: the folders cannot be renamed; the new results stay complete where they are.
    """
    _recover(results, profile)
    target, old = results / profile, _old(results, profile)
    _remove(old)
    with as_disk_error(target):
        if target.exists():
            target.rename(old)
        new.path.rename(target)
    for leftover in ("checkpoints", "logs", "set_aside"):
        shutil.rmtree(target / leftover, ignore_errors=True)
    with contextlib.suppress(OSError):
        (target / "campaign.json").unlink(missing_ok=True)
    _remove(old)
    return ResultsFolder(target)


def _remove(path: Path) -> None:
    """Remove a folder; of a link to a folder, such as one on another disk, the link alone."""
    if path.is_symlink():
        with contextlib.suppress(OSError):
            path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _old(results: Path, profile: str) -> Path:
    return results / f".old-{profile}"


def _recover(results: Path, profile: str) -> None:
    """Bring the old results back if a crash came between the two renames of `replace_committed`."""
    old, target = _old(results, profile), results / profile
    # Of a folder that is closed to us, whoever reads it says so.
    if os.path.exists(old) and not os.path.exists(target):
        if both(results, profile)[1].holder is not None:
            return  # no crash: a process is between the two now
        with as_disk_error(target), contextlib.suppress(FileNotFoundError):  # another did it
            old.rename(target)
