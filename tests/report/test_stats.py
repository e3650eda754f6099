import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from samlib.report.stats import (
    NOTHING,
    OPEN,
    SEEN,
    Share,
    blurred,
    compare,
    corrected,
    holm,
    interval,
    share_of_gain,
)
from samlib.study.profile import MARGIN


def test_interval_is_scipys_t_interval():
    values = [92.1, 93.4, 91.8, 94.0, 92.7]
    mean, low, high = interval(values)
    expected = scipy_stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=scipy_stats.sem(values)
    )
    assert mean == pytest.approx(np.mean(values))
    assert (low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("differences", "seen"),
    [
        ([1.0, 1.1, 0.9, 1.2, 0.8], "seen"),
        ([-1.0, -1.1, -0.9, -1.2, -0.8], "reversed"),
        ([0.05, -0.05, 0.04, -0.06, 0.02], "no difference"),
        ([1.0, -1.0, 2.0, -1.5, 0.3], "open"),
        ([0.1, 0.11, 0.09, 0.1, 0.1], "no difference"),  # the margin comes before the sign
        ([-0.1, -0.11, -0.09, -0.1, -0.1], "no difference"),
        ([0.3, 0.2, 0.1, 0.3, 0.2], "seen"),  # above zero, and not inside the margin
        ([5.0], "open"),
        ([0.0, 0.0, 0.0], "no difference"),
    ],
)
def test_the_verdict_follows_the_rule(differences, seen):
    assert compare(differences, MARGIN).seen == seen


def test_no_seeds_is_not_run():
    assert compare([], MARGIN) == NOTHING
    assert str(NOTHING) == "not run"
    assert f"{compare([0.5, 0.7], MARGIN):+.3f}" == "+0.600 [−0.671, +1.871]"


@pytest.mark.parametrize("wanted", [[1.0, -0.8, 0.9, -0.2, 0.6], [0.6, -0.6, 0.5, -0.5, 0.01]])
def test_the_number_of_seeds_to_decide_decides_four_times_in_five(wanted):
    found = compare(wanted, MARGIN)
    assert found.seen == "open"
    rng = np.random.default_rng(0)

    def decided(n):
        x = rng.normal(np.mean(wanted), np.std(wanted, ddof=1), (4000, n))
        half = scipy_stats.t.ppf(0.975, n - 1) * x.std(axis=1, ddof=1) / math.sqrt(n)
        away = np.abs(x.mean(axis=1))
        return np.mean((away > half) | (away + half < 0.2))

    assert decided(found.needed) == pytest.approx(0.8, abs=0.03)
    assert decided(found.needed // 2) < 0.75


def test_what_no_number_of_seeds_would_decide_has_none():
    assert compare([0.2 + 9, 0.2 - 9, 0.2 + 9, 0.2 - 9], MARGIN).needed is None


def test_comparisons_of_which_one_would_do_are_judged_after_the_correction():
    alone = [compare(x, MARGIN) for x in ([0.6, 0.9, 1.2], [-1.0, -1.1, -1.2], [0.0, 0.01, -0.01])]
    assert [c.seen for c in alone] == ["seen", "reversed", "no difference"]
    together = corrected(alone)
    assert [c.seen for c in together] == ["open", "reversed", "no difference"]
    assert [c.p for c in together] == holm([c.p for c in alone])
    assert corrected([compare([], MARGIN), alone[0]]) == [compare([], MARGIN), alone[0]]


def test_a_planted_effect_is_found_and_a_planted_null_is_not():
    """16 seeds with a paired deviation of 0.6, margin 0.4, as planned for CIFAR-100."""
    rng = np.random.default_rng(0)

    def rates(mean, trials=2000):
        seen = [compare(rng.normal(mean, 0.6, 16), margin=0.4).seen for _ in range(trials)]
        return {word: seen.count(word) / trials for word in set(seen)}

    effect, null = rates(0.5), rates(0.0)
    assert effect["seen"] == pytest.approx(0.87, abs=0.02), "the power that the plan states: 87 %"
    assert effect.get("reversed", 0) == 0
    assert null.get("seen", 0) + null.get("reversed", 0) == pytest.approx(0.05, abs=0.015)
    assert null["no difference"] > 0.35


def test_of_many_nulls_hardly_ever_one_is_seen_together():
    rng = np.random.default_rng(1)
    families = ([compare(x, MARGIN) for x in rng.normal(0, 1, (12, 8))] for _ in range(400))
    wrong = [any(c.seen in ("seen", "reversed") for c in corrected(f)) for f in families]
    assert np.mean(wrong) < 0.08


@pytest.mark.parametrize("bad", [[1.0, math.nan, 2.0], [1.0, math.inf]])
def test_differences_that_are_not_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="only seeds that both sides have"):
        compare(bad, MARGIN)


