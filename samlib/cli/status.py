"""`python -m samlib status`: what is done, missing and diverged, and the time left."""

from pathlib import Path

import pandas as pd

from samlib.campaign.progress import clock
from samlib.records import origins
from samlib.records.results_folder import committed
from samlib.report import html
from samlib.report.missing import counted
from samlib.report.results import Results, read
from samlib.study import plan
from samlib.study.cells import all_cells, known_runs
from samlib.study.profile import Profile


def status(profile: Profile, folder: Path) -> str:
    """Runs and measurements done, missing and diverged, and time left, per notebook."""
    found = read(profile, committed(folder, profile.name))
    head = f"profile {profile.name} in {found.folder}"
    return "\n".join([head, *differences(found), progress(found)])


def differences(found: Results) -> list[str]:
    """Lines on records of different code or kinds of device, and on a plan that was changed."""
    kinds = {"": found.records} | {f"{name}: ": made for name, made in found.measures.items()}
    said = {kind: origins.differences(records.values()) for kind, records in kinds.items()}
    told = [f"{kind}{line}" for kind, lines in said.items() for line in lines]
    return [*told, *html.plan_changes(found)]


def progress(found: Results) -> str:
    """The table of `status`."""
    rows = []
    for name in plan.chapters(found.profile):
        needs = plan.chapter_needs(found.profile, name)
        wanted = {run.run_id for run in known_runs(all_cells(needs), found.records)}
        diverged = sum(r["status"] == "diverged" for i, r in found.records.items() if i in wanted)
        missing = counted(needs, found)
        left = "> " * missing.is_floor + clock(missing.seconds)
        rows.append((name, missing.done, missing.count, diverged, left))
    header = ("notebook", "done", "missing", "diverged", "time left on one worker")
    return pd.DataFrame(rows, columns=header).to_string(index=False)
