import math

import pytest

from evaluation.serving.pairs import Pair, bootstrap
from tests.evaluation.serving.samples import sample


def exact(count, share):
    """Where that share of the bootstrap's medians of 1, 2, … `count`, an odd number, ends.

    A median is at most k if more than half of the draws are, and each is with probability k / count.
    """
    half = count // 2 + 1

    def at_most(k):
        p = k / count
        return sum(math.comb(count, n) * p**n * (1 - p) ** (count - n) for n in range(half, count + 1))

    return next(k for k in range(1, count + 1) if at_most(k) >= share)


@pytest.mark.parametrize("count", [5, 13, 25])
def test_the_interval_is_that_of_all_resamples(count):
    found = bootstrap(range(1, count + 1))
    assert (found.median, found.count) == ((count + 1) / 2, count)
    assert (found.low, found.high) == (exact(count, 0.05), exact(count, 0.95))


def test_numbers_that_agree_leave_no_doubt():
    found = bootstrap([0.97] * 12)
    assert (found.median, found.low, found.high) == (0.97, 0.97, 0.97)


def test_the_order_of_pairs_says_nothing_about_the_median():
    assert bootstrap([3.0, 1.0, 2.0]).median == bootstrap([1.0, 2.0, 3.0]).median == 2.0


def test_infinity_is_a_number_and_nan_is_none():
    found = bootstrap([1.0, math.inf, 1.0])
    assert (found.median, found.low, found.high, found.count) == (1.0, 1.0, math.inf, 3)
    for values in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="expected numbers"):
            bootstrap(values)


def test_a_pair_compares_ours_with_theirs():
    theirs = sample(latencies_s=(0.010, 0.010), in_time=2, cpu_s=0.002)
    pair = Pair(sample(), theirs)
    assert pair.throughput == 2.0
    assert pair.goodput_added == 0.5
    assert pair.cpu_ms_added == pytest.approx(2.0 - 1.0)
    assert pair.p50_ms_added == -math.inf  # half of theirs is unanswered


def test_nothing_is_infinitely_less():
    assert Pair(sample(), sample(latencies_s=(), in_time=0)).throughput == math.inf
