"""Service times: predictions, and how they follow what is seen."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.servicetime import ServiceTime, ServiceTimes
from tests.dataplane.requests import request

ONE = request(1.0)
TABLE = [ServiceTime(1, 0.010, 0.009, 0.013), ServiceTime(4, 0.022, 0.020, 0.030)]


def test_between_the_sizes_of_the_table_it_interpolates():
    times = ServiceTimes(TABLE)
    assert times.mean(2) == pytest.approx(0.014)
    assert times.means == pytest.approx([0.0, 0.010, 0.014, 0.018, 0.022])
    assert times.highs() == pytest.approx([0.0, 0.013, 0.0186667, 0.0243333, 0.030], rel=1e-4)


def test_beyond_its_end_a_row_costs_the_same():
    times = ServiceTimes(TABLE)
    assert times.mean(8) == pytest.approx(0.044)
    assert ServiceTimes([TABLE[1]]).mean(1) == pytest.approx(0.022)


def test_the_best_batch_has_the_cheapest_rows():
    assert ServiceTimes(TABLE).best_batch(3) == 3
    assert ServiceTimes(TABLE).best_batch(8) == 4
    assert ServiceTimes([ServiceTime(1, 0.01, 0.01, 0.01)]).best_batch(8) == 1


def test_what_is_seen_of_one_size_corrects_all():
    times = ServiceTimes(TABLE)
    for _ in range(50):
        times.observe(1, 0.030, ONE)
    assert times.mean(1) == pytest.approx(0.030, rel=0.01)
    assert times.mean(4) == pytest.approx(0.066, rel=0.01)
    assert times.low(1) == pytest.approx(0.030, rel=0.01)


def test_one_outlier_is_not_the_mean():
    times = ServiceTimes(TABLE)
    for _ in range(20):
        times.observe(1, 0.010, ONE)
    times.observe(1, 0.100, ONE)
    assert times.mean(1) < 0.022


def test_new_predictions_start_anew():
    times = ServiceTimes(TABLE)
    for _ in range(50):
        times.observe(1, 0.1, ONE)
    times.adopt([ServiceTime(1, 0.020, 0.018, 0.022)])
    assert (times.mean(1), times.low(1), times.high(1)) == (0.020, 0.018, 0.022)


def test_recovers_from_a_machine_that_slows_down_fivefold_and_speeds_up_again():
    noise = random.Random(1)
    times = ServiceTimes(TABLE)

    def run(count, factor):
        for _ in range(count):
            rows = noise.choice([1, 4])
            mean = 0.010 if rows == 1 else 0.022
            times.observe(rows, factor * mean * noise.uniform(0.9, 1.1), ONE)

    run(100, 1)
    run(16, 5)
    assert times.mean(1) > 0.040
    assert times.high(1) > 0.050
    run(32, 5)
    assert times.low(1) > 0.040  # slow as it is, hopeless requests are known for it
    run(2, 1)
    assert times.low(1) < 0.011  # two fast ones, and an idle slot refuses no more than before
    run(30, 1)
    assert times.mean(1) < 0.0115
    assert times.high(1) < 0.0115


@pytest.mark.parametrize(
    "table",
    [
        [],
        [ServiceTime(1, 0.0, 0.0, 0.0)],
        [ServiceTime(0, 0.1, 0.1, 0.1)],
        [ServiceTime(1, 0.1, 0.2, 0.3)],
        [ServiceTime(1, 0.1, 0.1, float("inf"))],
        [ServiceTime(1, float("nan"), 0.1, 0.1)],
    ],
)
def test_tables_that_make_no_sense_are_refused(table):
    with pytest.raises(ValueError, match="expected at least one service time"):
        ServiceTimes(table)


@given(
    st.lists(st.tuples(st.integers(1, 12), st.floats(1e-4, 10.0)), max_size=80),
    st.integers(1, 16),
)
def test_quantiles_enclose_the_mean_and_more_rows_take_no_less(seen, rows):
    times = ServiceTimes(TABLE)
    for size, seconds in seen:
        times.observe(size, seconds, ONE)
    assert 0 < times.low(rows) <= times.mean(rows) <= times.high(rows)
    assert times.mean(rows) <= times.mean(rows + 1)


@given(st.floats(0.2, 5.0), st.integers(40, 100))
def test_converges_to_what_is_seen(factor, count):
    times = ServiceTimes(TABLE)
    for _ in range(count):
        times.observe(4, 0.022 * factor, ONE)
    assert times.mean(4) == pytest.approx(0.022 * factor, rel=0.05)
