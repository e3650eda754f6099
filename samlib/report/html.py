"""Tables, findings and provenance as HTML: the one module that formats for the book."""

import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from samlib.report.paper import NOT_SOURCED
from samlib.report.results import Results
from samlib.report.stats import NOT_RUN, VERDICTS
from samlib.report.text import mean_and_interval, number, p_value, span
from samlib.study import plan
from samlib.study.cells import known_runs

if TYPE_CHECKING:
    from IPython.display import HTML


# Format specifications of numbers that want others than their kind's, by column of the page.
_FORMATS = {
    "predicted share": ".2g",
    "share": ".3f",
    "sparsity": ".2f",
    "gain left": ".0f",
    "share of the matrix rate": ".0f",
    "reported ρ ratio": "g",
    "our ρ ratio": "g",
    "reported all − no norm": "+.2f",
    "reported difference": "+.2f",
    "SAM-ON − SAM": "+.2f",
    "more than clean": "+.2f",
    "device-hours": ",.1f",
    "ours, images/s": ",.0f",
    "plain loop, images/s": ",.0f",
    "Pillow, images/s": ",.0f",
    "runs per hour": ",.0f",
    "epochs, ms": ",.0f",
    "set-up and evaluation, ms": ",.0f",
    "around the run, ms": ",.0f",
    "start, s": ".1f",
    "size of one, kB": ".1f",
    "memory, MB": ",.0f",
    "over the base optimizer's": ".3f",
    "kept, MB": ".3f",
}
# What stands where a table has no number, an en dash elsewhere; reported numbers are not sourced.
_MISSING = {
    **dict.fromkeys(("verdict", "seeds", "p (Holm)"), ""),
    **dict.fromkeys(("device-hours", "on 1", "on 8", "on 64"), "not measured"),
    **dict.fromkeys(("source", "reported difference", "SAM-ON − SAM"), NOT_SOURCED),
    **dict.fromkeys(("window all", "window only norm"), "none"),
    "time": NOT_RUN.verdict,
}


def show(
    table: pd.DataFrame, without: Sequence[str] = (), *, digits: int = 2, inline: Sequence[str] = ()
) -> "HTML":
    """A table for the book: no index, intervals unbroken, verdicts as badges, narrow.

    Args:
        table: as `tidy` makes it.
        without: columns of the page, or the seeds to decide, that are left to the CSV file.
        digits, inline: see `as_text`.

    rho stands small beside its accuracy, the number of seeds to decide beside the verdict;
    `diverged` is left out where no run did, and a value in the first column that repeats the one
    above is left blank. A table without rows is "not run".
    """
    if table.empty:
        return _html(badge(NOT_RUN.verdict))
    cells = as_text(table, digits=digits, inline=inline).map(_cell)
    for name in _names(table):
        fields = table[[name]].droplevel(0, axis=1)
        if "mean" in fields:
            small = (rho and f" <small>(ρ\u00a0{rho})</small>" for rho in rhos(table, name))
            cells[name] += list(small)
        if "needed" in fields and name not in inline and "seeds to decide" not in without:
            more = (_known(n, " <small>{:.0f}\u00a0seeds</small>".format) for n in fields["needed"])
            cells["verdict"] += [text or "" for text in more]
    if "diverged" in cells and not table["diverged"].any():
        del cells["diverged"]
    first = cells.columns[0]
    cells[first] = cells[first].mask(cells[first] == cells[first].shift(), "")
    cells = cells.drop(columns=list(without), errors="ignore")
    return _html(cells.to_html(index=False, escape=False, border=0))


