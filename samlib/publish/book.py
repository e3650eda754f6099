"""The book: executed notebooks beside the prose, built with warnings as errors."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from samlib.errors import ConfigError, SamlibError
from samlib.extras import require
from samlib.files import checkout
from samlib.publish import notebooks, pages
from samlib.publish.pages import Page


class BookError(SamlibError):
    """The book did not build; the message holds the builder's own lines."""


def prose() -> Path:
    """The folder of the book's own pages.

    Raises:
        ConfigError: no checkout of the project.
    """
    root = checkout()
    if root is None:
        raise ConfigError(
            "the book's pages are not installed with samlib: run this in a checkout of the "
            "project, where the folder book is"
        )
    return root / "book"


def build(results: Path, output: Path, names: Sequence[str] | None = None) -> Path:
    """Execute every notebook from the records that are there and build the book.

    Args:
        results: folder of all profiles' results.
        output: folder for the build; pages land in `<output>/_build/html`.
        names: profiles to show, the leading one first; None is every one with records.

    Returns:
        Path of the first page.

    Raises:
        RecordsMissing: no profile has a record.
        NotebookError: a notebook failed.
        BookError: the build gave a warning or an error.
        DiskError: `output` cannot be written.
        ConfigError: no checkout of the project, or what builds the book is not installed.
    """
    require("books", *notebooks.TABLES, *notebooks.BOOK)
    source = prose()
    names = list(names or pages.shown(results))
    stage = output / "_build" / "source"
    ignored = shutil.ignore_patterns("_build", "__pycache__")
    with notebooks.writing(output, "--book"):
        if (output / "_build").exists():
            shutil.rmtree(output / "_build")
        stage.parent.mkdir(parents=True)  # says what is wrong; a copy would say it once per file
        shutil.copytree(source, stage, ignore=ignored)
    # Processes, because papermill changes the working directory.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        every = pages.pages(names)
        jobs = [pool.submit(_execute, page, every, stage, results) for page in every]
        lacking = [page for page, job in zip(every, jobs, strict=True) if not job.result()]
    _write_contents(stage / "_toc.yml", names, lacking)
    # It cannot be run with -m, and its script need not be on the PATH.
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", str(stage)]
    command += ["--path-output", str(output), "-W", "-n", "--keep-going"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=_environment())
    index = output / "_build" / "html" / "index.html"
    if done.returncode or not index.exists():
        lines = (done.stdout + done.stderr).splitlines()
        wrong = [line for line in lines if "WARNING" in line or "ERROR" in line or "rror:" in line]
        raise BookError("the book did not build:\n" + "\n".join(wrong or lines[-20:]))
    return index


def _environment() -> dict[str, str]:
    """What builds the book inherits: neither the user's locale nor the user's docutils settings."""
    return os.environ | {
        "DOCUTILSCONFIG": os.devnull,
        "JUPYTER_PLATFORM_DIRS": "1",  # or Jupyter's move to these folders warns on stderr
        "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONWARNINGS": "ignore",
    }


def _write_contents(path: Path, names: Sequence[str], lacking: Sequence[Page]) -> None:
    import yaml  # comes with what builds the book

    toc = pages.contents(yaml.safe_load(path.read_bytes()), names)
    toc = pages.marked(toc, lacking)
    path.write_bytes(yaml.safe_dump(toc, sort_keys=False, encoding="utf-8"))


def _execute(page: Page, every: Sequence[Page], stage: Path, results: Path) -> bool:
    """Write a page of the book; whether it has results."""
    target = stage / f"{page.path}.ipynb"
    reason = pages.absent(page, results)
    if reason is not None:
        reason = f"{reason} {pages.elsewhere(page, every, results)}".rstrip()
        with notebooks.writing(target, "--book"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(pages.without_results(page, every, reason)), "utf-8")
        return False
    asked = {"profile": page.profile, "results": str(results), "missing": "error"}
    declared = notebooks.parameters(page.notebook)
    given = {key: value for key, value in asked.items() if key in declared}
    content = json.loads(notebooks.run(page.notebook, target, given).read_bytes())
    target.write_text(json.dumps(pages.at_home(content, page, every)), "utf-8")
    return True
