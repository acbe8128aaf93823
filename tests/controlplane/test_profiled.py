"""Latency models of profiles and of curves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.curve import Curve
from controlplane.profiled import MAX_SPREAD, Times, executions, of_curve, of_times

CURVE = Curve(0.050, 0.004, 0.010, 0.002)


@given(
    p50=st.floats(0.001, 1.0),
    more=st.floats(1.0, 1.5),
    most=st.floats(1.0, 1.3),
    skew=st.floats(-0.2, 0.02),
)
def test_executions_have_the_quantiles_and_the_mean_where_they_leave_it_open(p50, more, most, skew):
    p95, p99 = p50 * more, p50 * more * most
    # What the upper half is in the mean is settled by the quantiles; the lower half is `skew` off its median.
    told = np.interp(np.arange(1, 101) / 100, [0.5, 0.95, 0.99], [p50, p95, p99]).mean()
    times = Times(told + skew * p50, p50, p95, p99)
    found = executions(times)
    assert len(found) == 100
    assert found[0] > 0
    assert (np.diff(found) >= -1e-12).all()
    assert (found[49], found[94], found[98]) == pytest.approx((p50, p95, p99))
    # No execution of the lower half takes longer than the median.
    assert np.mean(found) == pytest.approx(min(times.mean_s, told))


def test_a_profile_speaks_for_itself():
    told = {
        (1, 1): Times(0.101, 0.100, 0.110, 0.115),
        (4, 1): Times(0.390, 0.388, 0.400, 0.450),
        (1, 2): Times(0.060, 0.059, 0.065, 0.070),
        (4, 2): Times(0.230, 0.228, 0.250, 0.260),
    }
    model, cautious = of_times(told), of_times(told, quantile=0.99)
    for (rows, threads), times in told.items():
        assert model.mean(rows, threads) == pytest.approx(times.mean_s)
        assert model.upper(rows, threads) == pytest.approx(times.p95_s)
        assert cautious.upper(rows, threads) == pytest.approx(times.p99_s)


@pytest.mark.parametrize("spread", [1.0, 1.3, MAX_SPREAD])
@pytest.mark.parametrize("max_threads", [1, 8])
def test_a_model_of_a_curve_is_the_curve(spread, max_threads):
    model = of_curve(CURVE, spread, max_threads, max_batch=6)
    for threads in (1, 2, 4, 8)[: max_threads.bit_length()]:
        for rows in range(1, 7):
            work_s = CURVE.work(float(rows), float(threads))
            assert model.mean(rows, threads) == pytest.approx(work_s, rel=1e-4)
            assert model.upper(rows, threads) == pytest.approx(spread * work_s, rel=1e-4)
