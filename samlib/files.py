"""Files that are either whole or not there."""

import contextlib
import errno
import os
from pathlib import Path

from .errors import SamlibError


class DiskError(SamlibError):
    """The results folder cannot be written: full, read-only or gone."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in its folder, flush it to disk, then rename it.

    Raises:
        DiskError: the disk is full or the folder not writable; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
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
    finally:  # also after Ctrl-C
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Have a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
