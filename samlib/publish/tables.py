"""The tables of every chapter, written beside the records."""

from pathlib import Path

from samlib.chapters import CHAPTERS, introduction
from samlib.files import write_atomically
from samlib.report import tidy
from samlib.report.html import as_text
from samlib.report.results import load
from samlib.study import plan


def write(profile: str, folder: Path) -> list[Path]:
    """Write every table as CSV to `<results>/<profile>/tables`; returns their paths.

    Raises:
        RecordsMissing: a run is missing.
    """
    results = load(profile, folder)
    for needs in plan.chapter_needs(results.profile):
        results.require(needs)
    paths = []
    for part, chapter in CHAPTERS.items():
        if not plan.has(results.profile, part):
            continue
        for name, make in chapter.TABLES.items():
            path = results.folder / "tables" / f"{name}.csv"
            write_atomically(path, tidy.csv(make(results)).encode())
            paths.append(path)
    return paths


def headline_text(profile: str, folder: Path) -> str:
    """The headline table as text, for the end of a campaign."""
    table = introduction.table(load(profile, folder))
    return as_text(table).to_string(index=False)
