"""Results on records whose effects were planted: the protocol from runs to verdicts."""

import dataclasses
import functools
from pathlib import Path

import pytest
from made_up import made_up
from planted import planted

from samlib.chapters import introduction, law, sparsity, verdicts
from samlib.errors import RecordsMissing
from samlib.study import plan, profiles
from samlib.study.methods import ALL, BASE, DECAY, ON, SPARSE_MASKS, Method

PROFILE = profiles.get("cifar100-10k")
EFFECT = {"all": 1.0, "only_norm": 2.5, **dict.fromkeys(SPARSE_MASKS, 1.0)}
NULL = dict.fromkeys(EFFECT, 1.0)


@functools.cache
def world(*gains):
    return planted(PROFILE, dict(gains), folder=None, only=("introduction", "sparsity", "law"))


@pytest.fixture
def effect():
    return world(*EFFECT.items())


@pytest.fixture
def null():
    return world(*NULL.items())


def test_a_planted_lead_is_seen_where_it_was_planted(effect):
    assert verdicts.verdict("3", effect).seen == "seen"
    assert verdicts.verdict("3", effect).where == "on CIFAR-100, 10,000 images"
    assert sparsity.beyond_sparsity(effect).seen == "seen"
    lead = effect.compare(effect.cell(ON), effect.cell(ALL))
    assert lead.mean == pytest.approx(1.5, abs=0.4)


def test_a_planted_null_is_no_difference_or_open(null):
    assert introduction.best_against_best(null).seen == "no difference"
    assert sparsity.beyond_sparsity(null).seen in ("no difference", "open")


def test_the_share_of_sams_gain_is_that_of_the_mean_paired_gains(effect):
    """Whether its interval covers what was planted as often as it says is tested in test_stats."""
    base, everything, on = (effect.accuracies(effect.cell(m)) for m in (BASE, ALL, ON))
    share = effect.share(on)
    assert share.share == pytest.approx((on - base).mean() / (everything - base).mean())
    assert share.low < share.share < share.high


def test_no_seed_that_chose_rho_is_compared(effect):
    for method in (BASE, ALL, ON, Method("l2", "random")):
        seeds = effect.accuracies(effect.cell(method)).index
        assert seeds.min() == PROFILE.first_seed
        assert not {*seeds} & {*PROFILE.tuning}


def test_at_a_rho_that_is_given_the_tuning_seeds_are_read(effect):
    cell = effect.cell(ALL)
    for rho in effect.searched(cell):
        assert tuple(effect.accuracies(cell, rho).index) == PROFILE.tuning


def test_a_value_that_was_never_searched_is_missing_though_no_run_is(effect):
    found = dataclasses.replace(effect, folder=Path("results"))
    with pytest.raises(RecordsMissing, match="no run is missing"):
        found.accuracies(found.cell(ALL), 3.0)


def without(results, measure, run):
    left = {i: record for i, record in results.measures[measure].items() if i != run.run_id}
    return dataclasses.replace(results, measures=results.measures | {measure: left})


def test_what_is_measured_in_part_is_not_measured(smoke):
    cell = smoke.cell(ON)
    rho = smoke.rho(cell)
    compared, tuning = cell.at(rho)[0], cell.at(rho, cell.tuning)[0]
    with pytest.raises(RecordsMissing, match="not every sharpness of"):
        without(smoke, "sharpness", compared).measured(cell, "sharpness")
    other = without(smoke, "sharpness", tuning)
    assert {*other.measured(cell, "sharpness")} == {*cell.seeds}
    with pytest.raises(RecordsMissing, match="no sharpness of"):
        other.measured(cell, "sharpness", rho)


def test_as_many_seeds_are_asked_for_as_a_chapter_plans(smoke):
    cell = smoke.cell(ON)
    first, second = cell.at(smoke.rho(cell))
    assert {*smoke.measured(cell, "robustness_in_short")} == {first.seed}, "one network of each"
    some = {second.run_id: smoke.measures["robustness"][second.run_id]}
    found = dataclasses.replace(smoke, measures=smoke.measures | {"shifted_sets": some})
    assert {*found.measured(cell, "shifted_sets")} == {second.seed}, "no chapter plans it here"


def test_two_names_of_the_same_runs_are_one(smoke):
    base, decay, everything = (smoke.cell(method) for method in (BASE, DECAY, ALL))
    usual = dataclasses.replace(decay, start=(base.base.weight_decay,))
    assert list(smoke.named([base, usual, everything]).values()) == ["SGD", "SAM"]
    other = dataclasses.replace(decay, start=(0.0123,))
    records = {run.run_id: made_up(run) for run in other.at(0.0123)}
    found = dataclasses.replace(smoke, records=smoke.records | records)
    names = found.named([base, other, everything])
    assert list(names.values()) == ["SGD", "SGD, weight decay tuned", "SAM"]


def test_the_margin_is_the_plans(effect):
    assert effect.margin == 0.4
    assert effect.judge(effect.accuracies(effect.cell(ON)) * 0 + 0.3).seen == "no difference"


def test_the_search_finds_the_planted_optimum_within_a_step(effect):
    assert effect.rho(effect.cell(ALL)) == pytest.approx(0.2, rel=1.1)
    assert effect.rho(effect.cell(ON)) == pytest.approx(1.0, rel=1.1)


def test_the_law_is_read_from_the_planted_shares(effect):
    found = law.predictions(effect)[effect.cell(ON)]
    assert found.share == pytest.approx(0.04)
    assert found.rho == pytest.approx(5 * effect.rho(effect.cell(ALL)), rel=0.01)


def test_a_cell_whose_rho_no_record_tells_is_not_there(effect):
    """The law needs shares of the gradient, which runs that diverge at once do not have."""
    by_law = [cell for cell in plan.law(PROFILE).cells if cell.method.rho_from == "law"]
    assert effect.has(*by_law)
    without = {
        run_id: r | {"curves": r["curves"] | {"gradient_share": [None]}}
        for run_id, r in effect.records.items()
    }
    assert not dataclasses.replace(effect, records=without).has(by_law[0])
