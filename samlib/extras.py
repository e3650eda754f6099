"""What torch alone does not bring: which extra has which package, and the command to install it."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from samlib.errors import ConfigError
from samlib.files import checkout

# By the names they are imported by; every other package is in the extra `study`.
EXTRAS = {
    "art": "robustness",
    "ray": "cluster",
    "matplotlib": "book",
    "seaborn": "book",
    "papermill": "book",
    "ipykernel": "book",
    "jupyter_book": "book",
    "latex2mathml": "book",
}


class ExtraMissing(ConfigError, ImportError):
    """A package of one of samlib's extras is not installed: the message has the command."""


def install(package: str) -> str:
    """The command that installs the extra with a package, to be pasted from anywhere.

    >>> install("pandas").endswith("[study]'")
    True
    """
    return f"pip install {_samlib()}[{EXTRAS.get(package, 'study')}]'"


def _samlib() -> str:
    root = checkout()
    return "'samlib" if root is None else f"-e '{root}"


def require(what: str, *packages: str) -> None:
    """Check that some packages of one extra are installed.

    Args:
        what: needs them, in the plural.
        packages: by the names they are imported by.

    Raises:
        ExtraMissing: one is not.
    """
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        raise ExtraMissing(f"{what} need {' and '.join(absent)}: {install(absent[0])}")


@contextmanager
def needed(what: str) -> Iterator[None]:
    """Turn a package that is not installed, imported inside the block, into one line.

    Raises:
        ExtraMissing: `what` needs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "samlib"):
            raise
        raise ExtraMissing(f"{what} needs {package}: {install(package)}") from error
