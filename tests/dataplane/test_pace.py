"""Pacing: the mean holds, whatever one execution costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.pace import Pace


def test_no_debt_no_wait():
    pace = Pace(0.5, updated_at=10.0, cpu_s=3.0)
    assert pace.hold_until(10.0, 3.0) == 10.0


def test_a_debt_is_paid_off_at_the_agreed_rate():
    pace = Pace(0.5, updated_at=10.0, cpu_s=3.0)
    assert pace.hold_until(11.0, 4.0) == pytest.approx(12.0)
    assert pace.hold_until(12.0, 4.0) == pytest.approx(12.0)


def test_what_was_not_used_lasts_for_a_second():
    pace = Pace(0.5, updated_at=0.0, cpu_s=0.0)
    pace.hold_until(100.0, 0.0)
    assert pace.hold_until(100.0, 0.5) == 100.0
    assert pace.hold_until(100.0, 0.6) == pytest.approx(100.2)


@given(
    cpus=st.floats(0.1, 4.0),
    costs=st.lists(st.floats(0.001, 3.0), min_size=1, max_size=50),
    pauses=st.lists(st.floats(0.0, 5.0), min_size=50, max_size=50),
)
def test_executions_that_wait_for_it_never_exceed_their_share(cpus, costs, pauses):
    """At each start no more was used than was earned, one second's worth of leftovers aside."""
    now = used = 0.0
    pace = Pace(cpus, updated_at=now, cpu_s=used)
    for cost, pause in zip(costs, pauses, strict=False):
        now = max(now + pause, pace.hold_until(now + pause, used))
        assert used <= cpus * now + 1e-6
        now += cost  # on one core
        used += cost
