"""Files that are either whole or not there, and the folders of the project."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from samlib.errors import ConfigError, SamlibError


class DiskError(SamlibError):
    """A file or its folder cannot be written: full, read-only or gone."""


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
            errno.EROFS: "the file system is read-only: choose another folder",
            errno.EACCES: "no permission to write there: choose another folder",
        }.get(error.errno or 0, str(error))
        raise DiskError(f"cannot write {path}: {advice}") from error


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
    """Have a rename survive a power cut, on systems that flush folders."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens none
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # CIFS and some FUSE do not
            raise
    finally:
        os.close(descriptor)


# What only a checkout of this project holds: others have notebooks and a book, too.
_SIGNS = ("samlib/files.py", "notebooks", "book/_toc.yml")


def checkout() -> Path | None:
    """The folder that holds `notebooks` and `book`: above the current one, or with this file in it.

    So a notebook finds the results whether papermill ran it from the root or from its folder. None
    where samlib was installed without -e and is used elsewhere.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        if all(os.path.exists(folder / sign) for sign in _SIGNS):
            return folder
    return None


def project_root() -> Path:
    """Where default paths are relative to: the checkout, or else the current folder."""
    return checkout() or Path.cwd()


def resolve(path: str | Path) -> Path:
    """An absolute path as it is; a relative one from the project's root.

    Raises:
        ConfigError: no path can be so; see `usable`.
    """
    return usable(Path(path) if Path(path).is_absolute() else project_root() / path)


def typed(text: str) -> Path:
    """The absolute path of what was typed on the command line: a relative one from where one is.

    Raises:
        ConfigError: nothing was typed, or no path can be so; see `usable`.
    """
    if not text:
        raise ConfigError("'' is not a usable path: it is empty")
    return usable(os.path.abspath(os.path.expanduser(text)))


def usable(path: str | Path) -> Path:
    """The path, of which the system can tell whether something is there.

    Raises:
        ConfigError: it cannot: a zero byte in it, a name too long, a folder that is closed to us.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # whoever reads or writes there will say so
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)!r} is not a usable path: {reason}") from None
    return Path(path)
