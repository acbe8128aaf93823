"""Work under a quota."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.stretch import at_work, stretched_mean, stretched_upper, work_of


def test_no_quota_no_stretch():
    assert stretched_mean(0.1, 1, 1100) == 0.1
    assert stretched_upper(0.1, 1, 1100, 0.02) == 0.1
    assert stretched_upper(0.1, 2, 2000, 0.02) == 0.1


def test_stretch_below_one_core():
    # Half a core, period 20 ms: 10 ms on, 10 ms off.
    assert stretched_mean(0.040, 1, 500) == pytest.approx(0.080)
    assert stretched_upper(0.040, 1, 500, 0.020) == pytest.approx(0.080)
    # Short work may begin with a stand-still.
    assert stretched_mean(0.005, 1, 500) == pytest.approx(0.010)
    assert stretched_upper(0.005, 1, 500, 0.020) == pytest.approx(0.015)


def test_a_stand_still_that_hardly_any_execution_meets_is_not_in_the_quantile():
    # One in 25 of those that take 0.4 of 10 ms; of many that follow each other each takes twice that in the mean.
    assert stretched_upper(0.0004, 1, 500, 0.020) == pytest.approx(0.0008)
    assert stretched_upper(0.0004, 1, 500, 0.020, quantile=0.99) == pytest.approx(0.0104)
    # One in 25 meets a third.
    assert stretched_upper(0.0204, 1, 500, 0.020) == pytest.approx(0.0408)
    assert stretched_upper(0.0204, 1, 500, 0.020, quantile=0.99) == pytest.approx(0.0504)


def test_threads_that_wait_use_less_quota():
    assert at_work(0.1, 0.05, 2) == 2.0
    assert at_work(0.1, 0.08, 2) == pytest.approx(1.25 + 0.75 / 2)
    assert at_work(0.1, 0.12, 2) == 1.5  # threads that only cost
    assert at_work(0.1, 0.1, 1) == 1.0
    # 1.5 of them fit into 1.5 cores, and two that never wait do not.
    assert stretched_mean(0.12, at_work(0.1, 0.12, 2), 1500) == pytest.approx(0.12)
    assert stretched_mean(0.06, at_work(0.12, 0.06, 2), 1500) == pytest.approx(0.08)


@settings(deadline=None)
@given(
    work=st.floats(1e-4, 5.0),
    runnable=st.integers(1, 8),
    millicores=st.integers(100, 9000),
    period=st.sampled_from([0.01, 0.02, 0.1]),
)
def test_the_upper_bound_is_above_the_mean(work, runnable, millicores, period):
    mean = stretched_mean(work, runnable, millicores)
    assert mean >= work
    assert stretched_upper(work, runnable, millicores, period) >= mean * (1 - 1e-9)


def test_work_of_an_execution():
    assert work_of(0.1, 0.09, 1, 1.0, 1100) == 0.1  # nothing throttles it
    assert work_of(0.1, 0.09, 1, 1.0, 0) == 0.1  # no quota at all
    assert work_of(0.2, 0.09, 1, 1.0, 500) == 0.09  # one thread: what the kernel counted
    assert work_of(0.2, 0.09, 1, 2.0, 1500) == 0.09
    assert work_of(0.2, 0.09, 2, 1.0, 1000) == pytest.approx(0.1)  # the calling thread is not all of it
