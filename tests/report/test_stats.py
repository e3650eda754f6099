import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from samlib.report.stats import NOT_RUN, compare, corrected, holm, interval


def test_interval_is_scipys_t_interval():
    values = [92.1, 93.4, 91.8, 94.0, 92.7]
    mean, low, high = interval(values)
    expected = scipy_stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=scipy_stats.sem(values)
    )
    assert mean == pytest.approx(np.mean(values))
    assert (low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([1.0, 1.1, 0.9, 1.2, 0.8], "holds"),
        ([-1.0, -1.1, -0.9, -1.2, -0.8], "refuted"),
        ([0.05, -0.05, 0.04, -0.06, 0.02], "equivalent"),
        ([1.0, -1.0, 2.0, -1.5, 0.3], "undecided"),
        ([0.1, 0.11, 0.09, 0.1, 0.1], "holds"),  # above zero comes before inside ±0.2
        ([5.0], "undecided"),
        ([0.0, 0.0, 0.0], "equivalent"),
    ],
)
def test_the_verdict_follows_the_rule(differences, verdict):
    assert compare(differences).verdict == verdict


def test_no_seeds_is_not_run():
    assert compare([]) == NOT_RUN
    assert str(NOT_RUN) == "not run"


@pytest.mark.parametrize("wanted", [[1.0, -0.8, 0.9, -0.2, 0.6], [0.6, -0.6, 0.5, -0.5, 0.01]])
def test_the_number_of_seeds_to_decide_decides_four_times_in_five(wanted):
    found = compare(wanted)
    assert found.verdict == "undecided"
    rng = np.random.default_rng(0)

    def decided(n):
        x = rng.normal(np.mean(wanted), np.std(wanted, ddof=1), (4000, n))
        half = scipy_stats.t.ppf(0.975, n - 1) * x.std(axis=1, ddof=1) / math.sqrt(n)
        away = np.abs(x.mean(axis=1))
        return np.mean((away > half) | (away + half < 0.2))

    assert decided(found.needed) == pytest.approx(0.8, abs=0.03)
    assert decided(found.needed // 2) < 0.75


def test_what_no_number_of_seeds_would_decide_has_none():
    assert compare([0.2 + 9, 0.2 - 9, 0.2 + 9, 0.2 - 9]).needed is None


def test_comparisons_made_together_are_judged_after_the_correction():
    alone = [compare(x) for x in ([0.6, 0.9, 1.2], [-1.0, -1.1, -1.2], [0.0, 0.01, -0.01])]
    assert [c.verdict for c in alone] == ["holds", "refuted", "equivalent"]
    together = corrected(alone)
    assert [c.verdict for c in together] == ["undecided", "refuted", "equivalent"]
    assert [c.p for c in together] == holm([c.p for c in alone])
    assert corrected([compare([]), alone[0]]) == [compare([]), alone[0]]


@pytest.mark.parametrize("bad", [[1.0, math.nan, 2.0], [1.0, math.inf]])
def test_differences_that_are_not_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="only seeds that both sides have"):
        compare(bad)


def test_a_seed_that_repeats_is_refused():
    with pytest.raises(ValueError, match="a seed repeats"):
        compare(pd.Series([1.0, 2.0, 3.0], index=[0, 1, 1]))


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(size=7) ** 3
        rejected = set()
        for rank, i in enumerate(np.argsort(p)):
            if p[i] > 0.05 / (len(p) - rank):
                break
            rejected.add(int(i))
        assert {i for i, q in enumerate(holm(list(p))) if q <= 0.05} == rejected


def test_holm_leaves_what_is_not_known_out_of_the_count():
    assert holm([0.02, math.nan, 0.03])[0] == pytest.approx(0.04)
    assert math.isnan(holm([0.02, math.nan])[1])


def test_p_is_that_of_a_paired_t_test():
    a, b = np.array([93.0, 94.1, 92.5, 95.0]), np.array([92.0, 94.3, 91.0, 94.0])
    assert compare(a - b).p == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)


def test_the_margin_of_equivalence_is_the_one_asked_for():
    differences = [0.1, -0.1, 0.1, -0.1]
    assert compare(differences).verdict == "equivalent"
    assert compare(differences, margin=0.05).verdict == "undecided"


def test_equal_differences_need_no_test(recwarn):
    assert compare([0.3, 0.1 + 0.2, 0.3]).verdict == "holds"
    assert not recwarn
