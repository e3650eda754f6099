"""The sparsity chapter on made-up records whose numbers are known."""

import pytest
from made_up import PROFILE, made_up_results

from samlib import plan, records
from samlib.campaign import place
from samlib.chapters import sparsity
from samlib.results import load
from samlib.study import ON, SCALES, SPARSE_MASKS, Method


@pytest.fixture
def rewritten(tmp_path):
    """A function that gives every run the test accuracy a rule says, then reads them all."""
    folder = made_up_results(tmp_path)

    def rewrite(rule):
        runs = place(folder, PROFILE.name).runs
        for record in records.read(runs).values():
            record["test_accuracy"] = rule(record["config"]) + 0.01 * record["config"]["seed"]
            kept = {k: v for k, v in record.items() if k not in ("format", "checksum")}
            records.write(runs, kept)
        return load(PROFILE.name, folder)

    return rewrite


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


@pytest.mark.parametrize(("sparse", "verdict"), [(88.0, "holds"), (91.0, "refuted")])
def test_sam_on_must_beat_every_mask_of_its_sparsity(rewritten, sparse, verdict):
    found = rewritten(levels(sparse=sparse))
    assert sparsity.beyond_sparsity(found).verdict == verdict
    word = "better than" if verdict == "holds" else "worse than"
    assert f"SAM-ON is {word} random mask, SSAM-F and SSAM-D" in sparsity.finding(found)
    table = sparsity.table(found)[0]
    over_mask = table[table["radius over"] == "mask"]
    assert set(over_mask["SAM-ON minus it"].str.split(" ").str[0]) == {
        f"{90 - sparse:+.2f}".replace("-", "−")
    }
    assert len(table) == 1 + 2 * len(PROFILE.sparse)


@pytest.mark.parametrize(("scales", "verdict"), [(88.0, "holds"), (91.0, "refuted")])
def test_sam_on_must_beat_both_kinds_of_scales(rewritten, scales, verdict):
    found = rewritten(levels(scales=scales))
    assert sparsity.beyond_scales(found).verdict == verdict
    assert f"not to scales: {verdict}." in sparsity.finding_scales(found)


def test_fixed_methods_are_compared_with_the_fixed_base_optimizer(rewritten):
    found = rewritten(lambda c: levels()(c) - 5 * (c["updated"] == "no_norm"))
    table, comparisons = sparsity.fixed(found)
    assert [round(c.mean, 6) for c in comparisons] == [9.0, 10.0, 8.0, 8.0]
    assert table["accuracy"][1] == "85.00 ± 0.01" or table["accuracy"][1].startswith("85.0")


def test_how_many_numbers_are_moved(rewritten):
    found = rewritten(levels())
    assert sparsity.moved(found, ON) == 480
    assert [sparsity.moved(found, method) for method in plan.PARTS] == [240, 240]
    # stem 16, two convolutions in each stage, two shortcuts; then inputs, the head's 64 among them
    outputs = 16 + 2 * (16 + 32 + 64) + 32 + 64
    inputs = 1 + (16 + 16) + (16 + 32 + 16) + (32 + 64 + 32) + 64
    assert [sparsity.moved(found, method) for method in SCALES] == [outputs, inputs]


def test_the_figures_show_differences_on_the_same_seeds(rewritten):
    found = rewritten(levels())
    panels = sparsity.figure(found).axes
    for ax, expected in zip(panels, (-2.0, -3.0), strict=True):
        drawn = [y for c in ax.collections for _, y in c.get_offsets()]
        assert drawn == pytest.approx([expected] * len(drawn))
        assert len(drawn) == PROFILE.seeds * len(PROFILE.sparse)
    scatter = sparsity.figure_scales(found).axes[0].collections
    assert [c.get_offsets()[0][0] for c in scatter][-2:] == pytest.approx([-2.0, -2.0])


def test_the_posters_numbers_stand_at_their_level_under_either_rule():
    for rule in ("mask", "all"):
        assert sparsity._reported(Method("l2", "fisher", rule, 0.5)) == "83.94 ± 0.1"
        assert sparsity._reported(Method("l2", "random", rule)) == "80.97 ± 0.2"
    assert sparsity._reported(Method("l2", "dynamic", "mask")) == "not sourced"
