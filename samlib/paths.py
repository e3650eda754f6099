"""Where the project's own folders are, from wherever one starts."""

import os
from pathlib import Path

from .errors import ConfigError

# What only a checkout of this project holds: others have notebooks and a book, too.
_SIGNS = ("samlib/paths.py", "notebooks", "book/_toc.yml")


def project_root() -> Path:
    """The folder that holds `notebooks` and `book`: above the current one, or the checkout's.

    So a notebook finds the results whether papermill ran it from the root or from its folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if all(os.path.exists(folder / sign) for sign in _SIGNS):
            return folder
    return Path(__file__).resolve().parent.parent


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
