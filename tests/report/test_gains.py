"""Gains under conditions that have different seeds, on made-up accuracies."""

import pandas as pd
import pytest

from samlib.report.gains import Condition, changed, changes, gain, judged
from samlib.report.stats import OPEN, SEEN, compare, holm
from samlib.study.methods import ALL, BASE, ON
from samlib.study.profile import MARGIN


class Accuracies:
    """Stands in for `Results`: a cell is its accuracies by seed."""

    def accuracies(self, cell, column):
        return pd.Series(cell[column], dtype=float)

    def difference(self, better, worse, column):
        return (self.accuracies(better, column) - self.accuracies(worse, column)).dropna()

    def judge(self, differences):
        return compare(differences.dropna(), MARGIN)


def condition(base, on, column="test_accuracy"):
    return Condition({BASE: {column: base}, ALL: {column: base}, ON: {column: on}}, column)


FIRST = condition({0: 80.0, 1: 81.0, 2: 60.0}, {0: 85.0, 1: 87.0, 2: 90.0})
FEWER = condition({0: 80.0, 1: 80.0}, {0: 83.0, 1: 84.5})


def test_a_gain_is_paired_by_seed_and_skips_what_has_no_number():
    assert gain(Accuracies(), FIRST, BASE).to_dict() == {0: 5.0, 1: 6.0, 2: 30.0}
    other = condition({0: 80.0, 1: None}, {0: 83.0, 1: 84.0}, "recalibrated")
    assert gain(Accuracies(), other, BASE).to_dict() == {0: 3.0}


def test_a_change_is_on_the_seeds_that_have_both():
    found = changes(Accuracies(), {"first": FIRST, "fewer": FEWER})["fewer", BASE]
    assert found.seeds == 2
    assert found.mean == pytest.approx(((3.0 - 5.0) + (4.5 - 6.0)) / 2)


def test_words_are_those_after_holm_over_all_that_stands_together():
    zero, one = [0.0] * 5, (0.3, 0.9, 1.2, 1.5, 0.1)  # p = 0.04 alone
    of = condition(dict(enumerate(zero)), dict(enumerate(one)))
    alone = compare(one, MARGIN)
    assert alone.seen == SEEN
    found = judged(Accuracies(), {"first": of, "second": of})
    assert [c.seen for c in found.values()] == [OPEN] * 4
    assert [c.p for c in found.values()] == holm([alone.p] * 4)


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([1.0, 1.1, 0.9], "a larger gain"),
        ([-1.0, -1.1, -0.9], "a smaller gain"),
        ([0.01, -0.01, 0.0], "no difference"),
        ([5.0, -5.0, 0.0], "open"),
        ([], "not run"),
    ],
)
def test_a_change_in_words(differences, words):
    assert changed(compare(differences, MARGIN)) == words
