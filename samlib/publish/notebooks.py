"""The strict door to papermill: run a notebook with parameters it really has."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from samlib.errors import ConfigError, SamlibError, choose, first_line
from samlib.extras import require
from samlib.files import DiskError, checkout, write_atomically
from samlib.publish.kernels import kernel

# Optional packages: what tables and figures are made with, and beside them the book.
TABLES = ("matplotlib", "seaborn")
BOOK = ("papermill", "ipykernel", "jupyter_book", "latex2mathml")


class NotebookError(SamlibError):
    """A notebook did not run to its end; the message says where its failed copy is."""


def names() -> tuple[str, ...]:
    """Notebooks of the project, by file name without suffix; none outside its checkout."""
    root = checkout()
    return () if root is None else tuple(sorted(p.stem for p in root.glob("notebooks/*.ipynb")))


def source(name: str) -> Path:
    """The notebook's file.

    Raises:
        ConfigError: no such notebook, the message lists them; or no checkout of the project.
    """
    root = checkout()
    if root is None:
        raise ConfigError(
            "notebooks are not installed with samlib: run this in a checkout of the project, where "
            "the folder notebooks is"
        )
    return root / "notebooks" / f"{choose('notebook', name, names())}.ipynb"


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
    require("notebooks", "papermill", "ipykernel")
    import papermill

    return papermill


def parameters(name: str) -> tuple[str, ...]:
    """Parameters a notebook declares in its `parameters` cell."""
    return tuple(_papermill().inspect_notebook(str(source(name))))


def run(name: str, output: Path, given: dict) -> Path:
    """Execute a notebook with papermill and write the executed copy.

    A copy that failed, or lacks a figure or a table, is left at `<output>.failed.ipynb`, never
    under its own name. The cell papermill injects is tagged `remove-cell`, which papermill itself
    does not do.

    Raises:
        ConfigError: an unknown notebook or parameter, or no name to write to.
        NotebookError: a cell raised, the kernel died, or a cell showed nothing of what it makes.
        DiskError: the copy cannot be written.
    """
    path = source(name)
    declared = parameters(name)
    for key in given:  # papermill would only warn and run the defaults
        choose(f"parameter of {name}", key, declared)
    if not output.name or os.path.isdir(output):
        raise ConfigError(f"{str(output)!r} is a folder: the executed copy needs a file's name")
    unfinished = output.with_suffix(".failed.ipynb")
    with writing(output, "--output"):
        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(b"")
    _execute(name, path, unfinished, given)
    notebook = json.loads(unfinished.read_bytes())
    if lacking := _lacking(notebook["cells"]):
        raise NotebookError(f"notebook {name} ran without showing {lacking} (see {unfinished})")
    for cell in notebook["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        if "injected-parameters" in tags:
            cell["id"] = "injected-parameters"  # papermill draws one
        if {"injected-parameters", "parameters"} & set(tags):
            cell["metadata"]["tags"] = [*tags, "remove-cell"]
    for part in (notebook, *notebook["cells"]):
        part["metadata"].pop("papermill", None)  # paths and times of this machine
        part["metadata"].pop("execution", None)
    with writing(output, "--output"):
        write_atomically(output, (json.dumps(notebook, indent=1) + "\n").encode())
    unfinished.unlink()
    return output


def _execute(name: str, path: Path, unfinished: Path, given: dict) -> None:
    pm = _papermill()
    try:
        with kernel() as kernel_name:
            pm.execute_notebook(
                str(path),
                str(unfinished),
                parameters=given,
                kernel_name=kernel_name,
                language="python",
                cwd=str(path.parent),
                progress_bar=False,
                log_output=False,
            )
    except pm.PapermillExecutionError as error:
        raise NotebookError(
            f"notebook {name} failed: {error.ename}: {first_line(error.evalue)} (see {unfinished})"
        ) from None
    except OSError as error:
        with writing(unfinished, "--output"):
            raise error
    except RuntimeError as error:  # nbclient's, of a kernel that did not start or was killed
        raise NotebookError(f"notebook {name} failed: its kernel: {first_line(error)}") from error


# What a cell makes, by the call in it, and how it shows.
_SHOWN = {
    r"\.figure\w*\(": ("a figure", "image/"),
    r"\bhtml\.(?!draw\b)\w+\(": ("a table or a text", "text/html"),
}


def _lacking(cells: list[dict]) -> str | None:
    """The first thing that a cell makes and does not show, None if there is none."""
    for cell in cells:
        code = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
        shown = [kind for out in cell.get("outputs", ()) for kind in out.get("data", ())]
        for call, (what, kind) in _SHOWN.items():
            if re.search(call, code) and not any(mime.startswith(kind) for mime in shown):
                return f"{what}: `{first_line(code.strip().splitlines()[-1])}`"
    return None
