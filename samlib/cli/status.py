"""`python -m samlib status`: what is done, missing and diverged, and the time left."""

from pathlib import Path

import pandas as pd

from samlib.campaign.backlog import Backlog
from samlib.campaign.progress import clock
from samlib.records import origins
from samlib.records.results_folder import committed
from samlib.report import html
from samlib.report.missing import counted
from samlib.report.results import Results, read
from samlib.study import plan
from samlib.study.cells import known_runs
from samlib.study.profile import Profile


def status(profile: Profile, folder: Path) -> str:
    """Runs and measurements done, missing and diverged, and time left, per notebook."""
    found = read(profile, committed(folder, profile.name))
    said = (*differences(found), *html.plan_changes(found), progress(found))
    return "\n".join([f"profile {profile.name} in {found.folder}", *said])


def differences(found: Results) -> list[str]:
    """Lines on every kind of record that different code, or different kinds of device, made."""
    kinds = {"": found.records} | {f"{name}: ": made for name, made in found.measures.items()}
    said = {kind: origins.differences(records.values()) for kind, records in kinds.items()}
    return [f"{kind}{line}" for kind, lines in said.items() for line in lines]


def progress(found: Results) -> str:
    """The table of `status`."""
    rows = []
    for name in plan.chapters(found.profile):
        backlog = Backlog(plan.chapter_needs(found.profile, name), found.records, found.measures)
        wanted = {run.run_id for run in known_runs(backlog.cells, found.records)}
        diverged = sum(r["status"] == "diverged" for i, r in found.records.items() if i in wanted)
        missing = counted(plan.chapter_needs(found.profile, name), found)
        left = "> " * missing.is_floor + clock(missing.seconds)
        rows.append((name, backlog.done, missing.count, diverged, left))
    header = ("notebook", "done", "missing", "diverged", "time left on one worker")
    return pd.DataFrame(rows, columns=header).to_string(index=False)
