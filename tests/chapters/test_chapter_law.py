"""The law: predictions with known answers, and their test forward."""

import dataclasses
import math

import pytest
from made_up import PROFILE, with_accuracies

from samlib.chapters import law
from samlib.report.counting import whole_tensors
from samlib.report.law import Prediction, prediction
from samlib.report.stats import compare
from samlib.study.methods import ALL, ON, Method
from samlib.study.profile import MARGIN

BASE = PROFILE.bases["wrn"]
NORMS = whole_tensors(BASE, ON)
SHARE = 0.04


def with_shares(results, shares):
    """Every run that perturbs everything has these shares of ||T g||^2 by tensor."""
    records = {
        i: r | {"measures": r["measures"] | {"tensor_shares": shares}}
        if r["config"]["mask"] == "all" and r["config"]["geometry"] != "none"
        else r
        for i, r in results.records.items()
    }
    return dataclasses.replace(results, records=records)


@pytest.fixture
def found(smoke):
    names = whole_tensors(BASE, ALL)
    rest = (1 - SHARE) / (len(names) - len(NORMS))
    shares = {name: SHARE / len(NORMS) if name in NORMS else rest for name in names}
    return with_shares(smoke, shares)


def test_a_mask_of_whole_tensors_has_the_sum_of_their_shares(found):
    rho = found.rho(found.cell(ALL))
    assert prediction(found, ON).share == pytest.approx(SHARE)
    assert prediction(found, ON).rho == pytest.approx(5 * rho, rel=0.01)
    gamma = prediction(found, Method("l2", "only_gamma"))
    assert gamma.share == pytest.approx(SHARE / 2)
    assert gamma.rho == pytest.approx(rho / math.sqrt(SHARE / 2), rel=0.01)
    rest = prediction(found, Method("l2", "no_norm"))
    assert rest.share == pytest.approx(1 - SHARE)


def test_a_random_mask_has_the_share_of_its_coordinates(found):
    rho, count = found.rho(found.cell(ALL)), 480 / 77_562
    over_mask = prediction(found, Method("l2", "random"))
    assert over_mask.share == pytest.approx(count)
    assert over_mask.rho == pytest.approx(rho / math.sqrt(count), rel=0.01)
    over_all = prediction(found, Method("l2", "random", "all"))
    assert over_all.rho == pytest.approx(rho / count), "its step is shorter by the root once more"


def test_where_the_law_says_nothing(found):
    for method in (
        ALL,
        Method("elementwise_linf", "only_norm"),
        Method("l2", "fisher"),
        Method("l2", "dynamic"),
        Method("output_scales", "convolutions"),
    ):
        assert prediction(found, method) is None, method


def test_without_shares_nothing_is_predicted(smoke):
    assert prediction(with_shares(smoke, {}), ON) is None, "of runs that diverged at once"


def test_the_error_is_in_octaves():
    assert Prediction(0.04, 0.5).octaves(2.0) == 2.0
    assert Prediction(0.04, 0.5).octaves(0.25) == -1.0


def test_the_table_has_every_mask_with_a_prediction(found):
    table = law.table(found)
    names = table["mask"].tolist()
    assert names[0] == "SAM-ON"
    assert "random mask, radius over all" in names
    assert not any("ℓ∞" in name or "SSAM" in name for name in names)
    both = table["ρ chosen"]["rho"] / table["ρ by the law"]["rho"]
    assert table["log₂(chosen / predicted)"].tolist() == pytest.approx(
        [math.log2(ratio) for ratio in both], abs=0.02
    )
    assert f"of {len(table)} masks is within" in law.finding(found)
    assert len(law.figure(found).axes[0].texts) == len(table)


def test_a_mask_that_cannot_contradict_the_law_does_not_test_it(found):
    """One with most of the gradient has SAM's rho anyway; one that gains nothing has no best."""
    gain = {"only_norm": 10.0, "no_norm": 10.0}
    some = with_accuracies(found, lambda c: 80.0 + gain.get(c["mask"], 0.0))
    assert "the law is tested by SAM-ON" in law.finding(some)
    assert "no norm" not in law.finding(some)
    none = with_accuracies(found, lambda c: 80.0)
    assert law.finding(none).endswith("the law is tested by no mask.")


@pytest.mark.parametrize(
    ("differences", "seen"),
    [
        (([0.01, 0.02, 0.01], [0.0, 0.01, 0.02]), "seen"),
        (([0.01, 0.02, 0.01], [-1.0, 0.1, 1.1]), "open"),
        (([0.01, 0.02, 0.01], [1.0, 1.02, 1.01]), "reversed"),  # better is not the same either
        (([0.6, 0.9, 1.2], [-1.0, 0.1, 1.1]), "open"),  # 0.036 by itself, 0.07 of two
    ],
)
def test_the_law_asks_for_no_difference_of_each(differences, seen):
    assert law._word([compare(values, MARGIN) for values in differences]) == seen


@pytest.mark.parametrize(("lost", "seen"), [(0.05, "seen"), (1.0, "reversed"), (-1.0, "reversed")])
def test_the_law_is_tested_forward(found, lost, seen):
    untuned = {
        run.run_id for cell, _ in law.forward(found).values() for run in cell.at(found.rho(cell))
    }
    level = with_accuracies(found, lambda config: 90.0)
    records = {
        i: r | {"test_accuracy": r["test_accuracy"] - lost * (i in untuned)}
        for i, r in level.records.items()
    }
    changed = dataclasses.replace(level, records=records)
    answer = law.untuned_is_enough(changed)
    assert answer.seen == seen
    assert law.opening(changed)["seen"] == seen
    assert law.forward_table(changed)["perturbed"].tolist() == ["SAM-ON", "random mask"]


def test_a_variant_whose_full_mask_is_not_tuned_yet_has_no_prediction(found):
    whole = found.cell(Method("elementwise_l2", "all"))
    gone = {run.run_id for run in whole.tuning_runs(found.records)}
    before = set(law.table(found)["mask"])
    left = {run_id: r for run_id, r in found.records.items() if run_id not in gone}
    fewer = set(law.table(dataclasses.replace(found, records=left))["mask"])
    assert fewer < before
    assert all("elementwise" in name for name in before - fewer)
