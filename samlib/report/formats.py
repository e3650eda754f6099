"""Tables of numbers as the page prints them, a column of text for what stands together."""

from collections.abc import Callable

import pandas as pd

from samlib.report.paper import NOT_SOURCED
from samlib.report.stats import NOT_RUN
from samlib.report.text import mean_and_interval, number, span

# Format specifications of numbers that want others than their kind's, by column of the page.
_FORMATS = {
    "predicted share": ".2g",
    "share": ".3f",
    "moved": ".3g",
    "share of ‖Tg‖²": ".2g",
    **dict.fromkeys(("seeds", "diverged", "missing"), ".0f"),  # counts, or none
    "gain left": ".0f",
    "share of the matrix rate": ".0f",
    "reported all − no norm": "+.2f",
    "reported difference": "+.2f",
    "SAM-ON − SAM": "+.2f",
    "reported SAM-ON − SAM": "+.2f",
    "more than clean": "+.2f",
    "corrupted, more than clean": "+.2f",
    "attacked, more than clean": "+.2f",
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
    **dict.fromkeys(("verdict", "seeds"), ""),
    **dict.fromkeys(("device-hours", "on 1 device", "on 8 devices"), "not measured"),
    "on 64 devices": "not measured",
    **dict.fromkeys(("source", "reported difference", "reported SAM-ON − SAM"), NOT_SOURCED),
    **dict.fromkeys(("window all", "window only norm"), "none"),
    "the paper (WRN-28-10)": "–",
    "time": NOT_RUN,
}


def as_text(table: pd.DataFrame, *, digits: int = 2) -> pd.DataFrame:
    """The table as the page prints it.

    Args:
        table: as `tidy` makes it, with at most one comparison that has a verdict: what it shows,
            where, and its seeds are the last columns.
        digits: after the point, of numbers that are no percentages or counts.
    """
    shown, last = {}, {}
    for name in names(table):
        rows = table[[name]].droplevel(0, axis=1).to_dict("records")
        shown[name] = [_text(row, _FORMATS.get(name), digits) for row in rows]
        if {"seen", "mean"} <= rows[0].keys():
            last["verdict"] = [_known(row["seen"], f"{{}} {row['where']}".format) for row in rows]
            last["seeds"] = [_known(row["n"], "{:.0f}".format) for row in rows]
    texts = pd.DataFrame(shown | last)
    return texts.fillna({name: _missing(table, name) for name in texts})


def _missing(table: pd.DataFrame, name: str) -> str:
    sourced = (name, "reported") in table
    return _MISSING.get(name, NOT_SOURCED if sourced else "–")


def names(table: pd.DataFrame) -> list[str]:
    """What stands together in a table: the first level of its columns, in order."""
    return list(dict.fromkeys(table.columns.get_level_values(0)))


def _known(value: object, as_text: Callable[..., str]) -> str | None:
    return None if pd.isna(value) else as_text(value)


def rhos(table: pd.DataFrame, name: str) -> list[str]:
    """The rho of every row of a column, with an asterisk at its grid's edge; "" for none."""
    rows = table[[name]].droplevel(0, axis=1).to_dict("records")
    return ["" if pd.isna(row.get("rho")) else _rho(row) for row in rows]


def _rho(fields: dict) -> str:
    return f"{fields['rho']:.3g}" + "*" * bool(fields.get("at_edge"))


def _text(fields: dict, spec: str | None, digits: int) -> str | None:
    """What stands together on the page, or None where there is nothing."""
    if all(pd.isna(value) for value in fields.values()):
        return None
    plain = spec or f".{digits}f"
    match fields:
        case {"seen": seen, "where": where, **rest} if not rest:
            return f"{seen} {where}"
        case {"mean": mean, "low": low, "high": high}:
            return mean_and_interval(mean, low, high, f"+.{digits}f")
        case {"mean": mean, "sd": sd}:
            plain = spec or (".0f" if abs(mean) >= 1000 else plain)
            return _spread(fields, f"{number(mean, plain)} ± {number(sd, plain)}")
        case {"lower": low, "median": median, "upper": high}:
            return f"{number(median, plain)} [{number(low, plain)}, {number(high, plain)}]"
        case {"reported": value, "spread": sd}:
            return f"{value:.2f}" + ("" if pd.isna(sd) else f" ± {sd:g}")
        case {"ratio": ratio, "floor": floor}:
            return f"{number(ratio)} ({number(floor)})"
        case {"share": share, "from": low, "to": high}:
            share, low, high = (number(value, ".0f") for value in (share, low, high))
            return f"{share} % [{low}, {high}]"
        case {"from": first, "to": last}:
            return f"{first:.3g} to {last:.3g}"
        case {"part": part, "whole": whole}:
            return f"{part:g} of {whole:g}"
        case {"percent": percent}:
            return f"{number(percent, spec or '.1f')} %"
        case {"factor": factor}:
            return f"{number(factor)} ×"
        case {"seconds": seconds}:
            return span(seconds)
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
    raise ValueError(f"no format for {fields}")


def _spread(fields: dict, text: str) -> str:
    """A mean ± standard deviation with what else its column says."""
    if lost := fields.get("not_finite"):
        text += f" ({lost} not finite)"
    return f"{fields['optimizer']} {text}" if "optimizer" in fields else text
