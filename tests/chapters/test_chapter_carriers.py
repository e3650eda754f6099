"""The chapter on who carries the perturbation, on made-up records whose numbers are known."""

from dataclasses import replace

import pytest
from made_up import with_accuracies

from samlib.chapters import carriers
from samlib.report import html
from samlib.report.stats import REVERSED, SEEN

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


AS_PREDICTED = {"l2": 0.5, "elementwise_l2": 3.0}  # the two that are run without norm layers


def test_costs_and_shares_variant_by_variant(rewritten):
    found = rewritten(AS_PREDICTED)
    costs = carriers.costs(found)
    assert {g: round(c.mean, 6) for g, c in costs.items()} == AS_PREDICTED
    table = carriers.without_norm(found)
    assert table["share on norm layers"]["percent"].tolist() == pytest.approx([2, 90])
    page = html.as_text(table)
    assert list(page["predicted share"]) == ["0.14 %", "98 %"]
    assert list(page["reported all − no norm"]) == ["+0.18", "+2.44"]


def test_the_prediction_is_about_the_order_of_the_shares(rewritten):
    said = carriers.finding_prediction(rewritten(AS_PREDICTED))
    assert said.startswith("The order of the shares is as predicted: ASAM elementwise ℓ₂, ")
    turned = dict.fromkeys(SHARES, 0.5) | {"l2": 0.9}
    said = carriers.finding_prediction(rewritten(AS_PREDICTED, turned))
    assert said.startswith("The order of the shares is not as predicted: SAM, ")


def test_with_all_four_variants_costs_are_ranked_beside_shares(rewritten, monkeypatch):
    found = rewritten(AS_PREDICTED)
    costs = carriers.costs(found)
    four = {g: costs["l2" if SHARES[g] < 0.1 else "elementwise_l2"] for g in SHARES}
    monkeypatch.setattr(carriers, "costs", lambda results: four)
    said = carriers.finding_prediction(found)
    assert "(the authors' costs with the predicted shares: 1.0)" in said
    assert said.endswith("4 of the 4 costs are seen.")


def test_the_claim_is_decided_where_the_effect_is_largest(rewritten):
    answer = carriers.omitting_harms(rewritten(AS_PREDICTED))
    assert answer.seen == SEEN
    assert answer.ours.endswith("ASAM elementwise ℓ₂ (90.0 % on them)")
    found = rewritten(AS_PREDICTED | {"elementwise_l2": -1.0})
    assert carriers.omitting_harms(found).seen == REVERSED
    assert carriers.finding(found) == ("Leaving the normalization layers out costs SAM accuracy.")


def test_another_variant_does_not_stand_in_for_the_one_that_decides(rewritten):
    found = rewritten(AS_PREDICTED)
    gone = {
        run_id
        for run_id, record in found.records.items()
        if (record["config"]["geometry"], record["config"]["mask"]) == ("elementwise_l2", "no_norm")
    }
    left = replace(found, records={r: kept for r, kept in found.records.items() if r not in gone})
    assert list(carriers.costs(left)) == ["l2"]
    assert carriers.omitting_harms(left).seen == "not run"
    assert len(carriers.without_norm(left)) == 1
    assert carriers.finding(left) == "Leaving the normalization layers out costs SAM accuracy."


def test_one_variant_has_no_order(monkeypatch, smoke):
    monkeypatch.setattr(carriers, "shares", lambda results: {"l2": 1.0})
    assert (
        carriers.finding_prediction(smoke)
        == "Fewer than two variants have a share, so that no order can be checked."
    )
