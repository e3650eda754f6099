"""Where the project's own folders are, from wherever one starts."""

import os
from pathlib import Path

from .errors import ConfigError


def project_root() -> Path:
    """The folder that holds `notebooks` and `book`: above the current one, or the checkout's.

    So a notebook finds the results whether papermill ran it from the root or from its folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").exists() and (folder / "notebooks").is_dir():
            return folder
    return Path(__file__).resolve().parent.parent


def resolve(path: str | Path) -> Path:
    """An absolute path as it is; a relative one from the project's root.

    Raises:
        ConfigError: no path can be so; see `usable`.
    """
    return usable(Path(path) if Path(path).is_absolute() else project_root() / path)


def usable(path: str | Path) -> Path:
    """The path, of which the system can tell whether something is there.

    Raises:
        ConfigError: it cannot: a zero byte in it, a name too long.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # whoever reads or writes there will say so
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(path)!r} is not a usable path: {reason}") from None
    return Path(path)
