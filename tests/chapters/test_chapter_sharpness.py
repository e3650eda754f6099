"""The sharpness chapter on made-up measurements whose numbers are known."""

import functools
import math
from dataclasses import replace

import pandas as pd
import pytest
from made_up import PROFILE, with_accuracies, with_measures

from samlib.chapters import sharpness
from samlib.errors import RecordsMissing
from samlib.measures.sharpness import SETTINGS
from samlib.report import html
from samlib.report.stats import REVERSED, SEEN
from samlib.study import plan
from samlib.study.cells import missing_measurements
from samlib.study.methods import ALL


def level(base, everything, on):
    """Sets the sharpness of each method, times rho for the perturbed ones."""

    def change(config, values):
        kind = {"none": base, "l2": everything if config["mask"] == "all" else on}
        value = kind[config["geometry"]] * (1 + config["seed"] / 100)
        for setting in values["settings"]:
            setting["value"] = value
        values["eigenvalue"] = 1000 * value * (config["rho"] or 1)

    return change


@pytest.fixture
def rewritten(smoke):
    """A function that changes every sharpness measurement."""
    return functools.partial(with_measures, smoke, "sharpness")


def test_the_ratio_is_paired_by_seed_and_put_in_words(rewritten):
    found = rewritten(level(base=0.02, everything=0.01, on=0.04))
    table = sharpness.differences(found)
    assert set(table["SAM-ON is"][table["SAM-ON over"] == "SGD"][:4]) == {"sharper"}
    factor = table["factor"]["factor"]
    assert factor[table["SAM-ON over"] == "SGD"][:4].tolist() == pytest.approx([2.0] * 4)
    assert factor[table["SAM-ON over"] == "SAM"][:4].tolist() == pytest.approx([4.0] * 4)
    assert sharpness.sharper(found).ours.startswith(
        "2.00 [2.00, 2.00] × SGD's (sharper) and 4.00 [4.00, 4.00] × SAM's"
    )


@pytest.mark.parametrize(("last", "told"), [(70.0, True), (90.0, False)])
def test_values_at_which_a_method_collapses_are_told_apart(smoke, monkeypatch, last, told):
    """Sharpness falls with rho, and rises where the network collapses."""
    rows = []
    for key in ("all", "only_norm"):
        along = zip((0.25, 0.5, 1.0, 2.0), (3.0, 2.0, 1.0, 9.0), (90.0, 90, 90, last), strict=True)
        rows += [(key, *values) for values in along]
    columns = ["key", "rho", "sharpness", "accuracy"]
    found = pd.DataFrame(rows, columns=columns)
    monkeypatch.setattr(sharpness, "everything", lambda results: found)
    monkeypatch.setattr(sharpness, "base_on_tuning_seeds", lambda results: 80.0)
    said = sharpness.finding(smoke)
    assert said.startswith("With SAM sharpness has a rank correlation of 0.20 with ρ")
    assert (", and of −1.00 where SAM-ON is no less accurate than SGD; most" in said) is told


def test_true_labels_are_a_setting_of_their_own(rewritten):
    def change(config, values):
        level(base=0.02, everything=0.01, on=0.04)(config, values)
        values["settings"][-1]["value"] *= {"none": 4, "l2": 1}[config["geometry"]]

    found = rewritten(change)
    assert sharpness.sharper(found).ours.startswith("2.00 [2.00, 2.00] × SGD's (sharper)")
    said = sharpness.finding_labels(found)
    assert "About 36 % of the training labels are wrong" in said
    assert "0.50 [0.50, 0.50] × SGD's (flatter) and 4.00 [4.00, 4.00] × SAM's" in said
    assert sum("true labels" in name for name in sharpness.others(found)["measure"]) == 1


def test_records_without_true_labels_say_so(rewritten):
    found = rewritten(lambda config, values: values["settings"].pop())
    assert "(not run)" in sharpness.finding_labels(found)


def test_flatter_than_the_base_optimizer_is_the_reverse(rewritten):
    found = rewritten(level(base=0.04, everything=0.01, on=0.02))
    answer = sharpness.sharper(found)
    assert answer.seen == REVERSED
    assert answer.ours.startswith(
        "0.50 [0.50, 0.50] × SGD's (flatter) and 2.00 [2.00, 2.00] × SAM's (sharper)"
    )


