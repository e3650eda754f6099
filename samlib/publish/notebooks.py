"""The strict door to papermill: run a notebook with parameters it really has."""

import contextlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

from samlib.errors import ConfigError, SamlibError, choose
from samlib.files import DiskError, project_root, write_atomically

# Optional packages: what tables and figures are made with, and beside them the book.
TABLES = ("matplotlib", "seaborn")
BOOK = ("papermill", "ipykernel", "jupyter_book", "latex2mathml")


class NotebookError(SamlibError):
    """A notebook did not run to its end; the message says where its failed copy is."""


def names() -> tuple[str, ...]:
    """Notebooks of the project, by file name without suffix."""
    return tuple(sorted(p.stem for p in (project_root() / "notebooks").glob("*.ipynb")))


def source(name: str) -> Path:
    """The notebook's file.

    Raises:
        ConfigError: no such notebook; the message lists them.
    """
    return project_root() / "notebooks" / f"{choose('notebook', name, names())}.ipynb"


def installed(what: str, *packages: str) -> None:
    """Check that optional packages are there.

    Args:
        what: needs them, in the plural.
        packages: by the names they are imported by.

    Raises:
        ConfigError: one is not; the message says how to install it.
    """
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"{what} need {' and '.join(absent)}: pip install -e '.[book]', or `make install`"
        )


@contextlib.contextmanager
def writing(path: Path, flag: str) -> Iterator[None]:
    """Turn what the system says about a path into one line with the flag that names another."""
    try:
        yield
    except (OSError, DiskError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        reason = getattr(cause, "strerror", None) or cause
        raise DiskError(
            f"cannot write {path}: {reason}; choose another place with {flag}"
        ) from error


def _papermill():
    # Kernels inherit it; else each says on stderr that debugging frozen modules is slow.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    installed("notebooks", "papermill", "ipykernel")
    import papermill

    return papermill


def parameters(name: str) -> tuple[str, ...]:
    """Parameters a notebook declares in its `parameters` cell."""
    return tuple(_papermill().inspect_notebook(str(source(name))))


def run(name: str, output: Path, given: dict, *, quiet: bool = True) -> Path:
    """Execute a notebook with papermill and write the executed copy.

    A copy that failed is left at `<output>.failed.ipynb`, never under its own name. The cell
    papermill injects is tagged `remove-cell`, which papermill itself does not do.

    Raises:
        ConfigError: an unknown notebook or parameter, or no name to write to.
        NotebookError: a cell raised.
        DiskError: the copy cannot be written.
    """
    pm = _papermill()
    path = source(name)
    declared = parameters(name)
    for key in given:  # papermill would only warn and run the defaults
        choose(f"parameter of {name}", key, declared)
    if not output.name or os.path.isdir(output):
        raise ConfigError(f"{str(output)!r} is a folder: the executed copy needs a file's name")
    unfinished = output.with_suffix(".failed.ipynb")
    try:
        with writing(output, "--output"):
            output.parent.mkdir(parents=True, exist_ok=True)
            pm.execute_notebook(
                str(path),
                str(unfinished),
                parameters=given,
                cwd=str(path.parent),
                progress_bar=not quiet,
                log_output=False,
            )
    except pm.PapermillExecutionError as error:
        raise NotebookError(
            f"notebook {name} failed: {error.ename}: {_first_line(error.evalue)} (see {unfinished})"
        ) from None
    notebook = json.loads(unfinished.read_text())
    for cell in notebook["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        if {"injected-parameters", "parameters"} & set(tags):
            cell["metadata"]["tags"] = [*tags, "remove-cell"]
    notebook["metadata"].pop("papermill", None)  # paths and times of this machine
    with writing(output, "--output"):
        write_atomically(output, (json.dumps(notebook, indent=1) + "\n").encode())
    unfinished.unlink()
    return output


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]
