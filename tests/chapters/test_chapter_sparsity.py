"""The sparsity chapter on made-up records whose numbers are known."""

import dataclasses
import functools

import pytest
from made_up import PROFILE, with_accuracies

from samlib.chapters import sparsity
from samlib.study import plan
from samlib.study.methods import SPARSE_MASKS, Method


@pytest.fixture
def rewritten(smoke):
    """A function that gives every run the test accuracy a rule says."""
    return functools.partial(with_accuracies, smoke)


def levels(sparse=88.0, scales=88.0, on=90.0):
    """80 for the base optimizer, then by what is perturbed."""

    def rule(config):
        if config["geometry"] == "none":
            return 80.0
        if config["geometry"].endswith("_scales"):
            return scales
        if config["mask"] in SPARSE_MASKS:
            return sparse - (config["radius_over"] == "all")
        return on if config["mask"] == "only_norm" else 89.0

    return rule


@pytest.mark.parametrize(
    ("sparse", "seen"), [(88.0, "seen"), (91.0, "reversed"), (90.0, "no difference")]
)
def test_sam_on_must_beat_every_mask_of_its_size(rewritten, sparse, seen):
    found = rewritten(levels(sparse=sparse))
    answer = sparsity.beyond_sparsity(found)
    assert answer.seen == seen
    assert len(answer.comparisons) == len(SPARSE_MASKS)
    word = {"seen": "better than", "reversed": "worse than"}.get(seen, "no different from")
    for name in ("a random mask", "SSAM-F", "SSAM-D"):
        assert f"{word} {name}" in sparsity.finding(found)


def test_one_mask_that_does_as_well_is_enough_against_the_claim(rewritten):
    def rule(config):
        return 90.0 if config["mask"] == "fisher" else levels()(config)

    assert sparsity.beyond_sparsity(rewritten(rule)).seen == "no difference"


def test_masks_that_are_not_run_yet_leave_the_page_without_a_verdict(rewritten):
    found = rewritten(levels())
    kept = {k: r for k, r in found.records.items() if r["config"]["mask"] != "dynamic"}
    found = dataclasses.replace(found, records=kept)
    assert not found.lacks(plan.sparsity(PROFILE)), "the page stands with the random mask alone"
    answer = sparsity.beyond_sparsity(found)
    assert answer.seen == "not run"
    assert answer.ours.endswith("(random mask) and +2.00 [+2.00, +2.00] (SSAM-F); SSAM-D not run")
    assert "SSAM-D" not in sparsity.finding(found)
    last = sparsity.table(found).iloc[-1]
    assert last["mask"].item() == "SSAM-D: not run yet"
    assert last["SAM-ON minus it"].isna().all()
    (ax,) = sparsity.figure(found).axes
    assert not [row for row in ax.get_yticklabels() if "SSAM-D" in row.get_text()]


def test_the_table_is_on_the_seeds_both_have_and_under_either_rule(rewritten):
    table = sparsity.table(rewritten(levels()))
    assert len(table) == 1 + len(PROFILE.sparse)
    over = table["radius over"].tolist()
    ahead = table["SAM-ON minus it"]["mean"].tolist()
    expected = {"mask": 2.0, "all": 3.0}
    assert ahead[1:] == pytest.approx([expected[rule] for rule in over[1:]])
    assert ahead[0] == pytest.approx(1.0)
    assert set(table["SAM-ON minus it"]["where"]) == {PROFILE.where}


def test_what_a_random_mask_gets_of_sams_gain(rewritten):
    said = sparsity.finding(rewritten(levels()))
    assert "A random mask of SAM-ON's size gets 89 % [89, 89]" in said
    assert "radius rule" not in said, "it gains"
    idle = rewritten(lambda c: 80.0 if c["mask"] == "random" else levels()(c))
    assert "gets 0 % [0, 0] of SAM's gain. Its perturbation has" in sparsity.finding(idle)
    lost = rewritten(lambda c: 70.0 if c["geometry"] != "none" else 80.0)
    assert "of SAM's gain" not in sparsity.finding(lost), "SAM gains nothing"


def test_the_figure_has_a_row_per_method_and_the_rule_where_there_are_two(rewritten):
    (ax,) = sparsity.figure(rewritten(levels())).axes
    rows = [row.get_text() for row in ax.get_yticklabels()]
    assert rows[:3] == ["SGD", "SAM", "random mask, radius over the mask"]
    assert len(rows) == len({*rows}) == 2 + len(PROFILE.sparse)
    expected = [-10.0, -1.0, *({"mask": -2.0, "all": -3.0}[m.radius_over] for m in PROFILE.sparse)]
    for drawn, value in zip(ax.collections, expected, strict=True):
        behind = [x for x, _ in drawn.get_offsets()]
        assert behind == pytest.approx([value] * PROFILE.seeds)


def test_several_shares_are_an_axis(rewritten, monkeypatch):
    found = rewritten(levels())
    half = dataclasses.replace(PROFILE.sparse[0], sparsity=0.5)
    mixed = [half, *(cell.method for cell in sparsity.cells(found))]
    drawn = [dataclasses.replace(sparsity.cells(found)[0], method=method) for method in mixed]
    monkeypatch.setattr(sparsity, "cells", lambda results: drawn)
    monkeypatch.setattr(sparsity, "by_share", lambda results: "by share")
    assert sparsity.figure(found) == "by share"


def test_the_figure_by_share_shows_differences_on_the_same_seeds(rewritten):
    panels = sparsity.by_share(rewritten(levels())).axes
    assert [ax.get_title("left") for ax in panels] == list(sparsity.RULES.values())
    for ax, rule in zip(panels, sparsity.RULES, strict=True):
        drawn = [y for _, y in ax.collections[0].get_offsets()]
        own = [m for m in PROFILE.sparse if m.radius_over == rule]
        assert len(drawn) == PROFILE.seeds * len(own)
        assert drawn == pytest.approx([{"mask": -2.0, "all": -3.0}[rule]] * len(drawn))


def test_the_posters_numbers_stand_at_their_level_under_either_rule():
    for rule in ("mask", "all"):
        assert sparsity._reported(Method("l2", "fisher", rule, 0.5))[:2] == (83.94, 0.1)
        assert sparsity._reported(Method("l2", "random", rule))[:2] == (80.97, 0.2)
    assert sparsity._reported(Method("l2", "dynamic", "mask")) is None
