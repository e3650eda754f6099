"""The chapter on when the perturbation is needed, on made-up records whose numbers are known."""

import math
from dataclasses import replace

import pytest
from made_up import PROFILE

from samlib.chapters import claims, questions, verdicts, when
from samlib.errors import RecordsMissing


@pytest.fixture
def rewritten(smoke):
    """A function that gives every run the test accuracy a rule says."""

    def rewrite(rule, recalibrated=lambda config: 50.0):
        found = {}
        for run_id, record in smoke.records.items():
            config = record["config"]
            measures = record["measures"] | {when.RECALIBRATED: recalibrated(config)}
            accuracy = rule(config) + 0.01 * config["seed"]
            found[run_id] = record | {"test_accuracy": accuracy, "measures": measures}
        return replace(smoke, records=found)

    return rewrite


def by_start(config):
    """80 for the base optimizer, 90 with SAM always, 82 where it starts late, 88 if it ends."""
    if config["geometry"] == "none":
        return 80.0
    late, short = config["start"] > 0, config["end"] is not None
    return 82.0 if late else 88.0 if short else 90.0


def test_the_gain_left_is_a_share_of_the_full_gain(rewritten):
    found = rewritten(by_start)
    table, comparisons = when.table(found)
    assert table["gain left"]["share"].tolist() == pytest.approx([20, 80] * 2)
    assert table["active epochs"].to_numpy().tolist() == [[2, 2], [1, 1]] * 2
    assert [round(c.mean, 6) for c in comparisons] == [-8.0, -2.0] * 2
    said = when.finding(found)
    assert "on for the last 1 of 2 epochs, 20 % [20, 20] (SAM-ON) and 20 % [20, 20] (SAM)" in said
    assert "off for the last 1 of 2 epochs, 80 % [80, 80] (SAM-ON)" in said


def test_no_share_is_told_of_a_gain_that_is_not_there(rewritten):
    found = rewritten(lambda c: 75.0 if c["mask"] == "only_norm" else by_start(c))
    shares = when.table(found)[0]["gain left"]["share"].tolist()
    assert shares == pytest.approx([20, 80, math.nan, math.nan], nan_ok=True)
    assert "no share can be given (SAM-ON) and 20 % [20, 20] (SAM)" in when.finding(found)


def accuracy(config):
    """SAM-ON 10 over the base optimizer and 1 over SAM; 7 and 2 with first-pass statistics."""
    if config["geometry"] == "none":
        return 80.0
    if config["batchnorm"] == "first":
        return 87.0 if config["mask"] == "only_norm" else 85.0
    return 90.0 if config["mask"] == "only_norm" else 89.0


def recalibrated(config):
    """60 without a perturbation or with SAM, 65 with SAM-ON."""
    return 60.0 + 5 * (config["mask"] == "only_norm") + 0.1 * config["seed"]


def test_statistics_decide_the_claim(rewritten):
    found = rewritten(accuracy, recalibrated)
    rows = when.statistics(found)[0].set_index(["statistics", "method"])
    gain = rows["SAM-ON minus it"]["mean"]
    assert gain["of both passes", "SGD"] == pytest.approx(10)
    assert gain["of the first pass", "SGD"] == pytest.approx(7)
    assert gain["of the first pass", "SAM"] == pytest.approx(2)
    assert gain["recalibrated after training", "SGD"] == pytest.approx(5)
    changes = rows["change on the same seeds"]["mean"]
    assert changes["of the first pass", "SGD"] == pytest.approx(-3)
    assert changes["of the first pass", "SAM"] == pytest.approx(1)
    answer = when.not_statistics(found)
    assert answer.seen == "seen"
    expected = "first pass only +7.00 [+7.00, +7.00]; recalibrated +5.00 [+5.00, +5.00] over SGD"
    assert answer.ours == expected
    said = when.finding_statistics(found)
    assert "of the first pass the gain over SGD changes by −3.00 [−3.00, −3.00] (a smaller" in said
    assert "that over SAM by +1.00 [+1.00, +1.00] (a larger gain)" in said


def test_a_gain_lost_with_either_kind_of_statistics_is_against_the_claim(rewritten):
    flat = rewritten(accuracy, lambda config: 60.0 + 0.1 * config["seed"])
    assert when.not_statistics(flat).seen == "no difference", "none with recalibrated statistics"
    assert questions.is_it_batchnorm(flat) == (
        "Yes: a gain of +7.00 [+7.00, +7.00] points, 2 seeds, with statistics of the first pass "
        "alone; +0.00 [+0.00, +0.00] points, 2 seeds, with statistics made anew"
    )

    def first(config):
        return 79.0 if config["batchnorm"] == "first" else accuracy(config)

    assert when.not_statistics(rewritten(first, recalibrated)).seen == "reversed"


def test_in_the_claims_own_domain_a_lost_gain_is_the_statistics_too(rewritten, monkeypatch):
    own = claims.Bearing(claims.SAME, "as in the paper")
    monkeypatch.setattr(verdicts, "bearing", lambda *of: own)
    flat = rewritten(accuracy, lambda config: 60.0 + 0.1 * config["seed"])
    assert verdicts.verdict("15", flat).seen == "refuted"
    assert questions.is_it_batchnorm(flat).startswith("Yes: a gain of +7.00 ")
    kept = rewritten(accuracy, recalibrated)
    assert questions.is_it_batchnorm(kept).startswith("No: a gain of +7.00 ")


def test_where_nothing_is_gained_there_is_nothing_to_explain(rewritten):
    nothing = rewritten(lambda config: 80.0, lambda config: 60.0 + 0.1 * config["seed"])
    assert questions.is_it_batchnorm(nothing).startswith(
        "No clear gain to explain: +0.00 [+0.00, +0.00] points, 2 seeds, with the usual statistics;"
    )


def test_recalibrated_statistics_alone_are_half_an_answer(rewritten):
    found = rewritten(accuracy, recalibrated)
    left = {i: r for i, r in found.records.items() if r["config"]["batchnorm"] != "first"}
    half = when.not_statistics(replace(found, records=left))
    assert half.seen == "not run"
    assert half.ours == "recalibrated +5.00 [+5.00, +5.00] over SGD; first pass only not run"
    assert questions.is_it_batchnorm(replace(found, records=left)).startswith("In part: a gain of")


def test_a_network_without_such_statistics_answers_nothing(rewritten):
    with pytest.raises(RecordsMissing, match="recalibrated"):
        when.not_statistics(rewritten(accuracy, lambda config: None))


def test_the_figure_has_a_point_per_seed_of_every_method(rewritten):
    figure = when.figure(rewritten(by_start))
    for ax in figure.axes[:2]:
        drawn = ax.collections[0].get_offsets()
        assert len(drawn) == 6 * PROFILE.seeds  # SAM and SAM-ON at 3 x
        middle = [82.0, 82.01] if ax is figure.axes[0] else [88.0, 88.01]
        switched = [y for x, y in drawn if 0.5 < x < 1.5]
        assert sorted(switched) == pytest.approx(sorted(2 * middle))


def test_a_profile_too_short_to_switch_says_so(rewritten, monkeypatch):
    found = rewritten(by_start)
    monkeypatch.setattr(when, "_switched", lambda *arguments: {})
    assert "too short" in when.finding(found)
    assert when.table(found)[0].empty
    labels = [t.get_text().split("\n") for t in when.figure(found).axes[0].get_xticklabels()]
    assert labels == [["0", "always"], ["2", "SGD"]]
