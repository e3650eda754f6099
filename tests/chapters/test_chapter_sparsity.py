"""The sparsity chapter on made-up records whose numbers are known."""

import functools
import math
from dataclasses import replace

import pytest
from made_up import PROFILE, with_accuracies

from samlib.chapters import sparsity
from samlib.study.methods import ON, SPARSE_MASKS, Method


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


def test_what_sam_on_would_choose_with_the_masks_budget_is_said(rewritten):
    found = rewritten(levels())
    low, high = found.cell(ON).grid
    records = {
        i: r | {"validation_accuracy": 50.0 + 40 * (r["config"]["rho"] == low)}
        for i, r in found.records.items()
    }

    def said(*grid):
        grids = found.profile.grids | {ON.key: grid}
        profile = replace(found.profile, grids=grids)
        return sparsity.finding_budget(replace(found, records=records, profile=profile))

    assert said(low, high).endswith(f"SAM-ON's would be the same, {low:g}.")
    assert f"SAM-ON's would be {high:g} instead of {low:g}" in said(high)
    assert "would be" not in said(3 * high), "nothing was run there"


@pytest.mark.parametrize(("sparse", "verdict"), [(88.0, "holds"), (91.0, "refuted")])
def test_sam_on_must_beat_every_mask_of_its_sparsity(rewritten, sparse, verdict):
    found = rewritten(levels(sparse=sparse))
    assert sparsity.beyond_sparsity(found).verdict == verdict
    word = "better than" if verdict == "holds" else "worse than"
    assert f"SAM-ON is {word} random mask, SSAM-F and SSAM-D" in sparsity.finding(found)
    table = sparsity.table(found)[0]
    ahead = table["SAM-ON minus it"]["mean"][table["radius over"] == "mask"]
    assert ahead.tolist() == pytest.approx([90 - sparse] * len(PROFILE.sparse))
    assert len(table) == 1 + 2 * len(PROFILE.sparse)


@pytest.mark.parametrize(("scales", "verdict"), [(88.0, "holds"), (91.0, "refuted")])
def test_sam_on_must_beat_both_kinds_of_scales(rewritten, scales, verdict):
    found = rewritten(levels(scales=scales))
    assert sparsity.beyond_scales(found).verdict == verdict
    assert f"not to scales: {verdict}." in sparsity.finding_scales(found)


def test_one_kind_of_scales_that_does_as_well_refutes_the_claim(rewritten):
    def rule(config):
        return 90.0 if config["geometry"] == "input_scales" else levels()(config)

    found = rewritten(rule)
    assert [c.verdict for c in sparsity.scales(found)[1]] == ["holds", "equivalent"]
    assert sparsity.beyond_scales(found).verdict == "refuted"
    assert "equivalent to input-channel scales" in sparsity.finding_scales(found)


def test_gamma_and_beta_are_compared_each_against_each(rewritten):
    alone = {"only_gamma": 88.0, "only_beta": 91.0}
    found = rewritten(lambda c: alone.get(c["mask"]) or levels()(c))
    table, comparisons = sparsity.parts(found)
    assert [round(c.mean, 6) for c in comparisons] == [2.0, -1.0, 1.0, 1.0, 1.0, 1.0, -3.0]
    pairs = list(zip(table["perturbed"], table["minus"], strict=True))
    assert pairs[:2] == [("SAM-ON", "γ only"), ("SAM-ON", "β only")]
    assert pairs[5:] == [("SAM-ON", "SAM-ON, stages 2 and 3"), ("γ only", "β only")]
    assert table["its accuracy"]["mean"][:2].tolist() == pytest.approx([88, 91], abs=0.1)
    said = sparsity.finding_parts(found)
    assert "SAM-ON is better than γ only (+2.00 [+2.00, +2.00]) and worse than β only" in said
    assert "γ only is worse than β only (−3.00" in said


def test_fixed_methods_are_compared_with_fixed_methods(rewritten):
    found = rewritten(lambda c: levels(scales=84.0)(c) - 5 * (c["updated"] == "no_norm"))
    table, comparisons = sparsity.fixed(found)
    assert [round(c.mean, 6) for c in comparisons] == [9.0, 10.0, 4.0, 4.0]
    assert table["accuracy"]["mean"][1] == pytest.approx(85, abs=0.1)
    ahead = table["SAM-ON minus it"]["mean"].tolist()
    assert ahead == pytest.approx([1, math.nan, 6, 6], nan_ok=True)
    assert "better than output-channel scales (+6.00" in sparsity.finding_fixed(found)


def test_the_numbers_moved_are_told(rewritten):
    said = sparsity.finding_moved(rewritten(levels()))
    assert "Of 336 output scales 112 are in front of batch norm. The other 224 move" in said
    assert "289 input scales, beside 240 γ and as many β" in said


def test_the_figures_show_differences_on_the_same_seeds(rewritten):
    found = rewritten(levels())
    panels = sparsity.figure(found).axes
    for ax, expected in zip(panels, (-2.0, -3.0), strict=True):
        drawn = [y for _, y in ax.collections[0].get_offsets()]
        assert drawn == pytest.approx([expected] * len(drawn))
        assert len(drawn) == PROFILE.seeds * len(PROFILE.sparse)
    scatter = sparsity.figure_scales(found).axes[0].collections
    assert [c.get_offsets()[0][0] for c in scatter][-2:] == pytest.approx([-2.0, -2.0])


def test_the_posters_numbers_stand_at_their_level_under_either_rule():
    for rule in ("mask", "all"):
        assert sparsity._reported(Method("l2", "fisher", rule, 0.5))[:2] == (83.94, 0.1)
        assert sparsity._reported(Method("l2", "random", rule))[:2] == (80.97, 0.2)
    assert sparsity._reported(Method("l2", "dynamic", "mask")) is None
