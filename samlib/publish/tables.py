"""The tables of every chapter, written beside the records."""

import contextlib
import warnings
from pathlib import Path

from samlib.chapters import CHAPTERS, introduction, verdicts
from samlib.errors import RecordsMissing
from samlib.files import as_disk_error, write_atomically
from samlib.records import origins
from samlib.report import tidy
from samlib.report.formats import as_text
from samlib.report.results import Results, load
from samlib.study import plan


def complete(results: Results, chapter: str) -> bool:
    """Whether a chapter is part of the profile and has every run and measurement it needs."""
    if not plan.has(results.profile, chapter):
        return False
    planned = chapter in plan.NEEDS
    needs = plan.chapter_needs(results.profile, chapter) if planned else []
    return not any(map(results.lacks, needs))


def made(results: Results) -> dict[str, str]:
    """The CSV text of every table of the chapters that are complete, by name.

    None without a row, and none of a measurement that only runs that diverged have.

    Raises:
        RecordsMissing: none is.
    """
    ready = [name for name in CHAPTERS if complete(results, name)]
    if not {*ready} & {*plan.NEEDS}:
        results.require(plan.chapter_needs(results.profile)[0])
    modules = [*(CHAPTERS[name] for name in ready), verdicts]
    tables = {}
    for name, make in (table for module in modules for table in module.TABLES.items()):
        with contextlib.suppress(RecordsMissing):  # every measured run of a method diverged
            tables[name] = make(results)
    return {name: tidy.csv(table) for name, table in tables.items() if len(table)}


def write(profile: str, folder: Path) -> list[Path]:
    """Write the tables to `<results>/<profile>/tables`, and remove others; returns their paths.

    Raises:
        RecordsMissing: no chapter is complete.
        DiskError: the folder cannot be written.
    """
    results = load(profile, folder)
    for said in origins.differences(results.records.values()):
        warnings.warn(said, stacklevel=2)
    texts, where = made(results), results.folder / "tables"
    with as_disk_error(where):
        for stale in {path.stem for path in where.glob("*.csv")} - texts.keys():
            (where / f"{stale}.csv").unlink()
    for name, text in texts.items():
        write_atomically(where / f"{name}.csv", text.encode())
    return [where / f"{name}.csv" for name in texts]


def headline_text(profile: str, folder: Path) -> str:
    """The headline table as text, for the end of a campaign."""
    return as_text(introduction.table(load(profile, folder))).to_string(index=False)
