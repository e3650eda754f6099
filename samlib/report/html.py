"""Tables, findings and provenance as HTML: the one module that formats for the book."""

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from samlib.report.results import Results
from samlib.report.stats import VERDICTS
from samlib.study import plan
from samlib.study.cells import known_runs

if TYPE_CHECKING:
    from IPython.display import HTML


def show(table: pd.DataFrame, without: Sequence[str] = ()) -> "HTML":
    """A table for the book: no index, intervals unbroken, verdicts as badges, narrow.

    Columns named in `without` are left to the table's CSV file. A column `ρ x` joins its column
    `x`, `seeds to decide` joins `verdict`, `diverged` is left out where no run did, and a value
    in the first column that repeats the one above is left blank.
    """
    table = table.drop(columns=list(without))
    cells = table.map(_cell)
    for column in [c for c in table.columns if c.startswith("ρ ") and c[2:] in table.columns]:
        rho = cells.pop(column)
        cells[column[2:]] += (" <small>(ρ\u00a0" + rho + ")</small>").where(rho != "–", "")
    if "seeds to decide" in cells:
        needed = cells.pop("seeds to decide")
        cells["verdict"] += needed.map(lambda n: f" <small>{n}\u00a0seeds</small>" if n else "")
    if "diverged" in cells and not table["diverged"].any():
        del cells["diverged"]
    first = cells.columns[0]
    cells[first] = cells[first].mask(cells[first] == cells[first].shift(), "")
    return _html(cells.to_html(index=False, escape=False, border=0))


def _cell(value: object) -> str:
    text = html.escape(str(value))
    if text in VERDICTS:
        return badge(text)
    if text in plan.NEEDS:
        return f'<a href="{text}.html">{text.replace("_", " ")}</a>'
    return _unbroken(text)


def _unbroken(text: str) -> str:
    """Intervals and means with their spread stay on one line."""
    return re.sub(
        r"\S+ (\[[^\]]*\]|± \S+)", lambda m: m[0].replace(" ", "\N{NO-BREAK SPACE}"), text
    )


def say(sentence: str) -> "HTML":
    """A finding as a paragraph of the page."""
    return _html(f'<p class="finding">{_unbroken(html.escape(sentence))}</p>')


def _html(text: str) -> "HTML":
    from IPython.display import HTML  # only notebooks need it to be installed

    return HTML(text)


def badge(verdict: str) -> str:
    """A verdict as the book prints it."""
    return f'<span class="verdict {verdict.replace(" ", "-")}">{verdict}</span>'


def provenance(results: Results, notebook: str | None = None) -> "HTML":
    """One line under a page: which records (of one notebook, or all), their cost, made on what."""
    needs = plan.chapter_needs(results.profile, notebook)
    wanted = {run.run_id for run in known_runs(plan.all_cells(needs), results.records)}
    runs = [record for run_id, record in results.records.items() if run_id in wanted]
    measured = {
        (m.measure, run.run_id): results.measures[m.measure][run.run_id]
        for need in needs
        for m in need.measured
        for run in m.runs(results.records)
        if run.run_id in results.measures[m.measure]
    }
    origins = Counter(_origin(record) for record in runs)
    diverged = sum(record["status"] == "diverged" for record in runs)
    lines = "; ".join(f"{count} by {origin}" for origin, count in origins.most_common())
    everything = [results.records, *results.measures.values()]
    total = _minutes(record for records in everything for record in records.values())
    text = f"Profile {results.profile.name}: {len(runs)} runs, {diverged} diverged"
    text += f", {len(measured)} measurements" if measured else ""
    text += (
        f"; {_minutes([*runs, *measured.values()]):.0f} of the profile's {total:.0f} core-minutes"
    )
    return _html(f'<p class="provenance">{html.escape(f"{text}. {lines}.")}</p>')


def timings(records: Sequence[dict]) -> "HTML":
    """One line under a page of timings: how many, by which code, on what."""
    origins = Counter(_origin(record, "") for record in records)
    lines = "; ".join(f"{count} by {origin}" for origin, count in origins.most_common())
    text = f"{len(records)} records of timings" + (f": {lines}." if lines else ".")
    return _html(f'<p class="provenance">{html.escape(text)}</p>')


def _minutes(records: Iterable[dict]) -> float:
    return sum(record["times"]["wall"] for record in records) / 60


def _origin(record: dict, cores: str = ", one core") -> str:
    p = record["provenance"]
    commit = (p["commit"] or "no commit")[:10] + (" (modified)" if p["dirty"] else "")
    hardware = p["gpu"] or p["processor"] + cores
    return f"{commit} with torch {p['packages']['torch']}, Python {p['python']}, on {hardware}"
