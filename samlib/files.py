"""Files that are either whole or not there."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import SamlibError


class DiskError(SamlibError):
    """The results folder cannot be written: full, read-only or gone."""


TEMPORARY = ".*.tmp"  # names of files on their way; a killed process leaves one behind


@contextlib.contextmanager
def as_disk_error(path: Path) -> Iterator[None]:
    """Turn what the system says about a path into one line that says what to do."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full: free some space",
            errno.EDQUOT: "the disk quota is used up: free some space",
            errno.EROFS: "the file system is read-only: choose another folder with --results",
            errno.EACCES: "no permission to write there: choose another folder with --results",
        }.get(error.errno, str(error))
        raise DiskError(
            f"cannot write {path}: {advice}; finished runs are kept, and the same command continues"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in its folder, flush it to disk, then rename it.

    Raises:
        DiskError: the disk is full or the folder not writable; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with as_disk_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
            _flush_folder(path.parent)
    finally:  # also after Ctrl-C
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Have a rename survive a power cut, on file systems that flush folders."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # CIFS and some FUSE do not
            raise
    finally:
        os.close(descriptor)
