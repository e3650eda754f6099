"""The plan that records were made by, kept beside them, and how today's plan differs from it.

`plan.json` of a results folder holds the margin and, for every method, where its search begins, the
seeds that tune it and those that are compared. What has a record stays as it was when its first
record was made, so that seeds or a margin changed after a look are named.
"""

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from samlib.files import write_atomically
from samlib.records import store
from samlib.records.results_folder import ResultsFolder
from samlib.study.cells import Cell, Needs, all_cells
from samlib.study.methods import Method
from samlib.study.profile import Profile

_WORDS = {"start": "first values", "tuning": "tuning seeds", "seeds": "compared seeds"}


def keep(folder: ResultsFolder, profile: Profile, needs: Iterable[Needs]) -> None:
    """Keep the plan of what is about to be run; the caller holds the folder's lock.

    Raises:
        DiskError: the file cannot be written.
    """
    kept = read(folder)
    planned = {_key(profile, cell): cell for cell in all_cells(needs)}
    wanted = {key: _rules(cell) for key, cell in planned.items()}
    changed = {key for key, rules in wanted.items() if kept["cells"].get(key, rules) != rules}
    runs = store.read(folder.runs) if changed or kept["margin"] != profile.margin else {}
    with_records = {key for key in changed if _has_records(planned[key], runs)}
    cells = kept["cells"] | {k: rules for k, rules in wanted.items() if k not in with_records}
    margin = kept["margin"] if runs and kept["margin"] is not None else profile.margin
    found = {"margin": margin, "cells": cells}
    if found != kept:
        write_atomically(_path(folder), _text(**found).encode())


def changes(folder: ResultsFolder, profile: Profile, cells: Iterable[Cell]) -> dict[Cell, str]:
    """What the plan of some cells was when their first records were made, where it is another now.

    By cell, in words: "compared seeds 10 to 21 (planned: 10 to 25)".
    """
    kept = read(folder)["cells"]
    said = {}
    for cell in cells:
        now = _rules(cell)
        then = kept.get(_key(profile, cell), now)
        words = [
            f"{_WORDS[name]} {_listed(now[name])} (planned: {_listed(then[name])})"
            for name in now
            if now[name] != then[name]
        ]
        if words:
            said[cell] = ", ".join(words)
    return said


def read(folder: ResultsFolder) -> dict:
    """What was kept: `margin`, None where nothing was, and `cells`."""
    try:
        found = json.loads(_path(folder).read_bytes())
        return {"margin": float(found["margin"]), "cells": dict(found["cells"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {"margin": None, "cells": {}}


def _path(folder: ResultsFolder) -> Path:
    return folder.path / "plan.json"


def _text(margin: float, cells: dict) -> str:
    """JSON with a line per method, so that git shows which one changed."""
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(cells[key])}" for key in sorted(cells))
    return f'{{\n "margin": {margin},\n "cells": {{\n{lines}\n }}\n}}\n'


def _key(profile: Profile, cell: Cell) -> str:
    """A name of a cell that does not depend on what may be changed: problem and method."""
    problem = next(name for name, base in profile.bases.items() if base == cell.base)
    parts = {f.name: getattr(cell.method, f.name) for f in fields(Method)}
    own = [f"{f.name}={parts[f.name]}" for f in fields(Method) if parts[f.name] != f.default]
    return " ".join([problem, *own])


def _rules(cell: Cell) -> dict[str, list[float]]:
    return {name: list(getattr(cell, name)) for name in _WORDS}


def _has_records(cell: Cell, runs: dict) -> bool:
    return any(run.run_id in runs for run in cell.runs(runs))


def _listed(values: list[float]) -> str:
    """Whole numbers in a row by their ends, other values one by one."""
    if len(values) > 2 and values == list(range(int(values[0]), int(values[0]) + len(values))):
        return f"{values[0]:g} to {values[-1]:g}"
    return " and ".join(f"{v:g}" for v in values) if values else "none"
