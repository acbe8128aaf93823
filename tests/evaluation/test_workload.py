import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.workload import Arrival, Phase, day, drift, flash, merge, phases, schedule

patterns = st.lists(
    st.builds(Phase, st.floats(0.1, 20), st.one_of(st.just(0.0), st.floats(0.1, 3))), min_size=1, max_size=6
)


@given(patterns, st.floats(0, 50), st.integers(0, 9), st.booleans())
def test_arrivals_are_in_order_within_the_pattern_and_never_in_a_phase_without_any(
    pattern, rate, seed, poisson
):
    arrivals = schedule("s", rate, pattern, 3, seed=seed, poisson=poisson)
    times = [arrival.at_s for arrival in arrivals]
    assert times == sorted(times)
    border_s = np.cumsum([0.0, *(phase.duration_s for phase in pattern)])
    assert all(0 <= at_s <= border_s[-1] + 1e-9 for at_s in times)
    for phase, start, end in zip(pattern, border_s, border_s[1:], strict=False):
        if phase.factor == 0:
            assert not [at_s for at_s in times if start + 1e-6 < at_s < end - 1e-6]
    assert {arrival.payload for arrival in arrivals} <= {0, 1, 2}


@given(patterns, st.floats(0, 50))
def test_even_arrivals_number_what_the_rate_says(pattern, rate):
    expected = sum(phase.duration_s * phase.factor * rate for phase in pattern)
    assert abs(len(schedule("s", rate, pattern, 1, seed=0, poisson=False)) - expected) <= 0.5 + 1e-6


def test_even_arrivals_are_evenly_spaced():
    arrivals = schedule("s", 2.0, (Phase(1.0, 1.0), Phase(1.0, 2.0)), 1, seed=0, poisson=False)
    assert [arrival.at_s for arrival in arrivals] == [0.25, 0.75, 1.125, 1.375, 1.625, 1.875]


def test_poisson_arrivals_vary_as_they_should():
    counts = [len(schedule("s", 10.0, (Phase(10.0, 1.0),), 1, seed=seed)) for seed in range(300)]
    assert np.mean(counts) == pytest.approx(100, abs=2.5)
    assert np.var(counts) == pytest.approx(100, rel=0.3)


def test_a_day_has_its_base_rate_in_the_mean_and_twice_it_at_most():
    pattern = day(80.0)
    assert sum(phase.duration_s for phase in pattern) == pytest.approx(80)
    assert sum(phase.duration_s * phase.factor for phase in pattern) == pytest.approx(80)
    assert [phase.factor for phase in pattern] == [1.0, 2.0, 1.0, 0.3, 1.0]


def test_a_flash_crowd_comes_once():
    assert flash(600.0, 5.0, 100.0, 20.0) == (Phase(100, 1), Phase(20, 5), Phase(480, 1))
    assert flash(600.0, 5.0, 0.0, 20.0) == (Phase(20, 5), Phase(580, 1))
    assert flash(600.0, 0.5, 590.0, 20.0) == (Phase(590, 1), Phase(10, 0.5))
    assert flash(600.0, 5.0, 0.0, 600.0) == (Phase(600, 5),)


@pytest.mark.parametrize(
    "factor_at_length", [(0, 1, 1), (5, 600, 1), (5, -1, 1), (5, 1, 0), (math.nan, 1, 1)]
)
def test_a_flash_crowd_that_cannot_be(factor_at_length):
    with pytest.raises(ValueError, match="expected"):
        flash(600.0, *factor_at_length)


@given(st.floats(1, 100), st.floats(10, 5000))
def test_a_drift_keeps_its_mean_and_spans_its_factor(factor, seconds):
    pattern = drift(seconds, factor)
    factors = [phase.factor for phase in pattern]
    assert sum(phase.duration_s for phase in pattern) == pytest.approx(seconds)
    assert np.mean(factors) == pytest.approx(1.0)
    assert factors == pytest.approx(factors[::-1])
    assert factors[: len(factors) // 2] == sorted(factors[: len(factors) // 2])
    # The first step is not all at the lowest.
    assert factor * (1 - 12 / len(factors)) <= max(factors) / min(factors) <= factor + 1e-9


def test_a_drift_below_one_is_refused():
    for factor in (0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="1 or more"):
            drift(600.0, factor)


def test_recorded_rates_are_phases_of_an_interval_each():
    assert phases([3, 0], interval_s=2.0) == (Phase(2.0, 3), Phase(2.0, 0))


def test_the_seed_decides():
    def make(seed):
        return schedule("s", 5.0, day(30.0), 4, seed=seed)

    assert make(1) == make(1) != make(2)


def test_schedules_merge_in_order_of_time():
    one, other = (Arrival(0.1, "a", 0), Arrival(0.3, "a", 1)), (Arrival(0.2, "b", 0),)
    assert merge(one, other) == (one[0], other[0], one[1])


def test_a_negative_rate_is_refused():
    with pytest.raises(ValueError, match="zero or more"):
        schedule("s", -1.0, day(1.0), 1, seed=0)
