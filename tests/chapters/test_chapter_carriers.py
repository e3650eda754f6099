"""The chapter on who carries the perturbation, on made-up records whose numbers are known."""

import dataclasses

import pytest
from made_up import PROFILE, with_accuracies

from samlib.chapters import carriers
from samlib.report import cells
from samlib.study.methods import Method

SHARES = {"l2": 0.02, "elementwise_l2": 0.9, "elementwise_linf": 0.3, "layerwise_l2": 0.01}


@pytest.fixture
def rewritten(smoke):
    """A function that gives each variant a share and a cost of leaving norm layers out."""

    def rewrite(costs, shares=SHARES):
        def rule(config):
            return 90.0 - costs.get(config["geometry"], 0.0) * (config["mask"] == "no_norm")

        found = with_accuracies(smoke, rule)
        for record in found.records.values():
            if record["config"]["geometry"] in shares and record["config"]["mask"] == "all":
                share = shares[record["config"]["geometry"]]
                record["curves"] = record["curves"] | {"norm_share": [share]}
        return found

    return rewrite


AS_PREDICTED = {"l2": 0.5, "elementwise_l2": 3.0, "elementwise_linf": 1.0, "layerwise_l2": 0.3}


def test_costs_and_shares_variant_by_variant(rewritten):
    table = carriers.without_norm(rewritten(AS_PREDICTED))
    costs = table["all − no norm"]["mean"].tolist()
    assert costs == pytest.approx([0.5, 3.0, 1.0, 0.3])
    assert table["share on norm layers"]["percent"].tolist() == pytest.approx([2, 90, 30, 1])
    page = cells.as_text(table)
    assert list(page["predicted share"]) == ["0.14 %", "98 %", "34 %", "0.06 %"]
    assert list(page["reported all − no norm"]) == ["+0.18", "+2.44", "+0.53", "+0.01"]


def test_the_prediction_is_about_the_order(rewritten):
    said = carriers.finding_prediction(rewritten(AS_PREDICTED))
    assert "The order of the shares is as predicted" in said
    assert "rank correlation of 1.0 with the shares" in said
    assert "(the authors' costs with the predicted shares: 1.0)" in said
    assert "4 of the 4 costs are seen" in said
    turned = {g: -cost for g, cost in AS_PREDICTED.items()}
    said = carriers.finding_prediction(rewritten(turned, dict.fromkeys(SHARES, 0.5) | {"l2": 0.9}))
    assert "is not as predicted: SAM, " in said
    assert "None of the 4 costs is seen" in said


def test_the_claim_is_decided_where_the_effect_is_largest(rewritten):
    answer = carriers.omitting_harms(rewritten(AS_PREDICTED))
    assert answer.seen == "seen"
    assert answer.ours.endswith("ASAM elementwise ℓ₂ (90.0 % on them)")
    only_others = rewritten(AS_PREDICTED | {"elementwise_l2": -1.0})
    assert carriers.omitting_harms(only_others).seen == "reversed"
    assert "costs SAM, ASAM elementwise ℓ∞ and ASAM layerwise ℓ₂" in carriers.finding(only_others)


def test_without_elementwise_the_claim_is_decided_by_sam(rewritten):
    found = rewritten(AS_PREDICTED | {"l2": -1.0})
    rows = [r for r in PROFILE.grids if r.method != Method("elementwise_l2", "no_norm")]
    rows = [r for r in rows if r.method != Method("elementwise_linf", "no_norm")]
    profile = dataclasses.replace(PROFILE, grids=tuple(rows))
    answer = carriers.omitting_harms(dataclasses.replace(found, profile=profile))
    assert (answer.seen, answer.ours.split(", ")[-1]) == ("reversed", "SAM (2.0 % on them)")


def test_the_figure_shows_cost_against_share(rewritten):
    right = carriers.figure(rewritten(AS_PREDICTED)).axes[1]
    spots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in right.lines]
    assert any(spot == pytest.approx((90.0, 3.0)) for spot in spots), "ours"
    assert any(spot == pytest.approx((98.5, 2.44)) for spot in spots), "the authors'"
