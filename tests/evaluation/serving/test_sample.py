import math

import pytest

from evaluation.serving.sample import Open, arrivals, merged
from tests.evaluation.serving.samples import sample


def test_rates_are_of_right_answers_and_latencies_of_all_that_was_offered():
    seen = sample(offered=5, in_time=3, unanswered=1)
    assert seen.rps == 2.0
    assert seen.goodput == 0.6
    assert seen.cpu_ms == pytest.approx(2.0)
    assert seen.latency_ms(0.5) == pytest.approx(3.0)
    assert seen.latency_ms(0.99) == math.inf


def test_nothing_offered_is_no_goodput():
    seen = sample(offered=0, latencies_s=(), in_time=0)
    assert (seen.rps, seen.goodput, seen.cpu_ms, seen.latency_ms(0.5)) == (0.0, 0.0, math.inf, math.inf)


def test_windows_are_merged_into_one():
    whole = merged([sample(lag_s=0.1), sample(seconds=1.0, wrong=2, lag_s=0.3)])
    assert (whole.seconds, whole.offered, whole.wrong, whole.lag_s) == (3.0, 8, 2, 0.3)
    assert whole.rps == pytest.approx(8 / 3)
    assert whole.cpu_ms == pytest.approx(2.0)


def test_arrivals_are_the_same_for_all_and_of_the_rate():
    load = Open(rate=600, deadline_ms=50)
    due = arrivals(load, 20.0)
    assert due == arrivals(load, 20.0)
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < 20
    assert len(due) == pytest.approx(12_000, rel=0.05)  # four standard deviations
    assert arrivals(Open(rate=600, deadline_ms=50, seed=2), 20.0) != due
