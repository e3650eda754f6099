"""Tables, findings and provenance as HTML: what a page of the book shows."""

import html
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from samlib.records import devices, origins, store
from samlib.records.results_folder import ResultsFolder
from samlib.report import campaign_cost
from samlib.report.formats import as_text, names, rhos
from samlib.report.names import method_name, problem_name
from samlib.report.results import Results
from samlib.report.stats import NOT_RUN, OPEN
from samlib.report.text import p_value
from samlib.study import kept_plan, plan
from samlib.study.cells import Cell, all_cells, known_runs
from samlib.study.profile import Profile

if TYPE_CHECKING:
    from IPython.display import HTML, Image
    from matplotlib.figure import Figure


def show(table: pd.DataFrame, without: Sequence[str] = (), *, digits: int = 2) -> "HTML":
    """A table for the book: no index, intervals unbroken, verdicts as badges, narrow.

    Args:
        table: as `tidy` makes it; see `formats.as_text`.
        without: columns of the page that are left to the table's CSV file.
        digits: see `formats.as_text`.

    rho stands small beside its accuracy, where and the number of seeds to decide beside what was
    seen; `diverged` is left out where no run did, and a value in the first column that repeats the
    one above is left blank. A table without rows is "not run".
    """
    if table.empty:
        return _html(badge(NOT_RUN))
    texts = as_text(table, digits=digits)
    first = texts.columns[0]
    texts[first] = texts[first].str.replace("-", "\N{NON-BREAKING HYPHEN}")
    texts = texts.map(_cell)
    for name in names(table):
        fields = table[[name]].droplevel(0, axis=1)
        if "mean" in fields:
            texts[name] += [rho and f" <small>(ρ\u00a0{rho})</small>" for rho in rhos(table, name)]
        if "seen" in fields:
            column = "verdict" if "mean" in fields else name
            texts[column] = [_verdict(row) for row in fields.to_dict("records")]
    if "diverged" in texts and not table["diverged"].any():
        del texts["diverged"]
    texts[first] = texts[first].mask(texts[first] == texts[first].shift(), "")
    texts = texts.drop(columns=list(without), errors="ignore")
    return _html(texts.to_html(index=False, escape=False, border=0))


def _verdict(fields: dict) -> str:
    if pd.isna(fields["seen"]):
        return ""
    text = badge(fields["seen"], fields["where"])
    low, high, p, needed = (fields.get(k, math.nan) for k in ("low", "high", "p", "needed"))
    # Clear alone, and not among the table's many.
    if fields["seen"] == OPEN and low * high > 0 and not math.isnan(p):
        text += f" <small>(corrected p\u00a0{p_value(p)})</small>"
    return (
        text if pd.isna(needed) else f"{text} <small>(needs\u00a0{needed:.0f}\u00a0seeds)</small>"
    )


def _cell(text: str) -> str:
    text = html.escape(text)
    if text == NOT_RUN:
        return badge(text)
    if text in plan.NEEDS or text == "counts":
        return f'<a href="{text}.html">{text.replace("_", " ")}</a>'
    return _unbroken(text)


def _unbroken(text: str) -> str:
    """What belongs together stays on one line; a line may break before an interval."""
    return re.sub(
        r"\[[^\]]*\]|\S+ ± \S+|\d %", lambda m: m[0].replace(" ", "\N{NO-BREAK SPACE}"), text
    )


def draw(figure: "Figure") -> "Image":
    """A figure of the page, whatever backend matplotlib has; the figure is closed."""
    import matplotlib.pyplot as plt
    from IPython.display import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight")
    plt.close(figure)
    return Image(drawn.getvalue())


def say(sentence: str) -> "HTML":
    """A finding as a paragraph of the page."""
    return _html(f'<p class="finding">{_escaped(sentence)}</p>')


def _html(text: str) -> "HTML":
    from IPython.display import HTML  # only notebooks need it to be installed

    return HTML(text)


def badge(seen: str, where: str = "") -> str:
    """What was seen, and where, as the book prints them."""
    mark = f'<span class="verdict {seen.replace(" ", "-")}">{html.escape(seen)}</span>'
    return f"{mark} <small>{html.escape(where)}</small>" if where else mark


def box(says: str, sees: str, seen: str, where: str, worth: str) -> "HTML":
    """The three lines a page opens with.

    Args:
        says: what the paper says, with its number.
        sees: the numbers of ours that decide.
        seen, where: the verdict.
        worth: what it says about the paper, and why.
    """
    lines = {"The paper says": _escaped(says), "We see": _escaped(sees)}
    lines["Verdict"] = f"{badge(seen, where)}. {_escaped(worth)}"
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in lines.items())
    return _html(f'<dl class="claim">{rows}</dl>')


