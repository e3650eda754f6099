import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from samlib.stats import NOT_RUN, compare, holm, interval


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


def test_the_number_of_seeds_that_would_decide_is_the_smallest():
    differences = [1.0, -0.8, 0.9, -0.2, 0.6]
    found = compare(differences)
    assert found.verdict == "undecided"
    mean, deviation = np.mean(differences), np.std(differences, ddof=1)

    def half(n):
        return scipy_stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n)

    assert mean - half(found.needed) > 0
    assert mean - half(found.needed - 1) <= 0


def test_more_seeds_can_decide_for_equivalence():
    found = compare([0.6, -0.6, 0.5, -0.5, 0.01])
    assert found.verdict == "undecided"
    n = found.needed
    half = scipy_stats.t.ppf(0.975, n - 1) * np.std([0.6, -0.6, 0.5, -0.5, 0.01], ddof=1)
    assert abs(np.mean([0.6, -0.6, 0.5, -0.5, 0.01])) + half / math.sqrt(n) < 0.2


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
