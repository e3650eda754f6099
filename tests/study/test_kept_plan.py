"""A plan that is changed after its records is named; before, it may be anything."""

from dataclasses import replace

import pytest
from conftest import one_line

from samlib.cli import status
from samlib.files import project_root
from samlib.records.results_folder import ResultsFolder, committed
from samlib.records.store import RecordError, UnreadableError
from samlib.report import html
from samlib.report.results import Results
from samlib.study import kept_plan, plan, profiles
from samlib.study.methods import ALL, BASE
from samlib.study.profile import Row

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


def named(folder, profile, records):
    return kept_plan.changes(folder, profile, plan.chapter_needs(profile), records).cells


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
    assert kept_plan.changes(folder, more, plan.chapter_needs(more), {}) == (None, {})
    keep(folder, more)
    assert kept_plan.read(folder).margin == 0.3
    assert f'"{WRN} geometry=l2": {{"start"' in (folder.path / "plan.json").read_text()


def test_seeds_and_values_that_are_changed_after_a_record_are_named(folder, records):
    keep(folder, SMOKE)
    record_of_sam(records)
    more = changed(seeds=7, start=(0.25, 0.5, 1.0, 2.0))
    keep(folder, more)
    before = SMOKE.cell(WRN, ALL)
    assert named(folder, more, records) == {
        more.cell(WRN, ALL): (
            "first values 0.25 and 0.5 and 1 and 2 (planned: "
            f"{' and '.join(map(str, before.start))}), compared seeds 0 to 6 (planned: 0 and 1)"
        )
    }, "and none of a control without records, which takes SAM's rho"
    assert named(folder, SMOKE, records) == {}


@pytest.mark.parametrize(
    "rows", [{"start": (4.0, 8.0, 16.0, 32.0)}, {"start": (0.7,)}, {"seeds": 1}]
)
def test_a_search_that_reaches_none_of_its_old_runs_is_named_too(folder, records, rows):
    keep(folder, SMOKE)
    record_of_sam(records)
    keep(folder, changed(**rows))
    assert changed(**rows).cell(WRN, ALL) in named(folder, changed(**rows), records)


def test_other_tuning_seeds_are_named(folder, records):
    keep(folder, SMOKE)
    record_of_sam(records)
    other = replace(SMOKE, tuning=(2000,))
    keep(folder, other)
    assert (
        "tuning seeds 2000 (planned: 1000)" in named(folder, other, records)[other.cell(WRN, ALL)]
    )


def test_a_margin_that_is_changed_after_a_record_is_named(folder, records):
    keep(folder, SMOKE)
    record_of_sam(records)
    wide = replace(SMOKE, margin=2.0)
    keep(folder, wide)
    found = kept_plan.changes(folder, wide, plan.chapter_needs(wide), records)
    assert found.margin == SMOKE.margin


def test_a_method_that_joins_later_changes_nothing_and_one_that_is_dropped_is_named(
    folder, records
):
    fewer = replace(SMOKE, grids=tuple(r for r in SMOKE.grids if r.method != ALL or r.problem))
    kept_plan.keep(folder, fewer, [plan.Needs([fewer.cell(WRN, BASE)])])
    record_of_sam(records)
    keep(folder, SMOKE)
    assert named(folder, SMOKE, records) == {}
    assert kept_plan.dropped(folder, SMOKE) == []
    without = replace(SMOKE, grids=tuple(r for r in SMOKE.grids if r.method.mask != "random"))
    assert f"{WRN} geometry=l2 mask=random" in kept_plan.dropped(folder, without)


def test_fresh_seeds_that_join_later_change_nothing_until_they_have_records(folder, records):
    keep(folder, SMOKE)
    record_of_sam(records)
    confirmed = replace(SMOKE, fresh=(100, 101))
    assert plan.confirmation(confirmed)
    keep(folder, confirmed)
    assert not named(folder, confirmed, records)
    other = replace(SMOKE, fresh=(100, 101, 102))
    assert not named(folder, other, records), "none has run"
    records |= {run.run_id: {} for run in plan.confirmation(confirmed)[0].at(0.0)}
    assert [*named(folder, other, records).values()] == [
        "compared seeds 100 to 102 (planned: 100 and 101)"
    ]


def test_a_plan_that_is_damaged_is_refused_and_not_replaced(folder):
    folder.path.mkdir()
    assert kept_plan.read(folder) == (None, {})
    margins = [f'{{"margin": {margin}, "cells": {{}}}}' for margin in ("null", "NaN", "-1")]
    for text in ("", "[]", *margins, '{"margin": 1}', "<<<<<<< HEAD"):
        (folder.path / "plan.json").write_text(text)
        with pytest.raises(RecordError, match=r"plan\.json is not a whole plan .*from git") as e:
            keep(folder, SMOKE)
        one_line(e)
    (folder.path / "plan.json").write_text('{"margin": 1, "cells": {"wrn": {"start": [0.0]}}}')
    with pytest.raises(RecordError, match="KeyError"):
        status.status(SMOKE, folder.path.parent)


def test_a_plan_without_read_permission_is_not_called_damaged(folder, monkeypatch):
    keep(folder, SMOKE)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(folder.path), "read_bytes", refuse)
    with pytest.raises(UnreadableError, match=r"cannot read .*plan\.json: Permission denied") as e:
        kept_plan.read(folder)
    one_line(e)


def test_a_changed_plan_of_another_network_is_named_with_it(smoke, folder):
    keep(folder, SMOKE)
    here = Results(SMOKE, smoke.records, smoke.measures, folder.path)
    grids = (Row(BASE, problem="vit", seeds=7), *SMOKE.grids)
    profile = replace(SMOKE, grids=grids)
    said = html.plan_changes(replace(here, profile=profile))
    assert any("made: AdamW on ViT-micro: compared seeds 0 to 6 (plan" in line for line in said)


def test_pages_name_a_plan_that_was_changed(smoke, folder):
    keep(folder, SMOKE)
    here = Results(SMOKE, smoke.records, smoke.measures, folder.path)
    assert "plan was changed" not in html.provenance(here, "introduction").data
    more = replace(changed(seeds=7), margin=2.0)
    page = html.provenance(replace(here, profile=more), "introduction").data
    assert "made: margin ±2 points (planned: ±0.2)." in page
    assert "made: SAM: compared seeds 0 to 6 (planned: 0 and 1)." in page
    told = status.status(replace(SMOKE, margin=2.0), folder.path.parent)
    assert "plan was changed" not in told, "no record is in that folder"
    assert "margin ±2 points (planned: ±0.2)" in "; ".join(
        html.plan_changes(replace(here, profile=more))
    )


@pytest.mark.parametrize("name", ["quick", "cifar100-10k"])
def test_committed_records_have_their_plan(name):
    kept = kept_plan.read(committed(RESULTS, name))
    assert kept.margin
    assert kept.cells["wrn geometry=l2 mask=only_norm"]["tuning"] == [1000, 1001]
    text = (RESULTS / name / "plan.json").read_text()
    assert kept_plan._text(kept.margin, kept.cells) == text, "seeds as whole numbers"