def test_sharper_than_both_is_seen(rewritten):
    assert sharpness.sharper(rewritten(level(base=0.02, everything=0.01, on=0.04))).seen == SEEN


def test_monotone_in_rho(rewritten):
    found = rewritten(level(base=0.02, everything=0.01, on=0.04))
    table = sharpness.monotone(found)
    steps = len(found.searched(found.cell(ALL))) - 1
    assert table["increases, eigenvalue"].to_numpy().tolist() == [[steps, steps]] * 2
    assert table["rank correlation, eigenvalue"].tolist() == pytest.approx([1.0] * 2)


def test_the_flattest_network_need_not_be_the_most_accurate(smoke):
    def flatter_with_rho(config, values):
        for setting in values["settings"]:
            setting["value"] = 1 / (1 + (config["rho"] or 0))

    low, high = sorted(smoke.searched(smoke.cell(ALL)))
    found = with_measures(smoke, "sharpness", flatter_with_rho)
    found = with_accuracies(found, lambda config: 90.0 if config["rho"] == low else 80.0)
    said = sharpness.finding(found)
    assert "With SAM sharpness has a rank correlation of −1.00 with ρ" in said
    assert f"most accurate is ρ = {low:.3g}, flattest {high:.3g}. With SAM-ON" in said


def test_what_is_not_finite_is_counted_not_dropped(rewritten):
    def lose_one(config, values):
        if config["seed"] == 0:
            values["settings"] = [s | {"value": None} for s in values["settings"]]
            values["eigenvalue"] = None

    found = rewritten(lose_one)
    assert set(sharpness.table(found)["SGD"]["not_finite"]) == {1}
    assert html.as_text(sharpness.table(found))["SGD"][0].endswith("± – (1 not finite)")
    assert sharpness.eigenvalues(found)["SAM"]["not_finite"].tolist() == [1]
    assert len(sharpness.everything(found)) == 2 + 2 * 2  # base's seeds, two values of two methods
    assert sharpness.differences(found)["seeds"].iloc[0] == 1


def test_a_run_that_diverged_is_counted_among_what_is_not_finite(smoke):
    none = {
        run_id: record | {"values": None} if record["config"]["seed"] == 0 else record
        for run_id, record in smoke.measures["sharpness"].items()
    }
    found = replace(smoke, measures=smoke.measures | {"sharpness": none})
    assert html.as_text(sharpness.table(found))["SAM"][0].endswith("(1 not finite)")
    assert sharpness.eigenvalues(found)["SGD"]["not_finite"].tolist() == [1]
    assert sharpness.differences(found)["seeds"].iloc[0] == 1
    assert sharpness.monotone(found)["values of ρ"].tolist() == [2, 2]


def test_the_posters_numbers_stand_beside_its_own_settings_only(smoke):
    table = html.as_text(sharpness.table(smoke), digits=3)
    table = table.set_index("setting")
    assert table["reported SAM-ON"]["20 steps, radius 0.003"] == "0.090"
    assert table["reported SGD"]["1 step, radius 0.03"] == "0.809"
    assert table["reported SAM"]["1 step, radius 0.03, to 0.75 of it"] == "–"
    assert len(table) == sum(s.mask == "all" and s.adaptive and s.p == math.inf for s in SETTINGS)


def test_without_measurements_it_is_not_run(smoke):
    found = replace(smoke, measures=smoke.measures | {"sharpness": {}})
    with pytest.raises(RecordsMissing, match=r"no sharpness .* has been measured"):
        sharpness.sharper(found)
    with pytest.raises(RecordsMissing, match="measurements are not in"):
        found.require(plan.sharpness(PROFILE))
    jobs = missing_measurements(plan.sharpness(PROFILE).measured, found.records, found.measures)
    wanted = {r.run_id for m in plan.sharpness(PROFILE).measured for r in m.runs(found.records)}
    assert {job.config.run_id for job in jobs} == wanted
    assert len(jobs) == len(wanted)
