"""The price of one pass with only norm, on every network whose steps were timed.

Where a step takes a few milliseconds, what surrounds the pass weighs most: a price belongs to a
network and a machine.
"""

import pandas as pd

from samlib.report import step_times, tidy
from samlib.report.names import MEMBER_NAMES
from samlib.report.results import Results
from samlib.report.text import listed, number
from samlib.study import members

PRICE = 1.05  # the goal: steps of the base optimizer


def table(results: Results) -> pd.DataFrame:
    """Step times with only norm over the base optimizer's, on every network they were timed on."""
    rows = []
    for record in step_times.timed(results):
        ratios, floors = record["ratios"], record["floors"]
        keys = {MEMBER_NAMES[n]: f"{n} on only_norm" for n in members.ONE_PASS}
        keys = {name: key for name, key in keys.items() if key in ratios}
        if keys:
            row = {"timed": step_times.title(record), "control": ratios["base again"][1]}
            for name, key in keys.items():
                row[name] = {"ratio": ratios[key][1], "floor": floors[key][1]}
            rows.append(row)
    return tidy.table(rows)


def _slowest(record: dict) -> float | None:
    """The longest of the steps of one pass with only norm over the base optimizer's."""
    ratios, keys = record["ratios"], (f"{n} on only_norm" for n in members.ONE_PASS)
    return max((ratios[key][1] for key in keys if key in ratios), default=None)


def finding(results: Results) -> str:
    """Where the price is within the goal, by the slowest member with only norm."""
    told = [
        f"{number(slowest)} × on {step_times.title(record)} "
        f"({'within' if slowest <= PRICE else 'above'} the goal)"
        for record in step_times.timed(results)
        if (slowest := _slowest(record)) is not None
    ]
    if not told:
        return "No step of one pass has been timed."
    return f"The slowest of these steps takes {listed(told)}."


def elsewhere(results: Results) -> str:
    """On how many networks that were timed the slowest step is within the goal."""
    slowest = [s for s in map(_slowest, step_times.timed(results)) if s is not None]
    within = sum(s <= PRICE for s in slowest)
    if not slowest:
        return ""
    return f" On {within} of the {len(slowest)} networks timed every such step costs less."
