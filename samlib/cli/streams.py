"""Where the command line writes: streams that are closed, full, or speak no Unicode."""

import codecs
import contextlib
import errno
import os
import select
import sys
import unicodedata
from collections.abc import Iterable

PIPE_CLOSED = 141  # what a shell says of a program that SIGPIPE ended
_SPELT = {"±": "+-", "−": "-", "–": "-", "×": "x", "…": "...", "‖": "||", "²": "^2"}


def prepare() -> None:
    """Spell characters that a terminal lacks, and keep files off closed streams."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed by the caller: the next file opened would take its number
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error("spelt", _spell)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) in ("strict", "backslashreplace"):
            stream.reconfigure(errors="spelt")


def _spell(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks in ASCII: rho for ρ, - for −, the letter below an accent."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_letters, error.object[error.start : error.end])), error.end


def _letters(char: str) -> str:
    if char in _SPELT:
        return _SPELT[char]
    name = unicodedata.name(char, "")
    if name.startswith("GREEK SMALL LETTER "):
        return name.split()[-1].lower()
    plain = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return plain or "?"


def unread() -> list[int]:
    """The descriptors of streams whose reader is gone, as after `| head`."""
    look = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or no file
            look.register(stream.fileno(), select.POLLOUT)  # macOS tells nothing unasked
    gone = select.POLLERR | select.POLLHUP  # a pipe's on Linux, on macOS
    return [number for number, event in look.poll(0) if event & gone]


def flush() -> None:
    """Write out what is still held back: only then is it known to have arrived.

    Raises:
        BrokenPipeError: its reader is gone.
        OSError: it cannot be written.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up(descriptors: Iterable[int]) -> None:
    """Drop what cannot be written, or Python would try again at its end and complain."""
    for number in descriptors:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def is_full(error: OSError) -> bool:
    """Whether a stream, which has no name, could not be written for lack of space."""
    return error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
