"""Demand: rates, their uncertainty, budgets and burstiness."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.demand import (
    DEVIATION_STEP,
    DEVIATIONS,
    MAX_DEVIATIONS,
    MAX_DISPERSION,
    MIN_DISPERSION,
    MOST_BUDGETS,
    NOTHING,
    QUANTILE,
    SUPPORT,
    Demand,
    DemandEstimate,
    Forecast,
    settled,
)

NONE = [(1000.0, 0)]


def steady(arrivals: int, windows: int, window_s: float = 0.2, rows: int = 1) -> Demand:
    """Give the demand after so many equal windows."""
    demand = Demand()
    for window in range(1, windows + 1):
        demand.record(window_s, arrivals, arrivals * rows, [(1000.0, arrivals)], window * window_s)
    return demand


def test_nothing_seen():
    assert Demand().estimate() == NOTHING


def test_a_steady_rate_from_the_first_window():
    for windows in (1, 10, 500):
        estimate = steady(4, windows, rows=2).estimate()
        assert estimate.rate == pytest.approx(20)
        assert estimate.rows_per_request == pytest.approx(2)


def test_what_the_network_holds_back_is_demand():
    demand = steady(4, 200)
    for window in range(201, 206):  # a second in which headers come through, and no body
        demand.record(0.2, 4, 0, NONE, window * 0.2)
    estimate = demand.estimate()
    assert estimate.rate == pytest.approx(20, rel=0.05)
    assert estimate.rows_per_request == 1


def test_rows_that_change_are_known_before_long():
    demand = steady(4, 300)
    for window in range(301, 501):
        demand.record(0.2, 4, 16, [(1000.0, 4)], window * 0.2)
    assert demand.estimate().rows_per_request > 3.5


def test_bounds_that_change_all_the_time_are_not_kept_for_ever():
    demand = Demand()
    for window in range(1000):
        bounds_ms = [1000.0 + window + step / 64 for step in range(64)]
        demand.record(0.2, 64, 64, [(bound_ms, 1) for bound_ms in bounds_ms], window * 0.2)
    assert len(demand._budgets) == MOST_BUDGETS
    # Those of the last four windows are left; what lies below all bounds is in the middle of that.
    budgets = demand.budgets()
    assert budgets[0][0] >= (1000 + 996) / 2000
    assert budgets[-1][0] == pytest.approx(2.0, abs=1e-3)
    assert sum(share for _, share in budgets) == pytest.approx(1)


def test_what_never_comes_is_none():
    demand = Demand()
    for window in range(1000):  # two of three uploads outlive their deadline, or are no requests at all
        demand.record(0.2, 6, 2, [(1000.0, 2)], window * 0.2)
    assert demand.estimate().rate == pytest.approx(10, rel=0.05)
    nothing = Demand()
    nothing.record(0.2, 4, 0, NONE, 0.2)  # the first of them may still come
    assert nothing.estimate().rate == pytest.approx(20, rel=0.2)


def test_uncertainty_shrinks_with_observation_to_that_of_the_slow_horizon():
    errors = [steady(4, windows).estimate().rate_error for windows in (1, 5, 500)]
    assert errors == sorted(errors, reverse=True)
    # Twice the slow horizon counts: √(20/40).
    assert errors[-1] == pytest.approx(0.707, abs=0.01)


def test_a_burst_shows_at_once_and_a_lull_within_seconds():
    demand = steady(4, 500)
    for _ in range(5):
        demand.record(0.2, 12, 12, [(1000.0, 12)], 0.0)
    assert demand.estimate().rate > 30
    lull = steady(4, 500)
    for _ in range(5):
        lull.record(0.2, 0, 0, (), 0.0)
    assert 5 < lull.estimate().rate < 15
    for _ in range(20):
        lull.record(0.2, 0, 0, (), 0.0)
    assert lull.estimate().rate < 3


def test_what_chance_does_to_a_steady_demand_is_no_change():
    rng = random.Random(1)
    demand = steady(4, 500)
    rates = []
    for _ in range(2000):
        arrivals = sum(rng.random() < 0.04 for _ in range(100))
        demand.record(0.2, arrivals, arrivals, [(1000.0, arrivals)], 0.0)
        rates.append(demand.estimate().rate)
    assert sorted(rates)[100] > 15
    assert sorted(rates)[-100] < 25


def test_windows_of_any_length_say_the_same():
    long, short = steady(100, 1, window_s=5.0), steady(1, 100, window_s=0.05)
    assert long.estimate().rate == pytest.approx(short.estimate().rate)


def test_a_window_of_no_length_says_nothing():
    demand = Demand()
    demand.record(0.0, 5, 5, (), 0.0)
    assert demand.estimate() == NOTHING


def test_lost_windows_age_what_was_known():
    demand = steady(4, 500)
    demand.record(0.2, 0, 0, (), 1e4)
    assert demand.estimate().rate == pytest.approx(0)


def test_budgets_are_the_middles_of_their_buckets():
    demand = Demand()
    demand.record(1.0, 10, 10, [(100.0, 0), (200.0, 5), (400.0, 4), (math.inf, 1)], 0.0)
    budgets = demand.estimate().budgets
    assert [s for s, _ in budgets] == pytest.approx([0.15, 0.3, 0.4])
    assert [share for _, share in budgets] == pytest.approx([0.5, 0.4, 0.1])


def test_a_flood_says_no_more_of_budgets_than_its_time_and_a_trickle_less():
    long, short = [(100.0, 0), (200.0, 0), (1000.0, 20)], [(100.0, 0), (200.0, 1), (1000.0, 0)]
    calm = Demand()
    for second in range(60):
        calm.record(1.0, 20, 20, long, float(second))
    calm.record(1.0, 1, 1, short, 60.0)
    (trickled, share), _ = calm.estimate().budgets
    assert trickled == pytest.approx(0.15)
    assert share < 0.02
    calm.record(1.0, 200, 200, [(100.0, 0), (200.0, 200), (1000.0, 0)], 61.0)
    assert calm.estimate().budgets[0][1] == pytest.approx(1 / 5.5, abs=0.05)


def test_old_budgets_are_forgotten():
    demand = Demand()
    demand.record(1.0, 100, 100, [(100.0, 100), (200.0, 0)], 0.0)
    for _ in range(600):
        demand.record(1.0, 1, 1, [(100.0, 0), (200.0, 1)], 0.0)
    assert demand.estimate().budgets == ((0.15, 1.0),)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=80))
def test_budgets_are_a_small_distribution_that_errs_on_the_short_side(counts):
    demand = Demand()
    bounds = [10.0 * 1.1**index for index in range(len(counts))]
    demand.record(1.0, sum(counts), sum(counts), zip(bounds, counts, strict=True), 0.0)
    budgets = demand.estimate().budgets
    assert len(budgets) <= SUPPORT
    assert [s for s, _ in budgets] == sorted(s for s, _ in budgets)
    if sum(counts):
        assert sum(share for _, share in budgets) == pytest.approx(1)
        mean_s = sum(s * share for s, share in budgets)
        assert mean_s <= sum(b * c for b, c in zip(bounds, counts, strict=True)) / sum(counts) / 1000


def test_dispersion_tells_poisson_from_clockwork_from_bursts():
    random = np.random.default_rng(7)
    poisson, clockwork, bursts = Demand(), Demand(), Demand()
    for step in range(600):
        poisson.record(0.2, int(random.poisson(4)), 0, (), 0.2 * step)
        clockwork.record(0.2, 4, 0, (), 0.2 * step)
        bursts.record(0.2, 40 if step % 10 == 0 else 0, 0, (), 0.2 * step)
    assert poisson.estimate().dispersion == pytest.approx(1, abs=0.25)
    assert clockwork.estimate().dispersion == MIN_DISPERSION
    assert MAX_DISPERSION - 1 < bursts.estimate().dispersion <= MAX_DISPERSION


def test_a_change_of_rate_is_no_burst():
    demand = Demand()
    for second, arrivals in enumerate([2] * 10 + [25] * 10 + [2] * 60):
        demand.record(1.0, arrivals, 0, (), second)
    assert demand.estimate().dispersion <= 1


def test_a_steady_demand_is_what_is_believed_in_the_long_run():
    learned, told = steady(4, 1000).estimate(), settled(20.0, [(0.5, 1.0)])
    assert learned.rate == pytest.approx(told.rate)
    assert learned.rate_error == pytest.approx(told.rate_error, rel=1e-3)
    assert learned.budgets == told.budgets
    assert learned.rows_per_request == told.rows_per_request


def believed(rate: float, rate_error: float = 0.0, dispersion: float = 1.0) -> DemandEstimate:
    return DemandEstimate(rate, rate_error, 1.0, (), dispersion)


def test_a_forecast_adds_what_chance_and_what_ignorance_do():
    chance = Forecast().ahead(believed(16), 1.0)
    assert (chance.mean, chance.deviation) == (16, 4)
    assert chance.upper == pytest.approx(16 + 1.645 * 4)
    # √(16·1 + 3²) = 5; over four seconds √(64·1 + 12²), and of bursts √(64·4 + 12²) = 20.
    assert Forecast().ahead(believed(16, rate_error=3), 1.0).deviation == pytest.approx(5)
    assert Forecast().ahead(believed(16, rate_error=3), 4.0).deviation == pytest.approx(math.sqrt(208))
    bursts = Forecast().ahead(believed(16, rate_error=3, dispersion=4), 4.0)
    assert (bursts.mean, bursts.deviation) == pytest.approx((64, 20))


def test_a_forecast_that_was_exceeded_is_higher_and_else_a_little_lower():
    forecast, estimate = Forecast(), believed(16)
    forecast.learn(forecast.ahead(estimate, 1.0), 23)  # more than 22.58
    assert forecast.ahead(estimate, 1.0).upper == pytest.approx(16 + (1.645 + 0.19) * 4)
    for _ in range(19):
        forecast.learn(forecast.ahead(estimate, 1.0), 22)
    assert forecast.ahead(estimate, 1.0).upper == pytest.approx(16 + 1.645 * 4)


def test_a_forecast_of_nothing_teaches_nothing():
    forecast = Forecast()
    ahead = forecast.ahead(NOTHING, 1.0)
    assert (ahead.mean, ahead.upper) == (0, 0)
    forecast.learn(ahead, 5)
    assert forecast.ahead(believed(16), 1.0) == Forecast().ahead(believed(16), 1.0)


@given(
    st.lists(
        st.tuples(
            st.floats(0.01, 1e4),
            st.floats(0.0, 1e3),
            st.floats(0.5, 8.0),
            st.floats(-3.0, MAX_DEVIATIONS - 1),
        ),
        min_size=1,
        max_size=300,
    )
)
def test_a_forecast_is_exceeded_no_more_than_its_share_and_what_it_took_to_learn(seconds):
    forecast, exceeded = Forecast(), 0
    for rate, rate_error, dispersion, off in seconds:
        ahead = forecast.ahead(believed(rate, rate_error, dispersion), 1.0)
        assert 0 <= ahead.mean <= ahead.upper <= ahead.mean + MAX_DEVIATIONS * ahead.deviation
        arrivals = max(0, math.floor(ahead.mean + off * ahead.deviation))
        exceeded += arrivals > ahead.upper
        forecast.learn(ahead, arrivals)
    learned = (MAX_DEVIATIONS - DEVIATIONS) / DEVIATION_STEP
    assert exceeded <= (1 - QUANTILE) * len(seconds) + learned + 1e-6


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param(lambda rng: rng.poisson(20, 4000), id="steady"),
        pytest.param(lambda rng: rng.poisson(20 + 15 * np.sin(np.arange(4000) / 40)), id="waves"),
        pytest.param(lambda rng: rng.poisson(rng.gamma(2.0, 10.0, 4000)), id="bursts"),
        pytest.param(lambda rng: 160 + np.cumsum(rng.choice([-1, 1], 4000)) % 80, id="walk"),
        pytest.param(lambda rng: np.where(np.arange(4000) < 2000, 10, 100) + rng.poisson(5, 4000), id="jump"),
    ],
)
def test_a_forecast_covers_its_share_whatever_the_arrivals_are_like(counts):
    rng = np.random.default_rng(3)
    demand, forecast, covered = Demand(), Forecast(), []
    for second, count in enumerate(counts(rng).tolist()):
        if second:
            ahead = forecast.ahead(demand.estimate(), 1.0)
            covered.append(count <= ahead.upper)
            forecast.learn(ahead, count)
        demand.record(1.0, count, count, [(1000.0, count)], float(second))
    assert sum(covered) / len(covered) == pytest.approx(QUANTILE, abs=0.01)
