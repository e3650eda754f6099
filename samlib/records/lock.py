"""A file that a process locks while it works, with a note about the process; a crash frees it."""

import time
from pathlib import Path
from typing import BinaryIO

from filelock import lock_descriptor

_NOTE = 1  # where the note begins: on Windows nobody else can read the byte that is locked
# `held` looks whether a file is locked by locking it for an instant. Three attempts in a tenth of a
# second outlast that instant; a lock that is still there belongs to a process at work.
_ATTEMPTS, _PAUSE = 3, 0.05  # the pause in seconds, between two attempts


def hold(handle: BinaryIO) -> bool:
    """Lock an open file until it is closed; False if another process holds it.

    Raises:
        OSError: its file system has no locks.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE)
        if lock_descriptor(handle.fileno(), blocking=False):
            return True
    return False


def write_note(handle: BinaryIO, note: bytes) -> None:
    """Replace the note in place, by a note of equal length or one that ends with a line break."""
    handle.seek(_NOTE)
    handle.write(note)


def read_note(handle: BinaryIO) -> bytes:
    """The note in an open file, locked or not."""
    handle.seek(_NOTE)
    return handle.read()


def held(path: Path) -> bytes | None:
    """The note in a file that a process holds; None if it is unlocked or missing."""
    for mode in ("rb+", "rb"):  # NFS locks only what may be written
        try:
            with open(path, mode) as handle:
                free = lock_descriptor(handle.fileno(), blocking=False)
                return None if free else read_note(handle)
        except OSError:
            continue
    return None
