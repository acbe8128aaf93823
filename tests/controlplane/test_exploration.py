"""Deliberate tries: whose turn it is, and what ends them."""

from dataclasses import replace
from itertools import pairwise

import pytest

from controlplane import config, planner
from controlplane.config import Explore
from controlplane.demand import DemandEstimate
from controlplane.exploration import EVERY_S, LASTS_S, LONGEST_S, Exploration
from controlplane.latency import LatencyModel
from controlplane.operation import ServiceState, Waiting
from controlplane.shape import Limits

SETTINGS = config.Planner()
ALWAYS = config.Planner(explore=Explore.ALWAYS)
QUEUE = [Waiting(0.3 + 0.01 * place) for place in range(6)]


def service(
    name: str = "a", budget_s: float = 0.04, known=((1, 1, 0.2),), rate: float = 10.0
) -> ServiceState:
    """A row takes 200 ms on one thread; requests have 40."""
    model = LatencyModel()
    for rows, threads, work_s in known:
        for _ in range(16):
            model.record(rows, threads, work_s, 1.0, 0.0)
    demand = DemandEstimate(rate, 0.3, 1.0, ((budget_s, 1.0),), dispersion=1.0)
    return ServiceState(name, model, demand, Limits(max_instances=8, max_threads=16, max_batch=2))


def tick(exploration: Exploration, services, now: float, host: int = 64_000):
    """Plan once; gives what was in hope, and what is tried."""
    hoped = exploration.hoped(services, now)
    plan = planner.plan(hoped, host, 1 << 40, SETTINGS)
    tried = exploration.planned(hoped, plan, host, now)
    return [s.name for s in hoped if s.latency.hopeful], tried


def test_a_deadline_that_seems_impossible_is_tried_and_known_afterwards():
    exploration, slow = Exploration(SETTINGS), service()
    assert tick(exploration, [slow], 0.0) == ([], None)  # nothing has been planned yet
    hoped, tried = tick(exploration, [slow], 1.0)
    assert hoped == ["a"]
    assert tried is not None
    name, configuration = tried
    assert (name, configuration.threads) == ("a", 8)
    # Now it is known, whatever it was: no hope of 8 threads is left.
    for work_s in (0.026, 0.1):
        known = service(known=((1, 1, 0.2), (1, 8, work_s)))
        again = planner.plan([known], 64_000, 1 << 40, SETTINGS).assignments[0].configuration
        assert (again.threads == 8) == (work_s < 0.04)


def test_a_try_lasts_some_seconds_and_the_next_is_later():
    exploration, slow = Exploration(SETTINGS), service()
    tick(exploration, [slow], 0.0)
    began = [at for at in range(1, 80) if tick(exploration, [slow], float(at))[1] is not None]
    # Longer each time, as nothing of what was tried was ever executed.
    assert began == [1, 1 + EVERY_S, 1 + 3 * EVERY_S, 1 + 7 * EVERY_S]
    exploration = Exploration(SETTINGS)
    tick(exploration, [slow], 0.0)
    hoped = [at for at in range(1, 11) if tick(exploration, [slow], float(at))[0]]
    assert hoped == list(range(1, 1 + int(LASTS_S)))


def test_services_take_turns():
    exploration = Exploration(ALWAYS)
    both = [service("a"), service("b", budget_s=2.0)]  # b has nothing to try
    tick(exploration, both, 0.0)
    turns = [tick(exploration, both, float(at))[0] for at in range(1, 8)]
    assert turns[0] == ["a"]
    assert ["b"] in turns
    assert all(len(turn) <= 1 for turn in turns)


@pytest.mark.parametrize(
    ("one", "host"),
    [
        (service(known=()), 64_000),  # nothing known at all: the first plan errs on the large side
        (service(rate=200.0, budget_s=1.0), 4_000),  # the host is full
        (replace(service(budget_s=1.0), queue=QUEUE), 64_000),  # what waits needs all there is
    ],
)
def test_without_slack_nothing_is_tried(one, host):
    exploration = Exploration(ALWAYS)
    for at in range(5):
        assert tick(exploration, [one], float(at), host) == ([], None)


@pytest.mark.parametrize(
    ("when", "budget_s", "tried"),
    [
        (Explore.NEVER, 0.04, False),
        (Explore.IMPOSSIBLE, 0.04, True),
        (Explore.IMPOSSIBLE, 0.19, False),  # two threads are believed to do
        (Explore.IMPOSSIBLE, 0.21, False),  # one thread does
        (Explore.ALWAYS, 0.04, True),
    ],
)
def test_when_to_try_is_for_the_configuration_to_say(when, budget_s, tried):
    exploration, one = Exploration(config.Planner(explore=when)), service(budget_s=budget_s)
    assert any(tick(exploration, [one], float(at))[1] is not None for at in range(5)) is tried


def test_deadlines_are_impossible_where_they_are_for_most():
    exploration, one = Exploration(SETTINGS), service()
    few = replace(one, demand=replace(one.demand, budgets=((0.04, 0.4), (1.0, 0.6))))
    many = replace(one, demand=replace(one.demand, budgets=((0.04, 0.6), (1.0, 0.4))))
    assert not any(tick(exploration, [few], float(at))[1] for at in range(5))
    assert any(tick(exploration, [many], float(at))[1] for at in range(5, 10))


def test_tries_that_show_nothing_come_to_be_an_hour_apart():
    exploration, slow = Exploration(SETTINGS), service()
    began = [at for at in range(0, 30_000, 200) if tick(exploration, [slow], float(at))[1] is not None]
    assert all(later - at >= LONGEST_S for at, later in pairwise(began[-4:]))


def test_after_a_try_that_has_shown_something_the_next_look_is_no_later():
    exploration, known = Exploration(SETTINGS), service(known=((1, 1, 0.2), (1, 8, 0.1)))
    tick(exploration, [service()], 0.0)
    assert tick(exploration, [service()], 1.0)[1] is not None
    looks = [at for at in range(4, 40) if tick(exploration, [known], float(at))[0]]
    assert looks == [1 + EVERY_S, 1 + 2 * EVERY_S, 1 + 3 * EVERY_S]


def test_who_is_in_time_tries_nothing():
    exploration, well = Exploration(SETTINGS), replace(service(), on_time=0.9)
    assert all(tick(exploration, [well], float(at)) == ([], None) for at in range(5))


def test_a_try_takes_nothing_from_others():
    exploration, busy = Exploration(SETTINGS), replace(service("b", budget_s=2.0, rate=15.0), on_time=1.0)
    host = 6_000
    alone = planner.plan([busy], host, 1 << 40, SETTINGS).assignments[0].configuration.cpu_millicores
    tried = []
    for at in range(5):
        hoped = exploration.hoped([service(), busy], float(at))
        plan = planner.plan(hoped, host, 1 << 40, SETTINGS)
        began = exploration.planned(hoped, plan, host, float(at))
        tried.append(began is not None)
        assert plan.assignments[1].configuration.cpu_millicores == alone
    assert any(tried)
