"""Asked for more than it can do, in virtual time: nothing is wasted, nobody starves, and estimates recover."""

import math
from collections import Counter

import numpy as np
import pytest

from dataplane.batcher import Batcher, Shape
from dataplane.request import Outcome
from dataplane.servicetime import ServiceTime, ServiceTimes
from tests.dataplane.requests import request
from tests.dataplane.virtual import serve

ROW_S = 0.07
DEADLINE_S = 0.5


def batcher(instances=1, max_batch=1, patience_s=0.0):
    """A worker whose first row costs ROW_S, and each further one of a batch half as much."""
    table = [
        ServiceTime(rows, batch_s(rows), 0.8 * batch_s(rows), 1.3 * batch_s(rows))
        for rows in range(1, max_batch + 1)
    ]
    return Batcher(Shape(instances, 1, max_batch), ServiceTimes(table), 1024, patience_s)


def batch_s(rows):
    return ROW_S * (0.5 + 0.5 * rows)


def arrivals(rate, seconds, rng, **parts):
    """Poisson."""
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    return [request(at + DEADLINE_S, arrived_at=at, **parts) for at in times.tolist()]


def noise(rng, cv=0.2):
    variance = math.log1p(cv * cv)
    return math.exp(rng.normal(-variance / 2, math.sqrt(variance)))


def on_time_rate(rate, seconds, instances, max_batch, patience_s):
    """Answers in time a second, at that rate."""
    rng = np.random.default_rng(5)
    offered = arrivals(rate, seconds, rng)
    one = batcher(instances, max_batch, patience_s)
    ended = serve(one, offered, lambda execution: batch_s(execution.rows) * noise(rng))
    assert set(ended) == set(offered)
    return Counter(ended.values())[Outcome.ON_TIME] / offered[-1].arrived_at


@pytest.mark.parametrize(
    ("instances", "max_batch", "patience_s"), [(1, 1, 0.0), (3, 1, 0.0), (1, 8, 0.0), (1, 1, 0.25)]
)
def test_overload_costs_no_goodput(instances, max_batch, patience_s):
    most = instances * max_batch / batch_s(max_batch)
    capacity = max(
        on_time_rate(share * most, 80, instances, max_batch, patience_s) for share in (0.8, 0.9, 1, 1.1, 1.25)
    )
    for factor in (2, 5, 10):
        assert on_time_rate(factor * most, 30, instances, max_batch, patience_s) >= 0.95 * capacity


def shares(rates, seconds=300.0):
    """Of clients with these rates and equal deadlines, the share of each one's requests that was answered in time."""
    rng = np.random.default_rng(11)
    offered = [arrivals(rate, seconds, rng) for rate in rates]
    of = {asked: client for client, all_of in enumerate(offered) for asked in all_of}
    in_order = sorted(of, key=lambda asked: asked.queued_at)
    ended = serve(batcher(), in_order, lambda _: ROW_S * noise(rng))
    served = Counter(of[asked] for asked, outcome in ended.items() if outcome is Outcome.ON_TIME)
    return [served[client] / len(offered[client]) for client in range(len(rates))]


def test_equal_clients_get_equal_shares():
    found = shares([8.0] * 5)  # 2.8 times what it can take
    mean = sum(found) / len(found)
    # Of some 2,400 requests each: four standard deviations.
    bound = 4 * math.sqrt(mean * (1 - mean) / 2400)
    assert mean == pytest.approx(1 / ROW_S / 40, rel=0.05)
    assert all(abs(share - mean) <= bound for share in found)


def test_who_asks_for_little_is_not_pushed_aside_by_who_asks_for_much():
    greedy, *modest = shares([40.0, 1.0, 1.0])
    # Of 300 requests each: four standard deviations.
    bound = 4 * math.sqrt(greedy * (1 - greedy) / 300)
    assert all(share >= greedy - bound for share in modest)


def test_with_grace_they_are_served_late_rather_than_never():
    rng = np.random.default_rng(3)
    burst = arrivals(10 / ROW_S, 3.0, rng, grace_s=60.0)  # takes 30 s
    ended = serve(batcher(), burst, lambda _: ROW_S * noise(rng))
    assert set(ended) == set(burst)
    assert set(ended.values()) == {Outcome.ON_TIME, Outcome.LATE}


def test_late_ones_take_nothing_from_those_that_can_be_on_time():
    rng = np.random.default_rng(3)
    burst = arrivals(10 / ROW_S, 3.0, rng, grace_s=300.0)
    steady = arrivals(0.5 / ROW_S, 120.0, rng)
    in_order = sorted([*burst, *steady], key=lambda asked: asked.queued_at)
    ended = serve(batcher(), in_order, lambda _: ROW_S * noise(rng))
    after = Counter(ended[asked] for asked in steady if asked.arrived_at > 4.0)
    # A late one that runs is not interrupted, that is all.
    assert after[Outcome.ON_TIME] >= 0.97 * after.total()
    assert {ended[asked] for asked in burst} == {Outcome.ON_TIME, Outcome.LATE}


@pytest.mark.parametrize("factor", [0.9, 3.0])
def test_estimates_recover_when_the_machine_slows_down_and_speeds_up_again(factor):
    """Eight times slower, not even one request of these can be in time: all are refused, but for one a second."""
    rng = np.random.default_rng(7)
    offered = arrivals(factor / ROW_S, 90.0, rng)
    one = batcher()
    slow = range(30, 60)

    def duration(execution):
        return ROW_S * noise(rng) * (8.0 if int(execution.started_at) in slow else 1.0)

    ended = serve(one, offered, duration)

    def rate(begin, end):
        within = [ended[asked] for asked in offered if begin <= asked.arrived_at < end]
        return within.count(Outcome.ON_TIME) / (end - begin)

    before = rate(5, 30)
    assert rate(35, 59) <= 0.1 * before
    assert rate(75, 90) >= 0.9 * before  # fifteen probes later
    assert one.times.mean(1) == pytest.approx(ROW_S, rel=0.25)
