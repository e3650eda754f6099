"""The family on shifted images, on made-up measurements whose order is known."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up import PROFILE, with_accuracies, with_measures
from planted import planted, rng_of

from samlib.chapters import robust_family
from samlib.chapters.robust_family import MEASURE, agreement
from samlib.report import formats
from samlib.report.stats import NOT_RUN, OPEN, REVERSED, SEEN
from samlib.study import members, plan, profiles
from samlib.study.methods import HEADLINE
from samlib.trainer.config import RunConfig


def level(config):
    """Clean accuracy by member and mask: MSAM above SAM above USAM, only norm two points higher."""
    place = {"sam": 10, "msam": 20}.get(config["member"], 0)
    return 60.0 + place + 2 * (config["mask"] == "only_norm") - 40 * (config["geometry"] == "none")


def shifted(results, corrupted, attacked, apart=0):
    """Clean accuracies by `level`, the others as rules make them of the clean one and the mask.

    On the images that are attacked only norm is `apart` lower, clean.
    """

    def change(config, values):
        clean, on = level(config), config["mask"] == "only_norm"
        values |= {"clean": clean, "corrupted": corrupted(clean, on)}
        values["attacked_clean"] = clean - apart * on
        for number, attack in enumerate(values["attacks"]):
            attack["accuracy"] = attacked(clean, on) + number  # the mean is 1.5 higher

    return with_accuracies(with_measures(results, MEASURE, change), level)


def test_only_norm_on_shifted_images_beyond_clean_ones(smoke):
    rules = (lambda clean, on: clean - 20 + 3 * on, lambda clean, on: clean / 2)
    found = shifted(smoke, *rules, apart=5)
    table = robust_family.table(found).set_index(("member", ""))
    assert table.index.tolist() == ["SAM", "MSAM", "USAM"]
    assert table["clean, all", ""].tolist() == [70, 80, 60]
    assert table["corrupted, only norm", ""].tolist() == [55, 65, 45]
    assert table["attacked, all", ""].tolist() == [36.5, 41.5, 31.5]
    assert table["corrupted, more than clean", ""].tolist() == [3, 3, 3]
    assert table["attacked, more than clean", ""].tolist() == [4, 4, 4], "1 and not −3"
    assert table["seeds", ""].tolist() == [plan.RANKED_SEEDS] * 3
    shown = formats.as_text(robust_family.table(found))
    assert shown["attacked, more than clean"].tolist() == ["+4.00"] * 3


def test_attacked_accuracy_is_ranked_against_the_clean_one_of_the_same_images(smoke):
    rules = (lambda clean, on: clean, lambda clean, on: clean - 5 * on)
    assert robust_family.rankings(shifted(smoke, *rules, apart=5))["attacked"].agreement.mean == 1
    assert robust_family.rankings(shifted(smoke, *rules))["attacked"].agreement.mean < 1


def test_a_network_that_diverged_has_no_place_and_no_gain(smoke):
    found = shifted(smoke, lambda clean, on: clean - 20, lambda clean, on: clean / 2)
    none = {
        run_id: record | {"values": None} if record["config"]["member"] == "msam" else record
        for run_id, record in found.measures[MEASURE].items()
    }
    lost = replace(found, measures=found.measures | {MEASURE: none})
    table = robust_family.table(lost).set_index(("member", ""))
    assert table.loc["MSAM", ("seeds", "")] == 0
    assert table.loc["MSAM"].isna().sum() == len(table.columns) - 1
    assert table.loc["USAM", ("corrupted, more than clean", "")] == 0
    assert robust_family.rankings(lost)["corrupted"].agreement.seeds == 5


def test_every_network_is_ranked_and_the_hypothesis_decided(smoke):
    found = shifted(smoke, lambda clean, on: clean - 20, lambda clean, on: 100 - clean)
    (corrupted, control), (attacked, _) = robust_family.rankings(found).values()
    assert (corrupted.mean, corrupted.seen) == (1, SEEN)
    assert (attacked.mean, attacked.seen) == (-1, REVERSED)
    assert control == 1
    assert corrupted.seeds == 7  # the base optimizer, and three methods under two masks
    table = robust_family.rank_table(found)
    assert table["Kendall's tau with clean", "where"].tolist() == [PROFILE.where] * 2
    assert "Over 7 networks" in robust_family.finding(found)
    assert robust_family.opening(found)["seen"] == robust_family.verdict(found)
    assert "that on corrupted images is 1.00 [1.00, 1.00] (seen)" in robust_family.finding(found)
    assert "too few" not in robust_family.finding(found)


def test_images_that_cannot_rank_the_networks_clean_refute_nothing(smoke):
    """On all test images the order is another one than on those few that are shifted."""
    found = shifted(smoke, lambda clean, on: clean - 20, lambda clean, on: 100 - clean)
    found = with_accuracies(found, lambda config: -level(config))
    (corrupted, control), (attacked, _) = robust_family.rankings(found).values()
    assert control == -1
    assert (attacked.mean, attacked.seen) == (-1, OPEN)
    assert corrupted.seen == SEEN, "an agreement stands"
    said = "too few to refute it: even clean, tau of the accuracy on them"
    assert (
        f"{said} with that on all test images is −1.00 for those attacked."
        in (robust_family.opening(found)["sees"])
    )
    assert said in robust_family.finding(found)


def test_two_names_of_one_network_have_one_place(smoke, monkeypatch):
    known = robust_family._networks(smoke)
    twice = known | {"another name": known["SAM, all"]}
    monkeypatch.setattr(robust_family, "_networks", lambda results: twice)
    assert {r.agreement.seeds for r in robust_family.rankings(smoke).values()} == {len(known)}


def test_kendalls_tau_by_hand():
    x = pd.Series(range(8), dtype=float)
    y = x.copy()
    y[[0, 1]] = y[[1, 0]].to_numpy()  # one of 28 pairs is the wrong way round
    found = agreement(x, y)
    assert found.mean == pytest.approx(26 / 28)
    half = 1.959964 * math.sqrt(0.437 / 4)
    z = 0.5 * math.log((1 + 26 / 28) / (1 - 26 / 28))
    low, high = ((math.exp(2 * v) - 1) / (math.exp(2 * v) + 1) for v in (z - half, z + half))
    assert [found.low, found.high] == pytest.approx([low, high])
    assert found.seen == SEEN
    assert low > 0.7


def test_between_and_below_the_bound():
    draw = np.random.default_rng(0)
    x = pd.Series(draw.normal(size=60))
    assert agreement(x, pd.Series(draw.normal(size=60))).seen == REVERSED
    near = agreement(x, x + pd.Series(draw.normal(scale=0.4, size=60)))
    assert near.low < 0.7 < near.high
    assert near.seen == OPEN


def test_few_or_equal_networks_decide_nothing():
    few = agreement(pd.Series([1.0, 2.0, 3.0, 4.0]), pd.Series([1.0, 2.0, 3.0, 4.0]))
    assert (few.seen, math.isnan(few.low)) == (OPEN, True)
    assert agreement(pd.Series([1.0] * 6), pd.Series(range(6))).seen == OPEN


def test_what_is_not_measured_is_no_row(smoke):
    found = replace(smoke, measures=smoke.measures | {MEASURE: {}})
    assert robust_family.table(found).empty
    assert robust_family.rank_table(found).empty
    assert "not been measured" in robust_family.finding(found)
    assert robust_family.verdict(found) == NOT_RUN


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ((SEEN, SEEN), SEEN),
        ((SEEN, OPEN), OPEN),
        ((OPEN, OPEN), OPEN),
        ((SEEN, REVERSED), REVERSED),
        ((REVERSED, OPEN), REVERSED),
    ],
)
def test_the_hypothesis_is_about_both_rankings(smoke, monkeypatch, words, seen):
    tau = agreement(pd.Series(range(9)), pd.Series(range(9)))
    found = {
        column: robust_family.Ranking(replace(tau, seen=word), 1.0)
        for column, word in zip(robust_family.CLEAN, words, strict=True)
    }
    monkeypatch.setattr(robust_family, "rankings", lambda results: found)
    assert robust_family.verdict(smoke) == seen
    assert (
        robust_family.opening(smoke)["sees"] == "Kendall's tau 1.00 (corrupted), 1.00 (attacked)."
    )


def test_a_mark_per_network_on_both_panels(smoke):
    rules = (lambda clean, on: clean - 20, lambda clean, on: clean / 2)
    corrupted, attacked = robust_family.figure(shifted(smoke, *rules)).axes
    assert [line.get_ydata()[0] for line in corrupted.lines] == pytest.approx(
        [line.get_xdata()[0] - 20 for line in corrupted.lines]
    )
    assert len(corrupted.lines) == len(attacked.lines) == 7


def test_the_plan_measures_one_network_of_every_member_in_short():
    found = [w for w in plan.robust_family(PROFILE).measured if w.measure == MEASURE]
    assert {w.seeds for w in found} == {1}
    methods = [w.cell.method for w in found]
    assert methods[:3] == list(HEADLINE)
    assert len(methods) == 7
    bare = replace(PROFILE, grids=tuple(r for r in PROFILE.grids if not r.method.changes))
    assert plan.robust_family(bare).cells == []


@pytest.mark.parametrize(("noise", "seen"), [(0.3, SEEN), (30.0, REVERSED)])
def test_a_planted_order_of_the_whole_family_is_found_through_noise(noise, seen):
    quick = planted(profiles.get("quick"), {}, None, only=("robust_family",))

    def place_of(config):
        words = (config[key] for key in ("member", "mask", "geometry"))
        return rng_of("place", *words).uniform(0, 30)

    def change(config, values):
        place, draw = place_of(config), rng_of("shift", RunConfig.from_dict(config).run_id)
        values |= dict.fromkeys(("clean", "attacked_clean"), 50 + place)
        values |= {"corrupted": 30 + place + draw.normal(0, noise)}
        for attack in values["attacks"]:
            attack["accuracy"] = 20 + place / 2 + draw.normal(0, noise)

    found = with_accuracies(with_measures(quick, MEASURE, change), place_of)
    ranks = [ranking.agreement for ranking in robust_family.rankings(found).values()]
    assert {c.seen for c in ranks} == {seen}
    every = 3 + len(members.methods(quick.profile))  # and SGD, SAM, SAM-ON
    assert {c.seeds for c in ranks} == {every}
