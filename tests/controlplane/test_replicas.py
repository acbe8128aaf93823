"""How many replicas: what the planner answers of more and of fewer, and how long a wish must last."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane import config
from controlplane.curve import Curve
from controlplane.demand import NOTHING, divided, settled
from controlplane.operation import ServiceState
from controlplane.profiled import of_curve
from controlplane.replicas import Crew, Replicas, missing, wish
from controlplane.shape import Limits
from controlplane.whatif import Host

SETTINGS = config.Replicas()
MODEL = of_curve(Curve(0.080, 0.012, 0.006, 0.002), 1.0, max_threads=1, max_batch=1)  # 0.1 s for a row
LIMITS = Limits(max_millicores=2100, max_instances=2, max_threads=1, max_batch=1)  # some 18 requests a second


def crew(*rates: float, cap: int = 2100, millicores: int = 100_000, caps: tuple[int, ...] = ()) -> Crew:
    """Workers with such rates and budgets of a second."""
    workers = [ServiceState("vision", MODEL, settled(rate, [(1.0, 1.0)]), LIMITS) for rate in rates]
    return Crew(tuple(workers), caps or (cap,) * len(workers), Host(millicores, 1 << 40), config.Planner())


def test_vertical_capacity_that_suffices_is_used_first():
    assert wish(crew(15.0), 1, 1, 4, SETTINGS) == 1


def test_beyond_the_ceiling_there_are_as_many_as_save_something():
    assert wish(crew(25.0), 1, 1, 8, SETTINGS) == 2
    assert wish(crew(20.0, 20.0, 20.0), 3, 1, 8, SETTINGS) == 4
    # No more than twice at a time, and no more than allowed.
    assert wish(crew(100.0), 1, 1, 8, SETTINGS) == 2
    assert wish(crew(30.0, 30.0, 30.0), 3, 1, 4, SETTINGS) == 4
    assert wish(crew(100.0), 1, 1, 1, SETTINGS) == 1


def test_those_that_start_are_counted():
    assert wish(crew(25.0), 2, 1, 8, SETTINGS) == 2
    assert wish(crew(50.0), 2, 1, 8, SETTINGS) > 2


def test_what_a_node_refuses_is_not_counted_on():
    assert wish(crew(15.0, cap=1100), 1, 1, 4, SETTINGS) == 2
    # The other one has room on its node, and clients spread evenly: a third takes from both.
    assert wish(crew(12.0, 12.0, caps=(1100, 2100)), 2, 1, 4, SETTINGS) == 3


def test_where_the_host_has_no_more_replicas_would_not_help():
    assert wish(crew(25.0, millicores=2100), 1, 1, 4, SETTINGS) == 1
    assert wish(crew(25.0, millicores=4200), 1, 1, 4, SETTINGS) == 2


def test_one_less_if_the_others_would_do_for_a_quarter_more():
    assert wish(crew(6.0, 6.0), 2, 1, 4, SETTINGS) == 1  # 15 of 18
    assert wish(crew(7.5, 7.5), 2, 1, 4, SETTINGS) == 2  # 15 would do, 18.75 would not
    assert wish(crew(2.0, 2.0, 2.0), 3, 1, 4, SETTINGS) == 2  # one at a time
    assert wish(crew(2.0, 2.0), 2, 2, 4, SETTINGS) == 2
    assert wish(crew(0.0, 0.0), 2, 1, 4, SETTINGS) == 1


def test_the_one_that_goes_may_be_the_one_with_room():
    assert wish(crew(6.0, 6.0, caps=(2100, 1100)), 2, 1, 4, SETTINGS) == 2


def test_one_that_is_slow_of_late_says_nothing_of_those_to_come():
    calm = crew(15.0, 15.0)
    noisy = replace(calm, workers=(replace(calm.workers[0], slower=2.0, wider=2.0), calm.workers[1]))
    assert wish(calm, 2, 1, 8, SETTINGS) == 2
    # With as many as both could serve alone nobody needs the slow one.
    assert wish(noisy, 2, 1, 8, SETTINGS) in (3, 4)
    assert missing(noisy.outlook(4)) <= SETTINGS.miss_share
    slow = {prospect.mean_s > 0.15 for prospect in noisy.outlook(2).prospects}
    assert slow == {True, False}
    assert [prospect.mean_s > 0.15 for prospect in noisy.outlook(1).prospects] == [True]


def test_the_order_of_workers_says_nothing():
    one, other = crew(12.0, 12.0).workers
    for slower in (1.5, 2.0):
        slow = replace(one, slower=slower, wider=slower)
        both = (
            replace(crew(12.0, 12.0), workers=(slow, other)),
            replace(crew(12.0, 12.0), workers=(other, slow)),
        )
        assert len({wish(each, 2, 1, 8, SETTINGS) for each in both}) == 1


def test_a_reserve_counts_where_the_ceiling_is_reached():
    without = crew(15.0)
    reserving = replace(without, workers=(replace(without.workers[0], reserve=1.0),))
    assert wish(without, 1, 1, 4, SETTINGS) == 1
    assert wish(reserving, 1, 1, 4, SETTINGS) == 2
    half = crew(7.5, 7.5)
    reserving = replace(half, workers=tuple(replace(worker, reserve=1.0) for worker in half.workers))
    assert wish(reserving, 2, 1, 4, SETTINGS) == 2  # and is not given up again


def test_nothing_beyond_the_bounds_is_wished_for():
    assert wish(crew(1.0, 1.0), 6, 1, 4, SETTINGS) == 6  # of somebody who wanted six
    assert wish(crew(1.0, 1.0), 5, 1, 4, SETTINGS) == 4
    assert wish(crew(1.0), 1, 2, 4, SETTINGS) == 1  # likewise
    assert wish(crew(100.0), 1, 3, 4, SETTINGS) == 3


@settings(deadline=None, max_examples=30)
@given(rate=st.floats(0.0, 80.0), count=st.integers(1, 4), least=st.integers(1, 3))
def test_a_wish_that_is_granted_is_no_reason_for_the_opposite(rate: float, count: int, least: int) -> None:
    """Whatever is wished for, the number it leads to is not left again in the other direction."""
    before = wish(crew(*[rate / count] * count), count, least, 6, SETTINGS)
    after = wish(crew(*[rate / before] * before), before, least, 6, SETTINGS)
    assert (before - count) * (after - before) >= 0


def test_demand_is_divided_as_clients_spread():
    one = replace(settled(10.0, [(0.5, 1.0)]), rate_error=3.0, rows_per_request=1.0)
    two = replace(settled(30.0, [(0.5, 0.5), (1.0, 0.5)], 2.0), rate_error=4.0)
    each = divided([one, two], 4, 2.0)
    assert (each.rate, each.rate_error) == (20.0, 2.5)
    assert each.rows_per_request == pytest.approx(1.75)
    assert each.budgets == ((0.5, 0.625), (1.0, 0.375))
    assert divided([NOTHING, NOTHING], 3) == NOTHING
    assert divided([one, NOTHING], 1).budgets == one.budgets


def test_growth_is_asked_for_when_it_has_been_wished_for_long_enough():
    replicas = Replicas(SETTINGS)
    assert not replicas.found(1, 0.0)
    assert replicas.decide(2, 0.0) is None
    assert replicas.decide(4, 2.0) is None
    assert replicas.decide(3, 5.0) == 2  # the least of all that was wished for
    replicas.asked(2)
    assert not replicas.found(2, 7.0)
    assert replicas.decide(3, 7.0) is None


def test_a_shrink_takes_longer_and_starts_anew_after_every_moment_without():
    replicas = Replicas(SETTINGS)
    replicas.found(3, 0.0)
    for now in (0.0, 100.0, 299.0):
        assert replicas.decide(2, now) is None
    assert replicas.decide(3, 299.5) is None
    assert replicas.decide(2, 300.0) is None
    assert replicas.decide(4, 400.0) is None
    assert replicas.decide(2, 401.0) is None
    assert replicas.decide(2, 700.0) is None
    assert replicas.decide(2, 701.0) == 2
    assert replicas.decide(2, 702.0) == 2  # it was not asked for: the call has failed


def test_a_silence_is_no_wish():
    replicas = Replicas(SETTINGS)
    replicas.found(1, 0.0)
    replicas.decide(2, 0.0)
    replicas.nothing_known()
    assert replicas.decide(2, 6.0) is None
    assert replicas.decide(2, 11.0) == 2


def test_whoever_else_changes_the_number_is_given_way():
    replicas = Replicas(SETTINGS)
    replicas.found(2, 0.0)
    replicas.decide(3, 0.0)
    assert replicas.found(1, 4.0)
    assert replicas.decide(2, 6.0) is None
    assert not replicas.found(1, 8.0)
    assert replicas.decide(2, 303.0) is None
    assert replicas.decide(2, 304.0) == 2
