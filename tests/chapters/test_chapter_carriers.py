"""The chapter on who carries the perturbation, on made-up records whose numbers are known."""

import pytest
from made_up import PROFILE, made_up_results

from samlib.chapters import carriers
from samlib.records import store
from samlib.records.results_folder import committed
from samlib.report.results import load

SHARES = {"l2": 0.02, "elementwise_l2": 0.9, "elementwise_linf": 0.3, "layerwise_l2": 0.01}


@pytest.fixture
def rewritten(tmp_path):
    """A function that gives each variant a share and a cost of leaving norm layers out."""
    folder = made_up_results(tmp_path)

    def rewrite(costs, shares=SHARES):
        runs = committed(folder, PROFILE.name).runs
        for record in store.read(runs).values():
            config = record["config"]
            lost = costs.get(config["geometry"], 0.0) * (config["mask"] == "no_norm")
            record["test_accuracy"] = 90.0 - lost + 0.01 * config["seed"]
            if config["geometry"] in shares and config["mask"] == "all":
                epochs = len(record["curves"]["norm_share"])
                record["curves"]["norm_share"] = [shares[config["geometry"]]] * epochs
            kept = {k: v for k, v in record.items() if k not in ("format", "checksum")}
            store.write(runs, kept)
        return load(PROFILE.name, folder)

    return rewrite


AS_PREDICTED = {"l2": 0.5, "elementwise_l2": 3.0, "elementwise_linf": 1.0, "layerwise_l2": 0.1}


def test_costs_and_shares_variant_by_variant(rewritten):
    table, comparisons = carriers.without_norm(rewritten(AS_PREDICTED))
    assert [round(c.mean, 6) for c in comparisons] == [0.5, 3.0, 1.0, 0.1]
    assert list(table["share on norm layers"]) == ["2.0 %", "90.0 %", "30.0 %", "1.0 %"]
    assert list(table["predicted share"]) == ["0.14 %", "98 %", "34 %", "0.06 %"]
    assert list(table["reported all − no norm"]) == ["+0.18", "+2.44", "+0.53", "+0.01"]


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
