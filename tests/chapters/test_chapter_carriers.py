"""The chapter on who carries the perturbation, on made-up records whose numbers are known."""

import pytest
from made_up import with_accuracies

from samlib.chapters import carriers
from samlib.report import html

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


AS_PREDICTED = {"l2": 0.5, "elementwise_l2": 3.0, "elementwise_linf": 1.0, "layerwise_l2": 0.1}


def test_costs_and_shares_variant_by_variant(rewritten):
    table, comparisons = carriers.without_norm(rewritten(AS_PREDICTED))
    assert [round(c.mean, 6) for c in comparisons] == [0.5, 3.0, 1.0, 0.1]
    assert table["share on norm layers"]["percent"].tolist() == pytest.approx([2, 90, 30, 1])
    page = html.as_text(table)
    assert list(page["predicted share"]) == ["0.14 %", "98 %", "34 %", "0.06 %"]
    assert list(page["reported all − no norm"]) == ["+0.18", "+2.44", "+0.53", "+0.01"]


def test_the_prediction_is_about_the_order(rewritten):
    said = carriers.finding_prediction(rewritten(AS_PREDICTED))
    assert "The order of the shares is as predicted" in said
    assert "rank correlation of 1.0 with the shares" in said
    assert "(the authors' costs with the predicted shares: 1.0)" in said
    assert "of the four costs 4 are shown" in said
    turned = {g: -cost for g, cost in AS_PREDICTED.items()}
    said = carriers.finding_prediction(rewritten(turned, dict.fromkeys(SHARES, 0.5) | {"l2": 0.9}))
    assert "is not as predicted: SAM, " in said
    assert "of the four costs none is shown" in said


def test_the_claim_is_decided_where_the_effect_is_largest(rewritten):
    assert carriers.omitting_harms(rewritten(AS_PREDICTED)).verdict == "holds"
    only_others = AS_PREDICTED | {"elementwise_l2": -1.0}
    found = rewritten(only_others)
    assert carriers.omitting_harms(found).verdict == "refuted"
    said = carriers.finding(found)
    assert "and is better for ASAM elementwise ℓ₂" in said
    assert "where 90.0 % of the squared length falls on them" in said
