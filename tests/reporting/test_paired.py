"""Statistics of paired differences, by hand."""

import math

import numpy as np
import pytest

from fedpurel_app.reporting.leaderboard.paired import (
    Comparison,
    bootstrap_interval,
    compare,
    correct,
    holm,
    signed_rank,
)


def test_six_positive_differences_have_the_least_p_that_six_can_have():
    """One of 2^6 assignments of signs has a sum of positive ranks as high, one as low."""
    assert signed_rank([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(2 / 2**6) == 0.03125


def test_ranks_decide_not_sizes():
    """Differences 1, 2, 3 and -4: the negative rank is 4, and sums of at most 4 have subsets {}, 1, 2, 3, 4, {1, 2},
    {1, 3}: 7 of 16 each side."""
    assert signed_rank([1.0, 2.0, 3.0, -4.0]) == signed_rank([0.1, 0.2, 0.3, -9.0]) == pytest.approx(14 / 16)


def test_ties_keep_the_test_exact():
    """Three differences of one size: all signs alike in 2 of 2^3 assignments."""
    assert signed_rank([0.5, 0.5, 0.5]) == pytest.approx(2 / 2**3)


def test_zeros_are_dropped_and_nothing_but_zeros_says_nothing():
    assert signed_rank([0.0, 0.0, 1.0, 2.0]) == signed_rank([1.0, 2.0]) == pytest.approx(0.5)
    assert signed_rank([0.0, 0.0]) == 1.0


def test_many_tied_differences_take_the_normal_approximation():
    """n = 30 of one size: W = 465, mean 232.5, variance n (n + 1) (2n + 1) / 24 less the tie's (30^3 - 30) / 48."""
    sd = math.sqrt(30 * 31 * 61 / 24 - (30**3 - 30) / 48)
    assert signed_rank([1.0] * 30) == pytest.approx(math.erfc(232.5 / sd / math.sqrt(2)), rel=1e-6)


def test_holm_steps_down_and_never_decreases():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_interval_of_equal_differences_is_their_value():
    assert bootstrap_interval([1.5, 1.5, 1.5]) == (1.5, 1.5)


def test_the_interval_is_the_same_at_every_call_and_holds_the_mean():
    sample = np.array([0.5, 1.0, 1.5, 2.0, 4.0])
    low, high = bootstrap_interval(sample)
    assert bootstrap_interval(sample) == (low, high)
    assert sample.min() < low < sample.mean() < high < sample.max()


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "share"), [(3, 0.72), (5, 0.83), (10, 0.89), (20, 0.92)])
def test_how_often_an_interval_holds_the_mean_is_what_tables_say(seeds, share):
    """Two standard errors of 500 draws are 0.04 at most."""
    draws = np.random.default_rng(7).normal(size=(500, seeds))
    ends = [bootstrap_interval(draw) for draw in draws]
    assert sum(low <= 0 <= high for low, high in ends) / 500 == pytest.approx(share, abs=0.04)


def test_the_interval_approaches_the_normal_one():
    """With 400 draws of deviation 1, the mean's 95 % interval is 2 x 1.96 / 20 wide."""
    sample = np.random.default_rng(3).normal(size=400)
    low, high = bootstrap_interval(sample)
    assert high - low == pytest.approx(2 * 1.96 * sample.std(ddof=1) / 20, rel=0.05)


def test_only_common_seeds_are_pairs():
    one = compare({1: 10.0, 2: 12.0, 3: 99.0}, {0: 0.0, 1: 9.0, 2: 9.0})
    assert (one.pairs, one.difference, one.wins, one.losses) == (2, 2.0, 2, 0)
    assert (one.low, one.high) == (1.0, 3.0)
    assert one.p == pytest.approx(0.5)


@pytest.mark.parametrize(("theirs", "why"), [({1: 9.0}, "1 common seed;"), ({7: 1.0}, "no common seeds;")])
def test_one_pair_is_no_comparison(theirs, why):
    one = compare({1: 10.0, 2: 12.0}, theirs)
    assert one.why.startswith(why) and math.isnan(one.difference) and math.isnan(one.p)


def test_where_lower_is_better_a_negative_difference_wins():
    one = compare({1: 1.0, 2: 5.0, 3: 4.0, 4: 0.0}, {1: 3.0, 2: 4.0, 3: 4.0, 4: 1.0}, lower_is_better=True)
    assert (one.difference, one.wins, one.losses) == (-0.5, 2, 1)


def test_rounding_makes_no_winner():
    """0.1 + 0.2 is not 0.3 in binary."""
    one = compare({1: 0.1 + 0.2, 2: 1.0}, {1: 0.3, 2: 1.0})
    assert (one.wins, one.losses, one.p, one.low, one.high) == (0, 0, 1.0, 0.0, 0.0)


def test_what_was_not_compared_does_not_count_for_the_correction():
    column = {"a": Comparison(5, p=0.02), "b": Comparison(1, "1 common seed"), "c": Comparison(5, p=0.04)}
    found = correct(column)
    assert (found["a"].p_holm, found["c"].p_holm) == (0.04, 0.04) and math.isnan(found["b"].p_holm)
