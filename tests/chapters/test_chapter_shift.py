"""The chapter on gamma and beta, on made-up records whose numbers are known."""

import math
from dataclasses import replace

import pytest
from made_up import affine, numbers_of

from samlib.chapters import shift, verdicts

LAYERS = ("norm1", "layer1.0.norm1", "layer2.0.norm1")


@pytest.fixture
def rewritten(smoke):
    """A function that gives every run's gamma the mean a rule says, and its accuracy another's."""

    def rewrite(rule, accuracy=None):
        found = {}
        for run_id, record in smoke.records.items():
            config = record["config"]
            mean = rule(config) + 0.001 * config["seed"]
            layers = [affine(name, numbers_of(name)) for name in LAYERS]
            for number, layer in enumerate(layers):
                layer["gamma_abs_mean"] = mean + 0.1 * number
            measures = record["measures"] | {"gamma_abs_mean": mean, "affine": layers}
            found[run_id] = record | {"measures": measures}
            if accuracy is not None:
                found[run_id]["test_accuracy"] = accuracy(config) + 0.01 * config["seed"]
        return replace(smoke, records=found)

    return rewrite


def by_mask(base, everything, on):
    def rule(config):
        if config["geometry"] == "none":
            return base
        return everything if config["mask"] == "all" else on

    return rule


@pytest.mark.parametrize(
    ("on", "seen"), [(1.2, "seen"), (0.9, "reversed"), (1.005, "no difference")]
)
def test_the_claim_is_the_posters_contrast(rewritten, on, seen):
    answer = shift.larger_gamma(rewritten(by_mask(0.5, 1.0, on)))
    assert answer.seen == seen, "the base optimizer has no part in it"
    assert answer.ours.startswith(f"{on - 1:+.3f} [".replace("-", "−"))


def test_the_table_goes_layer_by_layer_in_forward_order(rewritten):
    table = shift.table(rewritten(by_mask(1.1, 1.0, 1.2))).set_index("layer")
    assert list(table.index) == ["all", "1.0.1", "2.0.1", "norm1"], "a WRN's own norm1 comes last"
    assert table["SGD"]["mean"]["1.0.1"] == pytest.approx(1.2005)
    assert table["SAM-ON − SAM"]["mean"]["norm1"] == pytest.approx(0.2)


@pytest.mark.parametrize(("aside", "seen"), [(0.0005, "no difference"), (0.001, "open")])
def test_gamma_has_a_margin_of_its_own(rewritten, aside, seen):
    """Of two seeds with +a and -a the interval is 0 ± 12.7 a; the margin is 0.01."""
    found = rewritten(lambda c: 1 + (c["mask"] == "only_norm") * aside * (1 - 2 * c["seed"]))
    assert shift.larger_gamma(found).seen == seen


def test_the_shift_without_weight_decay_is_told_by_itself(rewritten):
    def rule(config):
        return by_mask(1.1, 1.0, 1.2 if config["decayed"] == "all" else 0.9)(config)

    said = shift.finding(rewritten(rule))
    assert "Without weight decay on γ and β, SAM-ON − SAM is −0.100" in said


def accuracy(config):
    """Gains over the base optimizer of 10, with gamma fixed 4; SAM is 1 behind SAM-ON."""
    if config["geometry"] == "none":
        return 80.0
    gain = 4 if config["updated"] == "no_norm" else 10
    return 80.0 + gain - (config["mask"] == "all")


def test_controls_tell_the_gain_and_how_it_changes(rewritten):
    found = rewritten(by_mask(1.1, 1.0, 1.2), accuracy)
    table = shift.controls(found)
    ahead = table["SAM-ON minus it"]["mean"].dropna()
    assert ahead.tolist() == pytest.approx([10.0, 1.0, 4.0, 1.0, 10.0, 1.0])
    assert list(table["method"]) == ["SGD", "SAM", "SAM-ON"] * 3
    rows = table.set_index(["γ and β", "method"])
    gain = rows["SAM-ON minus it"].loc[("fixed at 1 and 0", "SGD")]
    assert gain[["mean", "low", "high"]].tolist() == pytest.approx([4.0] * 3)
    changes = rows["change on the same seeds"]["mean"]
    assert math.isnan(changes["trained, decayed", "SGD"])
    assert changes["fixed at 1 and 0", "SGD"] == pytest.approx(-6)
    assert changes["fixed at 1 and 0", "SAM"] == pytest.approx(0)
    assert rows["SAM-ON minus it"].xs("SAM-ON", level="method").isna().all(axis=None)
    said = shift.finding_controls(found)
    assert "the gain of SAM-ON over SGD survives: +4.00" in said
    assert "fixed γ and β change the gain by −6.00 [−6.00, −6.00] (a smaller gain)" in said
    assert "undecayed γ and β by +0.00 [+0.00, +0.00] (no difference)" in said


def test_a_gain_that_needs_trained_gamma_is_said_to_be_lost(rewritten):
    def lost(config):
        return 79.0 if config["updated"] == "no_norm" and config["rho"] else accuracy(config)

    said = shift.finding_controls(rewritten(by_mask(1.1, 1.0, 1.2), lost))
    assert "turns into a loss: −1.00" in said


def test_runs_without_gamma_leave_the_claim_unanswered(smoke):
    bare = {
        i: r | {"measures": r["measures"] | {"gamma_abs_mean": None, "affine": []}}
        for i, r in smoke.records.items()
    }
    found = replace(smoke, records=bare)
    assert verdicts.verdict("10", found).seen == "not run"


def test_the_figure_draws_each_layer_of_each_method(rewritten):
    axes = shift.figure(rewritten(by_mask(1.1, 1.0, 1.2))).axes
    per_layer = 3 * len(shift.HEADLINE)  # two bars and a median
    assert len(axes[0].lines) == len(axes[1].lines) == per_layer * len(LAYERS) + 1
    labels = [t.get_text() for t in axes[1].get_xticklabels()]
    assert labels == ["1.0.1", "2.0.1", "norm1"]


def test_the_shift_is_told_before_its_controls_are_run(rewritten):
    found = rewritten(by_mask(1.1, 1.0, 1.2), accuracy)
    plain = {
        run_id: record
        for run_id, record in found.records.items()
        if record["config"]["updated"] == record["config"]["decayed"] == "all"
    }
    left = replace(found, records=plain)
    assert shift.larger_gamma(left) == shift.larger_gamma(found)
    assert shift.finding(left) == shift.finding(found).split(" Without weight decay")[0]
    assert shift.finding_controls(left).startswith(
        "The controls are not run yet: `python -m samlib run"
    )
    assert shift.controls(left).empty
