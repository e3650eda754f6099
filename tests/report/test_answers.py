"""What several comparisons come to together: the rules against hand-made cases."""

import re

import pytest

from samlib.report.answers import Answer, by_the_old_rule, each_of
from samlib.report.stats import compare, corrected
from samlib.report.text import p_value
from samlib.report.wording import against
from samlib.study.profile import MARGIN

GOOD = compare([1.0, 1.1, 0.9, 1.0, 1.05], MARGIN)
BAD = compare([-1.0, -1.1, -0.9, -1.0, -1.05], MARGIN)
OPEN = compare([1.0, -1.0, 0.5, -0.4, 0.1], MARGIN)
SAME = compare([0.01, -0.01, 0.0, 0.02, -0.02], MARGIN)
BARELY = compare([0.6, 0.9, 1.2], MARGIN)  # p is 0.04 alone


@pytest.mark.parametrize(
    ("comparisons", "strict", "at_least"),
    [
        ([GOOD, GOOD], "seen", "seen"),
        ([GOOD, OPEN], "open", "open"),
        ([GOOD, OPEN, BAD], "reversed", "reversed"),
        ([GOOD, SAME], "no difference", "seen"),
        ([SAME, OPEN], "no difference", "open"),
        ([GOOD], "seen", "seen"),
        ([], "not run", "not run"),
        ([GOOD, compare([], MARGIN)], "not run", "not run"),
    ],
)
def test_a_claim_about_each_of_several(comparisons, strict, at_least):
    assert each_of(comparisons, "").seen == strict
    assert each_of(comparisons, "", strict=False).seen == at_least


def test_none_is_corrected_where_each_must_be_seen():
    assert each_of([BARELY] * 5, "").seen == "seen"


def test_a_reversal_by_one_of_many_is_corrected():
    barely_bad = compare([-0.6, -0.9, -1.2], MARGIN)
    assert each_of([barely_bad], "").seen == "reversed"
    assert each_of([barely_bad, OPEN], "").seen == "open"


def test_a_claim_may_ask_more_of_one_comparison_than_of_another():
    assert each_of([GOOD, SAME], "", strict=[True, False]).seen == "seen"
    assert each_of([SAME, GOOD], "", strict=[True, False]).seen == "no difference"


def test_the_fewest_seeds_are_told():
    assert each_of([GOOD, BARELY], "").seeds == 3


@pytest.mark.parametrize(
    ("comparisons", "strict", "word"),
    [
        ([compare([0.1, 0.11, 0.09, 0.1, 0.1], MARGIN)], True, "holds"),  # sign before margin
        ([BARELY, OPEN], True, "undecided"),
        ([BARELY] * 5, True, "undecided"),  # corrected whatever the claim
        ([GOOD, SAME], True, "refuted"),
        ([GOOD, SAME], False, "holds"),
        ([GOOD, OPEN], True, "undecided"),
        ([GOOD, BAD], True, "refuted"),
    ],
)
def test_the_old_rule(comparisons, strict, word):
    assert by_the_old_rule(each_of(comparisons, "", strict=strict)) == word


def test_the_old_rule_on_what_is_no_comparison():
    assert by_the_old_rule(Answer("not run")) == "not run"
    assert by_the_old_rule(Answer("partly")) == "partly"
    assert by_the_old_rule(Answer("seen")) == "holds"


def test_a_table_has_one_interval_the_one_that_decides():
    names = ["over A", "over B", "over C"]
    both = each_of([GOOD, BARELY], "both", names=names[:2])
    assert both.in_a_cell == f"{BARELY} over B, the lower of two"
    assert both.ours == "both"
    assert each_of([GOOD], "one", names=names[:1]).in_a_cell == "one"
    lowest = each_of([GOOD, SAME, BARELY], "all", names=names)
    assert lowest.in_a_cell.endswith("over B, the lowest of 3")
    wide = compare([3.0, -9.0, 2.0, -1.0], MARGIN)  # lower than what decides
    none = each_of([GOOD, SAME, wide], "all", names=names)
    assert (none.seen, none.in_a_cell) == ("no difference", f"{SAME} over B, one of 3")
    worse = each_of([BAD, compare([4.0, -19.0, 2.0, -1.0], MARGIN)], "both", names=names[:2])
    assert (worse.seen, worse.in_a_cell) == ("reversed", f"{BAD} over A, one of two")


def test_an_interval_below_zero_that_is_open_says_why_and_no_other_does():
    barely_bad = compare([-v for v in (0.6, 0.9, 1.2)], MARGIN)
    lost = each_of([barely_bad, OPEN], "both", names=["over A", "over B"])
    assert lost.seen == "open"
    assert re.fullmatch(r"both \(over A: p 0\.\d{3} after Holm's correction\)", lost.ours)
    assert lost.short.startswith(f"{barely_bad} over A, ")
    assert lost.short.endswith(" after Holm's correction)")
    assert "Holm" not in each_of([OPEN, OPEN], "both").ours
    assert "Holm" not in each_of([barely_bad], "one").ours
    assert "Holm" not in each_of([BARELY, OPEN], "both").ours, "seen is uncorrected"


def test_p_stands_at_the_comparison_that_it_belongs_to():
    barely_bad = compare([-v for v in (0.6, 0.9, 1.2)], MARGIN)
    lower = compare([-9.0, 2.0, 1.0, -6.0], MARGIN)
    found = each_of([lower, barely_bad], "", names=["over A", "over B"])
    assert (found.seen, lower.seen, lower.mean < barely_bad.mean) == ("open", "open", True)
    assert found.ours.startswith(f"{barely_bad} points, 3 seeds (over B; one of two) (p 0.0")
    assert found.in_a_cell == found.ours


def test_an_interval_that_leaves_zero_out_and_decides_nothing_shows_its_p():
    clear = compare([1.0, 0.4, 0.9, 0.5, 0.7], margin=0.2)
    lost = corrected([clear, *[compare([1.0, -1.0, 0.5], margin=0.2)] * 60])[0]
    assert (clear.seen, lost.seen) == ("seen", "open")
    assert against(clear, "it") == f"better than it ({clear})"
    assert against(lost, "it").endswith(f"({lost}) (p {p_value(lost.p)} after Holm's correction)")
