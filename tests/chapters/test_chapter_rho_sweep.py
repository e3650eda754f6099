"""The chapter on rho, on made-up records whose numbers are known."""

import dataclasses
import math

import pytest
from made_up import PROFILE, with_accuracies

from samlib.chapters import rho_sweep
from samlib.report import paper
from samlib.report.formats import as_text
from samlib.study.methods import ALL, ON, SWEPT


def chosen(results, which):
    """Results in which validation chooses the smallest (0) or largest (-1) rho of a mask."""
    records = {}
    for run_id, record in results.records.items():
        mask, rho = record["config"]["mask"], record["config"]["rho"]
        score = 50 + (rho if which.get(mask, 0) == -1 else -rho)
        records[run_id] = record | {"validation_accuracy": score}
    return dataclasses.replace(results, records=records)


@pytest.fixture
def found(smoke):
    return with_accuracies(chosen(smoke, {"only_norm": -1}), lambda c: 80.0 + (c["rho"] > 0))


def test_the_ratio_is_that_of_the_chosen_values(found):
    on, everything = found.cell(ON).start[-1], found.cell(ALL).start[0]
    assert rho_sweep.ratio(found, "l2") == on / everything
    table = rho_sweep.rho_shift(found)
    assert table["ratio"].iloc[0] == on / everything
    assert len(table) == len(SWEPT)
    assert table["ρ only norm"]["at_edge"].all()


def test_the_claim_is_described_and_never_tested(found):
    answer = rho_sweep.larger(found)
    assert (answer.seen, answer.seeds) == ("described", len(PROFILE.tuning))
    assert answer.ours.startswith("8 × (SAM)")
    assert answer.comparisons == ()


def test_the_window_holds_what_is_above_the_base_optimizer(found):
    cell = found.cell(ALL)
    low, high = cell.start
    assert rho_sweep.window(found, cell) == {"from": low, "to": high}
    only_low = with_accuracies(found, lambda c: 80.5 if c["rho"] == low else 80.0 - c["rho"])
    assert rho_sweep.window(only_low, cell) == {"from": low, "to": low}
    nowhere = with_accuracies(found, lambda c: 80.0 - c["rho"])
    assert set(map(str, rho_sweep.window(nowhere, cell).values())) == {"nan"}


def test_a_window_holds_the_chosen_value_or_is_none(smoke):
    last = chosen(smoke, {"all": -1})
    low, high = last.cell(ALL).start
    below = with_accuracies(last, lambda c: 81.0 if c["rho"] == low else 80.0 - c["rho"])
    assert below.rho(below.cell(ALL)) == high
    assert math.isnan(rho_sweep.window(below, below.cell(ALL))["from"])
    assert as_text(rho_sweep.rho_shift(below))["window all"][0] == "none"


def test_without_the_base_optimizer_a_window_is_not_run(found):
    left = {
        i: r
        for i, r in found.records.items()
        if r["config"]["geometry"] != "none" or r["config"]["seed"] not in PROFILE.tuning
    }
    table = as_text(rho_sweep.rho_shift(dataclasses.replace(found, records=left)))
    assert set(table["window all"]) == set(table["window only norm"]) == {"not run"}


def test_the_base_optimizer_is_that_of_the_same_seeds(found):
    seeds = found.cell(ALL).tuning
    cell = found.cell(ALL)
    better = with_accuracies(found, lambda c: 90.0 if c["seed"] in seeds and not c["rho"] else 85.0)
    assert rho_sweep.base_on_tuning_seeds(better) == pytest.approx(90.0, abs=0.1)
    assert math.isnan(rho_sweep.window(better, cell)["from"]), "85 on seeds that are not these"
    gone = {i: r for i, r in found.records.items() if r["config"]["seed"] not in seeds}
    assert math.isnan(rho_sweep.base_on_tuning_seeds(dataclasses.replace(found, records=gone)))


def test_sam_is_shown_at_every_value_that_was_searched(found, monkeypatch):
    low, high = found.cell(ALL).start
    at = {("all", low): 88.0, ("all", high): 70.0}
    two = with_accuracies(found, lambda c: at.get((c["mask"], c["rho"]), 90.0))
    table = rho_sweep.is_it_rho(two)
    assert table["SAM at ρ"]["rho"].tolist() == [low, high]
    assert table["SAM-ON minus it"].tolist() == pytest.approx([2.0, 20.0])
    assert table["chosen"].tolist() == ["chosen", ""]
    said = rho_sweep.finding_is_it_rho(two)
    assert "SAM-ON minus SAM at the ρ chosen for SAM is +2.00 points" in said
    assert "literature" not in said, "its value was not tried"
    monkeypatch.setattr(paper, "SAM_RHO", high)
    said = rho_sweep.finding_is_it_rho(two)
    assert said.endswith(f"and minus SAM at the literature's ρ = {high:g} +20.00.")


def test_the_figure_has_a_point_per_tuning_run_and_rings_the_chosen(found):
    figure = rho_sweep.figure(found)
    assert len(figure.axes) == 2 * len(SWEPT)
    below = figure.axes[len(SWEPT)]
    drawn = below.collections[0].get_offsets()
    masks, values = 3, 2
    assert len(drawn) == masks * values * len(PROFILE.tuning)
    rings = [line for line in below.lines if line.get_markersize() == 12]
    assert len(rings) == masks


def test_variants_that_are_not_tuned_yet_are_left_out(found):
    plain = {
        r: kept for r, kept in found.records.items() if "elem" not in kept["config"]["geometry"]
    }
    left = dataclasses.replace(found, records=plain)
    assert rho_sweep.swept(left) == ["l2", "layerwise_l2"]
    assert rho_sweep.larger(left).ours.count("×") == 2
    assert len(rho_sweep.figure(left).axes) == 4
    nothing = dataclasses.replace(found, records={})
    assert rho_sweep.larger(nothing).seen == "not run"
