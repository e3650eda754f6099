"""The chapter on gamma and beta, on made-up records whose numbers are known."""

import pytest
from made_up import PROFILE, affine, made_up_results, numbers_of

from samlib import records
from samlib.campaign import place
from samlib.chapters import shift
from samlib.results import load
from samlib.study import ALL, BASE, ON

LAYERS = ("norm1", "layer1.0.norm1", "layer2.0.norm1")


@pytest.fixture
def rewritten(tmp_path):
    """A function that gives every run's gamma the mean a rule says, then reads them all."""
    folder = made_up_results(tmp_path)

    def rewrite(rule):
        runs = place(folder, PROFILE.name).runs
        for record in records.read(runs).values():
            config = record["config"]
            mean = rule(config) + 0.001 * config["seed"]
            layers = [affine(name, numbers_of(name)) for name in LAYERS]
            for number, layer in enumerate(layers):
                layer["gamma_abs_mean"] = mean + 0.1 * number
            record["measures"] |= {"gamma_abs_mean": mean, "affine": layers}
            kept = {k: v for k, v in record.items() if k not in ("format", "checksum")}
            records.write(runs, kept)
        return load(PROFILE.name, folder)

    return rewrite


def by_mask(base, everything, on):
    def rule(config):
        if config["geometry"] == "none":
            return base
        return everything if config["mask"] == "all" else on

    return rule


@pytest.mark.parametrize(("on", "verdict"), [(1.2, "holds"), (0.9, "refuted")])
def test_the_claim_is_about_the_networks_mean(rewritten, on, verdict):
    found = rewritten(by_mask(1.1, 1.0, on))
    answer = shift.larger_gamma(found)
    assert answer.verdict == verdict
    assert answer.ours.startswith("+0.200 [" if on > 1 else "−0.100 [")
    word = "larger" if on > 1 else "smaller"
    assert f"is {word} with SAM-ON than with SAM: {on:.3f}"[:-1] in shift.finding(found)


def test_the_table_goes_layer_by_layer_in_forward_order(rewritten):
    table = shift.table(rewritten(by_mask(1.1, 1.0, 1.2)))[0].set_index("layer")
    assert list(table.index) == ["all", *LAYERS[1:], LAYERS[0]], "a WRN's own norm1 comes last"
    assert table["SGD"]["layer1.0.norm1"].startswith("1.20")
    assert table["SAM-ON − SGD"]["all"].startswith("+0.100")
    assert table["SAM-ON − SAM"]["norm1"].startswith("+0.200")


def test_a_shift_within_a_hundredth_is_no_shift(rewritten):
    found = rewritten(lambda c: 1 + (c["mask"] == "only_norm") * (0.002 - 0.004 * c["seed"]))
    assert shift.larger_gamma(found).verdict in ("equivalent", "undecided")


def test_controls_compare_methods_under_the_same_control(rewritten):
    found = rewritten(by_mask(1.1, 1.0, 1.2))
    table, comparisons = shift.controls(found)
    for comparison, changes in zip(comparisons, shift.CONTROLS.values(), strict=True):
        on, everything = (found.cell(m.but(**changes)) for m in (ON, ALL))
        assert comparison.mean == found.compare(on, everything).mean
    assert list(table["γ and β"]) == list(shift.CONTROLS)
    fixed = found.accuracies(found.cell(BASE.but(**shift.plan.FIXED))).mean()
    assert table["base"][1].startswith(f"{fixed:.2f}")
    assert "the gain of SAM-ON" in shift.finding_controls(found)


def test_the_figure_draws_each_layer_of_each_method(rewritten):
    axes = shift.figure(rewritten(by_mask(1.1, 1.0, 1.2))).axes
    per_layer = 3 * len(shift.HEADLINE)  # two bars and a median
    assert len(axes[0].lines) == len(axes[1].lines) == per_layer * len(LAYERS) + 1
    labels = [t.get_text() for t in axes[1].get_xticklabels()]
    assert labels == ["1.0.1", "2.0.1", "norm1"]
