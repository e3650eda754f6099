"""The confirmation on fresh seeds, on made-up records whose numbers are known."""

from dataclasses import replace

import pytest
from made_up import PROFILE, made_up

from samlib.chapters import confirmation, explanations, law, one_pass
from samlib.chapters.confirmation import GAIN, STATISTICS, confirmed
from samlib.report import html
from samlib.report.answers import DESCRIBED
from samlib.report.stats import OPEN, REVERSED, SEEN, compare
from samlib.study import plan
from samlib.study.methods import BASE, ON

FRESH = (100, 101, 102, 103)
WITH = replace(PROFILE, fresh=FRESH)
NOISE = (0.1, -0.1, 0.05, -0.05)  # of MSAM's gain, by seed


def on_fresh_seeds(results, usual, recalibrated):
    """Results with fresh seeds: SGD at 80, SAM-ON at 90 and MSAM at accuracies with some noise."""
    records = dict(results.records)
    for cell in plan.confirmation(WITH):
        for run, noise in zip(cell.at(cell.chosen(records)), NOISE, strict=True):
            record = made_up(run)
            both = [
                {BASE: 80.0, ON: 90.0}.get(cell.method, own + noise)
                for own in (usual, recalibrated)
            ]
            measures = record["measures"] | {"recalibrated_test_accuracy": both[1]}
            records[run.run_id] = record | {"test_accuracy": both[0], "measures": measures}
    return replace(results, profile=WITH, records=records)


@pytest.mark.parametrize(
    ("recalibrated", "seen"), [(92.0, SEEN), (84.0, REVERSED), (80 + 10 * GAIN, OPEN)]
)
def test_the_gain_beyond_the_goals_share_decides(smoke, recalibrated, seen):
    found = on_fresh_seeds(smoke, 85.0, recalibrated)
    first, usual, mixed = confirmed(found).values()
    assert first.beyond.seen == seen
    assert first.beyond.mean == pytest.approx(recalibrated - 87)
    assert first.share.share == pytest.approx((recalibrated - 80) / 10)
    assert (usual.beyond.seen, usual.beyond.mean) == (REVERSED, pytest.approx(-2))
    assert mixed.share.share == pytest.approx((recalibrated - 80) / 10)
    beyond = f"its gain minus 70 % of SAM-ON's is {first.beyond} points ({seen}), and with usual"
    name = "MSAM with only norm"
    said = f"On {len(FRESH)} fresh seeds, with recalibrated statistics {name} gets {first.share}"
    assert confirmation.finding(found).startswith(f"{said} of SAM-ON's gain; {beyond}")
    word = {SEEN: "yes", REVERSED: "no"}.get(seen, "open")
    short = (
        f"{word}, on {len(FRESH)} seeds not used before: {name} gets {first.share} of SAM-ON's "
        f"gain (more than 70 %: {seen}). With the usual statistics it is {usual.share} (reversed), "
        f"and with recalibrated ones for the member alone {mixed.share}."
    )
    assert one_pass.in_short_recalibrated(found).lower().startswith(short.lower())
    assert short in one_pass.opening(found)["sees"]


def test_holm_corrects_the_two_numbers_that_decide_and_the_third_is_described(smoke, monkeypatch):
    alone = compare([0.3, 0.9, 0.2, 1.1, 0.3], 0.0)  # p is 0.038
    given = iter([alone, compare([1.0, -1.0, 0.1], 0.0)])
    third = compare([1.0, 1.1, 0.9], 0.0)
    monkeypatch.setattr(confirmation, "beyond", lambda *pair: next(given, third))
    first, usual, mixed = confirmed(on_fresh_seeds(smoke, 85.0, 92.0)).values()
    assert (alone.seen, first.beyond.p) == (SEEN, pytest.approx(2 * alone.p))
    assert first.beyond.seen == usual.beyond.seen == OPEN
    assert mixed.beyond == third


def test_the_table_has_a_row_per_kind_of_statistics(smoke):
    table = confirmation.table(on_fresh_seeds(smoke, 85.0, 92.0))
    assert table["statistics", ""].tolist() == list(STATISTICS)
    assert table["SGD", "mean"].tolist() == [80, 80, 80]
    assert table["SAM-ON", "n"].tolist() == [len(FRESH)] * 3
    assert table["MSAM with only norm", "mean"].tolist() == pytest.approx([92, 85, 92])
    verdicts = table["gain − 70 % of SAM-ON's", "seen"].tolist()
    assert verdicts == [SEEN, REVERSED, DESCRIBED]


def test_the_first_seeds_are_not_pooled_with_the_fresh_ones(smoke):
    found = on_fresh_seeds(smoke, 85.0, 92.0)
    assert one_pass.goal(found) == one_pass.goal(smoke)
    assert confirmed(found)["usual"].beyond.seeds == len(FRESH)
    assert law.predictions(found).keys() == law.predictions(smoke).keys()
    assert explanations.finished(found) == explanations.finished(smoke)


def test_what_is_not_run_is_said(smoke):
    waiting = replace(smoke, profile=WITH)
    assert "not run yet: `python -m samlib run --profile smoke --only one_pass" in (
        confirmation.finding(waiting)
    )
    assert confirmation.table(waiting).empty
    assert confirmation.in_short(waiting) == ""
    assert "No fresh seeds" in confirmation.finding(smoke)
    assert not waiting.lacks(plan.one_pass(WITH)), "the page stands without"
    assert waiting.lacks(plan.one_pass(WITH).with_beside())


def test_a_page_names_fresh_seeds_that_are_not_run_yet(smoke):
    said = html.provenance(replace(smoke, profile=WITH), "one_pass").data
    told = (f"{name}, on fresh seeds" for name in ("SGD", "SAM-ON", "MSAM, only norm"))
    assert f"Not run yet: {'; '.join(told)}." in said
