"""Work under a quota."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.stretch import stretched_mean, stretched_upper, work_of


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
