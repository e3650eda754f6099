"""The chapter on BatchNorm's statistics, on made-up records whose numbers are known."""

from dataclasses import replace

import pytest
from made_up import PROFILE

from samlib.chapters import batchnorm, claims, questions, verdicts
from samlib.errors import RecordsMissing
from samlib.report.results import RECALIBRATED
from samlib.study import plan


@pytest.fixture
def rewritten(smoke):
    """A function that gives every run the test accuracy a rule says."""

    def rewrite(rule, recalibrated=lambda config: 50.0):
        found = {}
        for run_id, record in smoke.records.items():
            config = record["config"]
            measures = record["measures"] | {RECALIBRATED: recalibrated(config)}
            accuracy = rule(config) + 0.01 * config["seed"]
            found[run_id] = record | {"test_accuracy": accuracy, "measures": measures}
        return replace(smoke, records=found)

    return rewrite


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
    rows = batchnorm.table(found).set_index(["statistics", "method"])
    gain = rows["SAM-ON minus it"]["mean"]
    assert gain["of both passes", "SGD"] == pytest.approx(10)
    assert gain["of the first pass", "SGD"] == pytest.approx(7)
    assert gain["of the first pass", "SAM"] == pytest.approx(2)
    assert gain["recalibrated after training", "SGD"] == pytest.approx(5)
    changes = rows["change on the same seeds"]["mean"]
    assert changes["of the first pass", "SGD"] == pytest.approx(-3)
    assert changes["of the first pass", "SAM"] == pytest.approx(1)
    answer = batchnorm.not_statistics(found)
    assert answer.seen == "seen"
    expected = "first pass only +7.00 [+7.00, +7.00]; recalibrated +5.00 [+5.00, +5.00] over SGD"
    assert answer.ours == expected
    said = batchnorm.finding(found)
    assert "of the first pass the gain over SGD changes by −3.00 [−3.00, −3.00] (a smaller" in said
    assert "that over SAM by +1.00 [+1.00, +1.00] (a larger gain)" in said


def test_a_gain_lost_with_either_kind_of_statistics_is_against_the_claim(rewritten):
    flat = rewritten(accuracy, lambda config: 60.0 + 0.1 * config["seed"])
    assert batchnorm.not_statistics(flat).seen == "no difference", (
        "none with recalibrated statistics"
    )
    assert questions.is_it_batchnorm(flat) == (
        "Yes: a gain of +0.00 [+0.00, +0.00] points, 2 seeds, with recalibrated ones; with the "
        "usual ones +10.00 on the same seeds"
    )

    def first(config):
        return 79.0 if config["batchnorm"] == "first" else accuracy(config)

    assert batchnorm.not_statistics(rewritten(first, recalibrated)).seen == "reversed"


def test_in_the_claims_own_domain_a_lost_gain_is_the_statistics_too(rewritten, monkeypatch):
    own = claims.Bearing(claims.SAME, "as in the paper")
    monkeypatch.setattr(verdicts, "bearing", lambda *of: own)
    flat = rewritten(accuracy, lambda config: 60.0 + 0.1 * config["seed"])
    assert verdicts.verdict("15", flat).seen == "refuted"
    assert questions.is_it_batchnorm(flat).startswith("Yes: a gain of +0.00 ")
    kept = rewritten(accuracy, recalibrated)
    assert questions.is_it_batchnorm(kept).startswith("No: a gain of +5.00 ")


def test_where_nothing_is_gained_there_is_nothing_to_explain(rewritten):
    nothing = rewritten(lambda config: 80.0, lambda config: 60.0 + 0.1 * config["seed"])
    assert questions.is_it_batchnorm(nothing).startswith(
        "No clear gain to explain: +0.00 [+0.00, +0.00] points, 2 seeds, with the usual statistics;"
    )


def test_recalibrated_statistics_alone_are_half_an_answer(rewritten):
    found = rewritten(accuracy, recalibrated)
    left = {i: r for i, r in found.records.items() if r["config"]["batchnorm"] != "first"}
    half = batchnorm.not_statistics(replace(found, records=left))
    assert half.seen == "not run"
    assert half.ours == "recalibrated +5.00 [+5.00, +5.00] over SGD; first pass only not run"
    found = replace(found, records=left)
    assert questions.is_it_batchnorm(found).startswith("Half answered: a gain of +5.00")
    assert not found.lacks(plan.batchnorm(PROFILE)), "the page stands with the recalibrated ones"
    shown = batchnorm.table(found)["statistics"].drop_duplicates().tolist()
    assert shown == ["of both passes", "recalibrated after training"]
    assert "of the first pass" not in batchnorm.finding(found)


def test_a_network_without_such_statistics_answers_nothing(rewritten):
    with pytest.raises(RecordsMissing, match="recalibrated"):
        batchnorm.not_statistics(rewritten(accuracy, lambda config: None))


def test_the_figure_has_a_row_per_kind_that_has_been_run(rewritten):
    found = rewritten(accuracy, recalibrated)
    over_base, over_sam = batchnorm.figure(found).axes
    assert [ax.get_title("left") for ax in (over_base, over_sam)] == [
        "SAM-ON minus SGD",
        "SAM-ON minus SAM",
    ]
    for ax, gains in ((over_base, (10.0, 7.0, 5.0)), (over_sam, (1.0, 2.0, 5.0))):
        for drawn, gain in zip(ax.collections, gains, strict=True):
            assert [x for x, _ in drawn.get_offsets()] == pytest.approx([gain] * PROFILE.seeds)
    left = {i: r for i, r in found.records.items() if r["config"]["batchnorm"] != "first"}
    rows = batchnorm.figure(replace(found, records=left)).axes[0].get_yticklabels()
    assert [row.get_text() for row in rows] == ["of both passes", "recalibrated after training"]