def as_text(table: pd.DataFrame, *, digits: int = 2, inline: Sequence[str] = ()) -> pd.DataFrame:
    """The table as the page prints it, a column for what stands together.

    Args:
        table: as `tidy` makes it.
        digits: after the point, of numbers that are no percentages or counts.
        inline: comparisons whose verdict stands behind their interval; those of others, with their
            seeds and p, are the last columns.
    """
    shown, last = {}, {}
    for name in _names(table):
        rows = table[[name]].droplevel(0, axis=1).to_dict("records")
        shown[name] = [_text(row, _FORMATS.get(name), digits) for row in rows]
        if "verdict" not in rows[0]:
            continue
        if name in inline:
            said = zip(shown[name], rows, strict=True)
            shown[name] = [text and f"{text}: {row['verdict']}" for text, row in said]
            shown[f"p of {name} (Holm)"] = [_known(row["p"], p_value) for row in rows]
            continue
        last["verdict"] = [_known(row["verdict"], str) for row in rows]
        last["seeds"] = [_known(row["n"], "{:.0f}".format) for row in rows]
        last["p (Holm)"] = [_known(row["p"], p_value) for row in rows]
    texts = pd.DataFrame(shown | last)
    return texts.fillna({name: _missing(table, name) for name in texts})


def _missing(table: pd.DataFrame, name: str) -> str:
    sourced = (name, "reported") in table
    return _MISSING.get(name, NOT_SOURCED if sourced else "–")


def _names(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table.columns.get_level_values(0)))


def _known(value: object, as_text: Callable[..., str]) -> str | None:
    return None if pd.isna(value) else as_text(value)


def rhos(table: pd.DataFrame, name: str) -> list[str]:
    """The rho of every row of a column, with an asterisk at its grid's edge; "" for none."""
    rows = table[[name]].droplevel(0, axis=1).to_dict("records")
    return ["" if pd.isna(row.get("rho")) else _rho(row) for row in rows]


def _rho(fields: dict) -> str:
    return f"{fields['rho']:g}" + "*" * bool(fields.get("at_edge"))


def _text(fields: dict, spec: str | None, digits: int) -> str | None:
    """What stands together on the page, or None where there is nothing.

    Numbers under names of no other kind are counts, by value.
    """
    if all(pd.isna(value) for value in fields.values()):
        return None
    plain = spec or f".{digits}f"
    match fields:
        case {"mean": mean, "low": low, "high": high}:
            return mean_and_interval(mean, low, high, f"+.{digits}f")
        case {"mean": mean, "sd": sd}:
            return _spread(fields, f"{number(mean, plain)} ± {number(sd, plain)}")
        case {"lower": low, "median": median, "upper": high}:
            return f"{number(median, plain)} [{number(low, plain)}, {number(high, plain)}]"
        case {"reported": value, "spread": sd}:
            return f"{value:.2f}" + ("" if pd.isna(sd) else f" ± {sd:g}")
        case {"ratio": ratio, "floor": floor}:
            return f"{number(ratio)} ({number(floor)})"
        case {"from": first, "to": last}:
            return f"{first:g} to {last:g}"
        case {"part": part, "whole": whole}:
            return f"{part:g} of {whole:g}"
        case {"percent": percent}:
            return f"{number(percent, spec or '.1f')} %"
        case {"factor": factor}:
            return f"{number(factor)} ×"
        case {"seconds": seconds}:
            return span(seconds)
        case {"p": p}:
            return p_value(p)
        case {"n": n}:
            return f"{n:.0f}"
        case {"rho": _}:
            return _rho(fields)
        case {"": float(value)}:
            return number(value, plain)
        case {"": int(value)}:
            return f"{value:,}"
        case {"": value}:
            return str(value)
    counts = sorted((float(value), n) for value, n in fields.items() if not pd.isna(n))
    return ", ".join(f"{value:g} ({n:g})" for value, n in counts)


def _spread(fields: dict, text: str) -> str:
    """A mean ± standard deviation with what else its column says."""
    if lost := fields.get("not_finite"):
        text += f" ({lost} not finite)"
    return f"{fields['optimizer']} {text}" if "optimizer" in fields else text


def _cell(text: str) -> str:
    text = html.escape(text)
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
