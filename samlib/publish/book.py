"""The book: executed notebooks beside the prose, built with warnings as errors."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from samlib.errors import ConfigError, SamlibError
from samlib.files import project_root
from samlib.publish import notebooks
from samlib.study import plan, profiles


class BookError(SamlibError):
    """The book did not build; the message holds the builder's own lines."""


def build(profile: str, results: Path, output: Path) -> Path:
    """Execute every notebook from the records that are there and build the book.

    Args:
        profile: whose records.
        results: folder of all profiles' results.
        output: folder for the build; pages land in `<output>/_build/html`.

    Returns:
        Path of the first page.

    Raises:
        NotebookError: a notebook failed, for example because a record is missing.
        BookError: the build gave a warning or an error.
        DiskError: `output` cannot be written.
        ConfigError: no checkout of the project, or what builds the book is not installed.
    """
    notebooks.installed("books", *notebooks.TABLES, *notebooks.BOOK)
    root = project_root()
    if not (root / "book" / "_toc.yml").exists():
        raise ConfigError(f"no book in {root}: run this from a checkout of the project")
    stage = output / "_build" / "source"
    ignored = shutil.ignore_patterns("_build", "__pycache__")
    with notebooks.writing(output, "--book"):
        if (output / "_build").exists():
            shutil.rmtree(output / "_build")
        stage.parent.mkdir(parents=True)  # says what is wrong; a copy would say it once per file
        shutil.copytree(root / "book", stage, ignore=ignored)
    asked = {"profile": profile, "results": str(results), "missing": "error"}
    # Processes, because papermill changes the working directory.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_execute, name, stage, asked) for name in notebooks.names()]
        for job in jobs:
            job.result()
    # It cannot be run with -m, and its script need not be on the PATH.
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", str(stage)]
    command += ["--path-output", str(output), "-W", "-n", "--keep-going"]
    # Jupyter's move to platform folders warns on stderr unless it is told.
    environment = os.environ | {"JUPYTER_PLATFORM_DIRS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    index = output / "_build" / "html" / "index.html"
    if done.returncode or not index.exists():
        lines = (done.stdout + done.stderr).splitlines()
        wrong = [line for line in lines if "WARNING" in line or "ERROR" in line or "rror:" in line]
        raise BookError("the book did not build:\n" + "\n".join(wrong or lines[-20:]))
    return index


def _execute(name: str, stage: Path, asked: dict) -> None:
    profile = profiles.get(asked["profile"])
    if not plan.has(profile, name):
        _leave_out(name, stage, profile.name)
        return
    declared = notebooks.parameters(name)
    given = {key: value for key, value in asked.items() if key in declared}
    notebooks.run(name, stage / "notebooks" / f"{name}.ipynb", given)


def _leave_out(name: str, stage: Path, profile: str) -> None:
    """A page for a chapter the profile does not run: its title and its introduction."""
    notebook = json.loads(notebooks.source(name).read_text())
    opening = notebook["cells"][0]
    opening["source"] = ["".join(opening["source"]) + f"\n\nNot part of the profile {profile}.\n"]
    page = stage / "notebooks" / f"{name}.ipynb"
    with notebooks.writing(page, "--book"):
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(json.dumps(notebook | {"cells": [opening]}))