def _escaped(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", _unbroken(html.escape(text)))


def provenance(results: Results, notebook: str | None = None) -> "HTML":
    """One line under a page: which records (of one notebook, or all), their cost, made on what."""
    needs = plan.chapter_needs(results.profile, notebook)
    wanted = {run.run_id for run in known_runs(all_cells(needs), results.records)}
    runs = [record for run_id, record in results.records.items() if run_id in wanted]
    measured = {
        (m.measure, run.run_id): results.measures[m.measure][run.run_id]
        for need in needs
        for m in need.measured
        for run in m.runs(results.records)
        if run.run_id in results.measures[m.measure]
    }
    compared = [*runs, *measured.values()]
    made = Counter(_origin(record) for record in runs)
    diverged = sum(record["status"] == "diverged" for record in runs)
    lines = "; ".join(f"{count} made by commit {origin}" for origin, count in made.most_common())
    everything = [results.records, *results.measures.values()]
    total = _minutes(record for records in everything for record in records.values())
    on_gpu = campaign_cost.kind_of_device(results) == "cuda"
    unit = "GPU" if on_gpu else "core"
    text = f"Profile {results.profile.name}: {len(runs)} runs, {diverged} diverged"
    text += f", {len(measured)} measurements" if measured else ""
    took = f"{_minutes(compared):.0f} of the {total:.0f} {unit}-minutes"
    text += f"; {took} that the profile has taken"
    text += " (minutes of runs, of which several may have shared a GPU)" * on_gpu
    # A measurement's code is another than a run's, the kind of device should be the same.
    notes = [line for line in (devices.mixed(compared), origins.mixed(runs)) if line]
    notes += plan_changes(results, notebook)
    lacking = [cell for need in needs for cell in need.beside if not results.has(cell)]
    if lacking and notebook is not None:
        notes.append(f"Not run yet: {'; '.join(_named(results.profile, c) for c in lacking)}")
    if notebook is None and len(runs) < len(results.records):
        unused = len(results.records) - len(runs)
        notes.append(f"{unused} other records belong to no run of the present plan")
    notes = "".join(f" {note}." for note in notes)
    return _html(f'<p class="provenance">{_escaped(f"{text}. {lines}.{notes}")}</p>')


def plan_changes(results: Results, notebook: str | None = None) -> list[str]:
    """What was changed in the plan after records were begun (of one notebook, or all), a line each.

    Raises:
        RecordError: the plan that was kept is damaged.
    """
    folder, profile = ResultsFolder(results.folder), results.profile
    needs = plan.chapter_needs(profile, notebook)
    found, said = kept_plan.changes(folder, profile, needs, results.records), []
    if found.margin is not None:
        said.append(f"margin ±{profile.margin:g} points (planned: ±{found.margin:g})")
    said += [f"{_named(profile, cell)}: {words}" for cell, words in found.cells.items()]
    if notebook is None and results.records:
        said += [f"no more a part of it: {key}" for key in kept_plan.dropped(folder, profile)]
    return [f"The plan was changed after records were made: {each}" for each in said]


def _named(profile: Profile, cell: Cell) -> str:
    """A cell's method, its network where that is not the headline's, and whether it repeats."""
    problem = profile.problem_of(cell)
    on = "" if problem == profile.headline else f" on {problem_name(profile, problem)}"
    fresh = ", on fresh seeds" if cell.repeats else ""
    return f"{method_name(profile, cell.method, problem)}{on}{fresh}"


def timings(records: Sequence[dict]) -> "HTML":
    """One line under a page of timings: how many, by which code, on what."""
    made = Counter(_origin(record, "") for record in records)
    lines = "; ".join(f"{count} by {origin}" for origin, count in made.most_common())
    text = f"{len(records)} records of timings" + (f": {lines}." if lines else ".")
    return _html(f'<p class="provenance">{html.escape(text)}</p>')


def _minutes(records: Iterable[dict]) -> float:
    return sum(map(store.seconds, records)) / 60


def _origin(record: dict, cores: str = ", one core") -> str:
    p = record["provenance"]
    commit = p["commit"] and p["commit"][:10] + (" (modified)" if p["dirty"] else "")
    if not commit or p["dirty"]:  # git does not tell them apart, the digest of the code does
        commit = f"{commit or 'no commit'} ({origins.code(record)})"
    hardware = p["gpu"] or p["processor"] + cores
    return f"{commit} with torch {p['packages']['torch']}, Python {p['python']}, on {hardware}"
