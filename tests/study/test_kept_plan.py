"""A plan that is changed after its records is named; before, it may be anything."""

from dataclasses import replace

import pytest

from samlib.cli import status
from samlib.files import project_root
from samlib.records.results_folder import ResultsFolder, committed
from samlib.report import html
from samlib.report.results import Results
from samlib.study import kept_plan, plan, profiles
from samlib.study.cells import all_cells
from samlib.study.methods import ALL, BASE

SMOKE = profiles.get("smoke")
WRN = SMOKE.headline
RESULTS = project_root() / "results"


def changed(**rows):
    """The profile with another row of SAM on the headline network."""
    grids = [
        replace(row, **rows) if row.method == ALL and row.problem in (WRN, None) else row
        for row in SMOKE.grids
    ]
    return replace(SMOKE, grids=tuple(grids))


def keep(folder, profile):
    kept_plan.keep(folder, profile, plan.chapter_needs(profile))


def named(folder, profile):
    return [*kept_plan.changes(folder, profile, all_cells(plan.chapter_needs(profile))).values()]


@pytest.fixture
def folder(tmp_path):
    return ResultsFolder(tmp_path / "smoke")


@pytest.fixture
def records(monkeypatch):
    """Records that the folder is said to have."""
    found = {}
    monkeypatch.setattr(kept_plan.store, "read", lambda runs: found)
    return found


def record_of_sam(records):
    run = SMOKE.cell(WRN, ALL).any_run
    records[run.run_id] = {"validation_accuracy": 80.0}


def test_a_plan_without_records_may_be_changed(folder, records):
    keep(folder, SMOKE)
    first = (folder.path / "plan.json").read_bytes()
    keep(folder, SMOKE)
    assert (folder.path / "plan.json").read_bytes() == first
    more = replace(changed(seeds=7), margin=0.3)
    keep(folder, more)
    assert kept_plan.read(folder)["margin"] == 0.3
    assert named(folder, more) == []
    assert f'"{WRN} geometry=l2": {{"start"' in (folder.path / "plan.json").read_text()


def test_seeds_and_values_that_are_changed_after_a_record_are_named(folder, records):
    keep(folder, SMOKE)
    record_of_sam(records)
    more = changed(seeds=7, start=(0.25, 0.5, 1.0, 2.0))
    keep(folder, more)
    now, before = more.cell(WRN, ALL), SMOKE.cell(WRN, ALL)
    assert kept_plan.changes(folder, more, [now, more.cell(WRN, BASE)])[now] == (
        f"first values 0.25 and 0.5 and 1 and 2 (planned: {' and '.join(map(str, before.start))}), "
        "compared seeds 0 to 6 (planned: 0 and 1)"
    )
    assert kept_plan.changes(folder, SMOKE, [before]) == {}


def test_a_margin_that_is_changed_after_a_record_is_named(folder, records):
    keep(folder, SMOKE)
    record_of_sam(records)
    keep(folder, replace(SMOKE, margin=2.0))
    assert kept_plan.read(folder)["margin"] == SMOKE.margin


def test_a_method_that_joins_later_changes_nothing(folder, records):
    fewer = replace(SMOKE, grids=tuple(r for r in SMOKE.grids if r.method != ALL or r.problem))
    kept_plan.keep(folder, fewer, [plan.Needs([fewer.cell(WRN, BASE)])])
    record_of_sam(records)
    keep(folder, SMOKE)
    assert named(folder, SMOKE) == []


def test_what_is_no_plan_says_nothing(folder):
    folder.path.mkdir()
    assert named(folder, SMOKE) == []
    for text in ("", "[]", '{"margin": null, "cells": {}}', '{"margin": 1}'):
        (folder.path / "plan.json").write_text(text)
        assert kept_plan.read(folder) == {"margin": None, "cells": {}}


def test_pages_name_a_plan_that_was_changed(smoke, folder):
    keep(folder, SMOKE)
    here = Results(SMOKE, smoke.records, smoke.measures, folder.path)
    assert "plan was changed" not in html.provenance(here, "introduction").data
    more = replace(changed(seeds=7), margin=2.0)
    page = html.provenance(replace(here, profile=more), "introduction").data
    assert "made: margin ±2 points (planned: ±0.2)." in page
    assert "made: SAM: compared seeds 0 to 6 (planned: 0 and 1)." in page
    told = status.status(replace(SMOKE, margin=2.0), folder.path.parent)
    assert "margin ±2 points (planned: ±0.2)" in told


@pytest.mark.parametrize("name", ["quick", "cifar100-10k"])
def test_committed_records_have_their_plan(name):
    kept = kept_plan.read(committed(RESULTS, name))
    assert kept["margin"]
    assert kept["cells"]["wrn geometry=l2 mask=only_norm"]["tuning"] == [1000, 1001]