def test_a_seed_that_repeats_is_refused():
    with pytest.raises(ValueError, match="a seed repeats"):
        compare(pd.Series([1.0, 2.0, 3.0], index=[0, 1, 1]), MARGIN)


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
    assert compare(a - b, MARGIN).p == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)


def test_the_margin_is_the_one_asked_for():
    differences = [0.1, -0.1, 0.1, -0.1]
    assert compare(differences, MARGIN).seen == "no difference"
    assert compare(differences, margin=0.05).seen == "open"


def test_equal_differences_need_no_test(recwarn):
    assert compare([0.3, 0.1 + 0.2, 0.3], MARGIN).seen == "seen"
    assert not recwarn


def gains(rng, n, mean, whole, correlation=0.7):
    """Paired gains of two methods over a third, with deviations of 0.6."""
    cov = 0.36 * np.array([[1, correlation], [correlation, 1]])
    return rng.multivariate_normal([mean, whole], cov, n).T


def test_fiellers_interval_covers_the_true_share_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [share_of_gain(*gains(rng, 16, 1.5, 1.0)) for _ in range(2000)]
    known = [share for share in found if share is not None]
    assert len(known) > 1990
    assert np.mean([s.low <= 1.5 <= s.high for s in known]) == pytest.approx(0.95, abs=0.015)


def test_fiellers_interval_is_near_that_of_a_bootstrap():
    rng = np.random.default_rng(2)
    x, y = gains(rng, 60, 2.4, 2.0)
    found = share_of_gain(x, y)
    draws = rng.integers(0, 60, (20_000, 60))
    low, high = np.quantile(x[draws].mean(axis=1) / y[draws].mean(axis=1), [0.025, 0.975])
    assert found.share == pytest.approx(x.mean() / y.mean())
    assert found.low == pytest.approx(low, abs=0.25 * (high - low))
    assert found.high == pytest.approx(high, abs=0.25 * (high - low))


def test_the_ends_of_the_interval_are_where_the_ratio_is_just_not_rejected():
    x, y = gains(np.random.default_rng(3), 12, 1.0, 1.5)
    found = share_of_gain(x, y)
    for ratio in (found.low, found.high):
        assert scipy_stats.ttest_1samp(x - ratio * y, 0).pvalue == pytest.approx(0.05)


@pytest.mark.parametrize("whole", [[0.1, -0.1, 0.05], [-1.0, -1.1, -0.9], [5.0]])
def test_a_share_of_a_gain_that_is_not_clear_says_nothing(whole):
    assert share_of_gain([1.0] * len(whole), whole) is None


def test_a_share_in_words():
    assert str(share_of_gain([1.0, 1.1, 0.9], [2.0, 2.2, 1.8])) == "50 % [50, 50]"


def test_a_shared_error_adds_its_variance():
    x = [0.5, 1.0, 1.5, 0.8]
    alone, without = compare(x, MARGIN), blurred(x, 0.0, 3, MARGIN)
    assert (without.low, without.high) == pytest.approx((alone.low, alone.high))
    assert without.p == pytest.approx(alone.p)
    found, own = blurred(x, 0.3, 8, MARGIN), np.var(x, ddof=1) / 4
    degrees = (own + 0.09) ** 2 / (own**2 / 3 + 0.09**2 / 8)  # Welch and Satterthwaite
    half = scipy_stats.t.ppf(0.975, degrees) * math.sqrt(own + 0.09)
    assert (found.low, found.high) == pytest.approx((0.95 - half, 0.95 + half))
    assert (found.p < 0.05) == (found.low > 0)
    assert (alone.seen, blurred(x, 3.0, 8, MARGIN).seen) == (SEEN, OPEN)
    assert blurred([1.0], 0.3, 8, MARGIN) == compare([1.0], MARGIN)


@pytest.mark.parametrize("freedom", [3, 30])
def test_an_interval_with_a_shared_error_covers_the_truth(freedom):
    """The error is itself estimated, from as many degrees of freedom."""
    draw, held = np.random.default_rng(freedom), 0
    for _ in range(1000):
        shared = draw.normal(0, 1.0)
        error = math.sqrt(draw.chisquare(freedom) / freedom)
        found = blurred(draw.normal(0, 1.0, 8) + shared, error, freedom, MARGIN)
        held += found.low <= 0 <= found.high
    assert 925 <= held <= 990


def test_equal_differences_need_no_more_seeds():
    assert compare([0.0] * 4, margin=0.0).needed is None


def test_a_share_that_rounds_to_zero_has_no_sign():
    assert str(Share(-0.003, -0.2, 0.1, 5)) == "0 % [−20, 10]"
