"""The plan that records were made by, kept beside them, and how today's plan differs from it.

`plan.json` of a results folder holds the margin and, for every method, where its search begins, the
seeds that tune it and those that are compared. What has a record stays as it was when its first
record was made, so that seeds or a margin changed after a look are named.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

from samlib.files import write_atomically
from samlib.records import store
from samlib.records.results_folder import ResultsFolder
from samlib.records.store import RecordError, Records
from samlib.study import plan
from samlib.study.cells import Cell, Needs, all_cells
from samlib.study.methods import Method
from samlib.study.profile import Profile
from samlib.trainer.config import RunConfig

_WORDS = {"start": "first values", "tuning": "tuning seeds", "seeds": "compared seeds"}
Rules = dict[str, list[float]]  # of a method, by the words above


class Kept(NamedTuple):
    """What `plan.json` holds: the margin in points (None without a file), and rules by method."""

    margin: float | None
    cells: dict[str, Rules]


class Changes(NamedTuple):
    """How the plan of today differs from the one that is kept, where there are records.

    Attributes:
        margin: the kept one in points, if it is another; else None.
        cells: by cell, in words: "compared seeds 10 to 21 (planned: 10 to 25)".
    """

    margin: float | None
    cells: dict[Cell, str]


def keep(folder: ResultsFolder, profile: Profile, needs: Iterable[Needs]) -> None:
    """Keep the plan of what is about to be run; the caller holds the folder's lock.

    Raises:
        DiskError: the file cannot be written.
        RecordError: the file that is there is damaged.
    """
    kept, runs = read(folder), store.read(folder.runs)
    cells = dict(kept.cells)
    for cell in all_cells(needs):
        key = _key(profile, cell)
        if key not in cells or not _has_records(cell, kept, profile, runs):
            cells[key] = _rules(cell)
    margin = profile.margin if kept.margin is None or not runs else kept.margin
    if cells and Kept(margin, cells) != kept:
        write_atomically(_path(folder), _text(margin, cells).encode())


def changes(
    folder: ResultsFolder, profile: Profile, needs: Iterable[Needs], runs: Records
) -> Changes:
    """What was changed in the plan of some needs after their first records.

    Args:
        folder: of the plan.
        profile: as it is today.
        needs: of one chapter, or of all.
        runs: the folder's records.

    Raises:
        RecordError: the file is damaged.
    """
    kept, said = read(folder), {}
    for cell in all_cells(needs):
        now = _rules(cell)
        then = kept.cells.get(_key(profile, cell), now)
        if now != then and _has_records(cell, kept, profile, runs):
            said[cell] = ", ".join(
                f"{word} {_listed(now[name])} (planned: {_listed(then[name])})"
                for name, word in _WORDS.items()
                if now[name] != then[name]
            )
    margin = kept.margin if runs and kept.margin != profile.margin else None
    return Changes(margin, said)


def dropped(folder: ResultsFolder, profile: Profile) -> list[str]:
    """Keys of kept methods that no chapter of the profile has any more.

    Raises:
        RecordError: the file is damaged.
    """
    known = {_key(profile, cell) for cell in all_cells(plan.chapter_needs(profile))}
    return [key for key in read(folder).cells if key not in known]


def read(folder: ResultsFolder) -> Kept:
    """What was kept.

    Raises:
        RecordError: the file is damaged.
    """
    path = _path(folder)
    try:
        found = json.loads(path.read_bytes())
        cells = {
            key: {word: [*map(float, rules[word])] for word in _WORDS}
            for key, rules in found["cells"].items()
        }
        margin = float(found["margin"])
        if not 0 <= margin < math.inf:
            raise ValueError(f"margin {margin}")
        return Kept(margin, cells)
    except FileNotFoundError:
        return Kept(None, {})
    except OSError as error:
        raise store.unreadable(path, error) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(
            f"{path} is not a whole plan ({type(error).__name__}): bring it back from git"
        ) from error


def _path(folder: ResultsFolder) -> Path:
    return folder.path / "plan.json"


def _text(margin: float, cells: dict[str, Rules]) -> str:
    """JSON with a line per method, so that git shows which one changed."""
    whole = {
        key: {w: rules[w] if w == "start" else [*map(int, rules[w])] for w in _WORDS}
        for key, rules in cells.items()
    }
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(whole[key])}" for key in sorted(cells))
    return f'{{\n "margin": {margin},\n "cells": {{\n{lines}\n }}\n}}\n'


def _key(profile: Profile, cell: Cell) -> str:
    """A name of a cell that does not depend on what may be changed: problem and method.

    And whether it repeats another cell on fresh seeds.
    """
    again = ["on fresh seeds"] if cell.repeats else []
    parts = {f.name: getattr(cell.method, f.name) for f in fields(Method)}
    own = [f"{f.name}={parts[f.name]}" for f in fields(Method) if parts[f.name] != f.default]
    return " ".join([profile.problem_of(cell), *own, *again])


def _rules(cell: Cell) -> Rules:
    return {name: [*map(float, getattr(cell, name))] for name in _WORDS}


def _has_records(cell: Cell, kept: Kept, profile: Profile, runs: Records) -> bool:
    """Whether a run of the cell's own is there, by today's plan or by the kept one."""
    both = cell, _as_kept(cell, kept, profile)
    return any(run.run_id in runs for each in both for run in _own(each, runs))


def _as_kept(cell: Cell, kept: Kept, profile: Profile) -> Cell:
    """The cell by the kept plan, and with it the one whose rho it takes."""
    rules = kept.cells.get(_key(profile, cell), {})
    others = {
        name: _as_kept(other, kept, profile)
        for name in ("like", "counted")
        if (other := getattr(cell, name)) is not None
    }
    seeds = {name: tuple(map(int, rules[name])) for name in ("tuning", "seeds") if rules}
    start = {"start": tuple(rules["start"])} if rules else {}
    return replace(cell, **start, **seeds, **others)


def _own(cell: Cell, runs: Records) -> list[RunConfig]:
    """Known runs of a cell, without the search of another cell whose rho it takes."""
    tuning = [] if cell.like else cell.tuning_runs(runs)
    value = cell.chosen(runs)
    return tuning + ([] if value is None else cell.at(value))


def _listed(values: list[float]) -> str:
    """Whole numbers in a row by their ends, other values one by one."""
    if len(values) > 2 and values == [values[0] + i for i in range(len(values))]:
        return f"{values[0]:g} to {values[-1]:g}"
    return " and ".join(f"{v:g}" for v in values) if values else "none"
