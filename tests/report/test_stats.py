import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from samlib.report.stats import (
    NOT_RUN,
    NOTHING,
    OPEN,
    REVERSED,
    SAME,
    SEEN,
    compare,
    corrected,
    holm,
    interval,
    share_of_gain,
)


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
        ([1.0, 1.1, 0.9, 1.2, 0.8], SEEN),
        ([-1.0, -1.1, -0.9, -1.2, -0.8], REVERSED),
        ([0.05, -0.05, 0.04, -0.06, 0.02], SAME),
        ([1.0, -1.0, 2.0, -1.5, 0.3], OPEN),
        ([0.1, 0.11, 0.09, 0.1, 0.1], SAME),  # inside ±0.2 comes before above zero
        ([5.0], OPEN),
        ([0.0, 0.0, 0.0], SAME),
    ],
)
def test_what_is_seen_follows_the_rule_margin_first(differences, seen):
    assert compare(differences).seen == seen


def test_no_seeds_is_not_run():
    assert compare([]) == NOTHING
    assert NOTHING.seen == str(NOTHING) == NOT_RUN


def chances(effect, seeds, deviation=0.6, margin=0.4, trials=2000):
    """How often each word is said of simulated paired differences."""
    draws = np.random.default_rng(0).normal(effect, deviation, (trials, seeds))
    words = [compare(row, margin).seen for row in draws]
    return {word: words.count(word) / trials for word in (SEEN, REVERSED, SAME, OPEN)}


def test_a_planted_effect_is_found_and_a_planted_null_is_not():
    """At the plan's 16 seeds, margin of 0.4 points and deviation of 0.6."""
    effect, null = chances(1.0, 16), chances(0.0, 16)
    assert effect[SEEN] > 0.95
    assert effect[REVERSED] == 0
    assert null[SAME] == pytest.approx(0.41, abs=0.04)  # what 16 seeds can show of nothing
    assert null[SEEN] + null[REVERSED] < 0.05


def test_the_stated_power_is_that_of_a_simulation():
    """Half a point at a deviation of 0.6 with 16 seeds: 90 %, as the plan says."""
    draws = np.random.default_rng(1).normal(0.5, 0.6, (4000, 16))
    half = scipy_stats.t.ppf(0.975, 15) * draws.std(axis=1, ddof=1) / 4
    assert np.mean(draws.mean(axis=1) > half) == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("wanted", [[1.0, -0.8, 0.9, -0.2, 0.6], [0.6, -0.6, 0.5, -0.5, 0.01]])
def test_the_number_of_seeds_to_decide_decides_four_times_in_five(wanted):
    found = compare(wanted)
    assert found.seen == OPEN
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


def test_comparisons_of_which_one_would_do_are_judged_after_the_correction():
    alone = [compare(x) for x in ([0.6, 0.9, 1.2], [-1.0, -1.1, -1.2], [0.0, 0.01, -0.01])]
    assert [c.seen for c in alone] == [SEEN, REVERSED, SAME]
    together = corrected(alone)
    assert [c.seen for c in together] == [OPEN, REVERSED, SAME]
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


def test_the_margin_is_the_one_asked_for():
    differences = [0.1, -0.1, 0.1, -0.1]
    assert compare(differences).seen == SAME
    assert compare(differences, margin=0.05).seen == OPEN


def test_equal_differences_need_no_test(recwarn):
    assert compare([0.3, 0.1 + 0.2, 0.3]).seen == SEEN
    assert not recwarn


def gains(n=40, ratio=0.8):
    """Paired gains over a base, the first so much of the second."""
    rng = np.random.default_rng(3)
    base, whole = rng.normal(0, 0.5, n), 2 + rng.normal(0, 0.4, n)
    return ratio * whole + rng.normal(0, 0.3, n) - 0.2 * base, whole - base


def test_fiellers_interval_agrees_with_a_bootstrap():
    gain, whole = gains()
    found = share_of_gain(gain, whole)
    assert found.share == pytest.approx(gain.mean() / whole.mean())
    draws = np.random.default_rng(0).integers(len(gain), size=(20_000, len(gain)))
    ratios = gain[draws].mean(axis=1) / whole[draws].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_fiellers_interval_is_of_the_ratios_that_a_t_test_does_not_refuse():
    gain, whole = gains(8)
    found = share_of_gain(gain, whole)
    for edge in (found.low, found.high):
        assert scipy_stats.ttest_1samp(gain - edge * whole, 0).pvalue == pytest.approx(0.05)


def test_a_share_of_a_gain_that_is_not_clear_is_not_given():
    gain, _ = gains(8)
    assert share_of_gain(gain, [0.1, -0.2, 0.3, -0.1, 0.2, 0.0, -0.3, 0.1]) is None
    assert share_of_gain(gain[:1], [1.0]) is None
