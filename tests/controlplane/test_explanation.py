"""Why a worker has what it has: each reason where it is the one, and neighbours against what was chosen."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane import config
from controlplane.allocation import Allocation
from controlplane.demand import NOTHING, DemandEstimate
from controlplane.explanation import Explanation, Misses, Round, explain
from controlplane.knapsack import SolverStatus
from controlplane.latency import LatencyModel
from controlplane.operation import ServiceState, Waiting
from controlplane.planner import Assignment, Bound, Plan, Reasons, plan
from controlplane.shape import MEMORY_STEP_BYTES, Limits

SETTINGS = config.Planner()
PLENTY = 1 << 50
HOST = 15_700


def model(row_s: float = 0.1, serial: float = 0.15, fixed: float = 0.0) -> LatencyModel:
    """Give a model whose first row takes `row_s` on one thread, a `fixed` share of it independent of rows."""
    latency = LatencyModel()
    for rows, threads in product((1, 2, 4), (1, 2, 4)):
        work = row_s * (fixed + (1 - fixed) * rows) * (serial + (1 - serial) / threads)
        for _ in range(16):
            latency.record(rows, threads, work, 1.0, 0.0)
    return latency


# Models are slow to make and only read here.
CONV, BATCHING, SMALL = model(), model(fixed=0.8), model(0.005)


def demand(rate: float, budget_s: float | None = None) -> DemandEstimate:
    """Give a Poisson demand, known exactly, of one budget."""
    return DemandEstimate(rate, 0.0, 1.0, ((budget_s, 1.0),) if budget_s else (), 1.0)


def service(latency: LatencyModel = CONV, arriving: DemandEstimate = NOTHING, **more) -> ServiceState:
    return ServiceState("service", latency, arriving, **more)


def a_round(*states: ServiceState, host: int = HOST, memory: int = PLENTY) -> Round:
    return Round(0.0, (), states, host, memory, SETTINGS, plan(states, host, memory, SETTINGS))


def why(state: ServiceState, host: int = HOST) -> Explanation:
    """Plan one service alone, and explain that."""
    return explain(a_round(state, host=host), 0)


# What binds; without it there would be less, or more.


def test_throughput_binds_where_less_could_not_keep_up():
    found = why(service(arriving=demand(30)))
    assert found.bound is Bound.THROUGHPUT
    assert found.smaller.misses.throughput > 0
    assert (found.smaller.misses.queue, found.smaller.misses.budget) == (0, 0)
    assert found.smaller.utilisation > 1 >= found.utilisation
    # What the smaller one can serve is served by it.
    served = 30 / found.smaller.utilisation
    assert why(service(arriving=demand(served))).configuration == found.smaller.configuration


def test_the_queue_binds_where_less_would_be_late_for_what_waits():
    state = service(queue=[Waiting(0.35)] * 9)
    found = why(state)
    assert found.bound is Bound.QUEUE
    assert found.smaller.misses.queue >= 1
    assert (found.smaller.misses.throughput, found.smaller.misses.budget) == (0, 0)
    assert why(replace(state, queue=())).bound is Bound.FLOOR


def test_budgets_bind_where_less_would_be_too_slow_for_what_arrives():
    found = why(service(arriving=demand(2, budget_s=0.09)))
    assert found.bound is Bound.BUDGET
    assert found.smaller.misses.budget > 0
    assert (found.smaller.misses.throughput, found.smaller.misses.queue) == (0, 0)
    assert found.smaller.service_time.upper_s > found.service_time.upper_s
    loose = why(service(arriving=demand(2)))
    assert loose.configuration.cpu_millicores < found.configuration.cpu_millicores


def test_the_floor_binds_where_less_would_do():
    found = why(service())
    assert found.bound is Bound.FLOOR
    assert found.configuration.cpu_millicores == 500
    assert found.smaller is None
    assert why(service(limits=Limits(min_millicores=300))).configuration.cpu_millicores == 300


def test_the_ceiling_binds_where_more_would_be_worth_it():
    state = service(arriving=demand(30), limits=Limits(max_millicores=2100))
    found = why(state)
    assert found.bound is Bound.CEILING
    assert found.configuration.cpu_millicores == 2100
    assert found.larger.misses.throughput < 0
    assert found.larger.cost.total < 0
    assert found.larger.configuration == why(replace(state, limits=Limits())).configuration
    assert found.smaller.misses.throughput > 0


def test_a_ceiling_that_is_just_reached_does_not_bind():
    enough = why(service(arriving=demand(30))).configuration
    found = why(service(arriving=demand(30), limits=Limits(max_millicores=enough.cpu_millicores)))
    assert found.configuration == enough
    assert found.bound is Bound.THROUGHPUT
    assert found.larger is None


def test_a_worker_that_can_use_no_more_is_at_its_ceiling():
    found = why(service(arriving=demand(30), limits=Limits(max_instances=1, max_threads=1)))
    assert found.bound is Bound.CEILING
    assert found.configuration.cpu_millicores == 1100
    assert found.misses.throughput > 10
    assert found.larger is None


def test_a_ceiling_counts_also_for_budgets_that_only_more_can_meet():
    # On one thread a row takes longer than the budget: within the ceiling no misses are counted at all.
    found = why(service(arriving=demand(8.5, budget_s=0.09), limits=Limits(max_millicores=900)))
    assert found.misses == Misses()
    assert found.bound is Bound.CEILING
    assert found.larger.misses.total < 0


def test_the_host_binds_where_others_take_what_it_has():
    state = service(arriving=demand(30))
    of = a_round(state, replace(state, weight=10.0), host=5000)
    light, heavy = (explain(of, index) for index in range(2))
    assert light.bound is Bound.HOST
    assert light.larger.cost.total < 0
    assert light.larger.configuration == why(state).configuration
    assert heavy.bound is Bound.THROUGHPUT


def test_the_host_binds_where_only_a_larger_one_would_do():
    found = why(service(arriving=demand(50)), host=4200)
    assert found.bound is Bound.HOST
    assert found.configuration.cpu_millicores == 4100
    assert found.larger.configuration == why(service(arriving=demand(50))).configuration
    assert found.larger.misses.throughput == pytest.approx(-found.misses.throughput)


def test_of_memory_only_what_others_leave_counts():
    # Less CPU takes larger batches, and so more memory.
    state = service(BATCHING, demand(20), memory_per_row_bytes=MEMORY_STEP_BYTES)
    alone = a_round(state)
    [assignment] = alone.plan.assignments
    of = replace(alone, host_memory=assignment.configuration.memory_bytes)
    assert explain(alone, 0).smaller.configuration.memory_bytes > of.host_memory
    assert explain(of, 0).smaller.configuration.memory_bytes <= of.host_memory


# What was not chosen

WAIT = st.floats(0.05, 1.0)
STATES = st.builds(
    lambda latency, rate, budget_s, queue, weight, ceiling: service(
        latency,
        demand(rate, budget_s),
        queue=sorted(queue, key=lambda waiting: waiting.remaining_s),
        weight=weight,
        limits=Limits(300, ceiling, 3, 2, 2),
        memory_per_row_bytes=MEMORY_STEP_BYTES,
        current=Allocation(600, 1, 1, 1),
    ),
    st.sampled_from([CONV, BATCHING, SMALL]),
    st.floats(0, 40),
    st.sampled_from([None, 0.1, 0.3, 1.0]),
    st.lists(st.builds(Waiting, WAIT, st.integers(1, 2), WAIT), max_size=8),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.sampled_from([800, 1500, 64_000]),
)
ROUNDING = 0.1  # the solver counts in hundredths of a millicore


@settings(max_examples=60, deadline=None)
@given(
    states=st.lists(STATES, min_size=1, max_size=3),
    host=st.integers(600, 6000),
    memory=st.sampled_from([4 * MEMORY_STEP_BYTES, 8 * MEMORY_STEP_BYTES, PLENTY]),
)
def test_what_is_next_costs_as_much_within_the_host(states, host, memory):
    of = a_round(*states, host=host, memory=memory)
    for index, assignment in enumerate(of.plan.assignments):
        found = explain(of, index)
        chosen = assignment.configuration
        assert found.configuration == chosen
        assert found.misses.total == pytest.approx(assignment.reasons.expected_misses)
        for neighbour in (found.smaller, found.larger):
            if neighbour is not None:  # a change costs the switch, in one direction or the other, or nothing
                switch = SETTINGS.switch_cost_millicores
                assert min(abs(neighbour.cost.change - s) for s in (-switch, 0, switch)) < 1e-6
        if found.smaller is not None:
            assert found.smaller.configuration.cpu_millicores < chosen.cpu_millicores
            assert found.smaller.cost.total >= -ROUNDING or of.plan.status is not SolverStatus.OPTIMAL
        if found.larger is not None:
            assert found.larger.configuration.cpu_millicores > chosen.cpu_millicores
            if found.bound is Bound.CEILING:
                assert found.larger.cost.total < 0
            elif found.bound is not Bound.HOST:
                assert found.larger.cost.total >= -ROUNDING


@settings(max_examples=60, deadline=None)
@given(state=STATES, host=st.integers(600, 6000))
def test_the_next_smaller_is_the_one_that_the_planner_compared_with(state, host):
    of = a_round(state, host=host)
    found, reasons = explain(of, 0), of.plan.assignments[0].reasons
    assert (found.smaller is None) == (reasons.smaller is None)
    if found.bound not in (Bound.HOST, Bound.CEILING):
        assert found.bound is reasons.bound
    if found.smaller is not None:
        assert found.smaller.configuration.cpu_millicores == reasons.smaller.cpu_millicores


def test_what_another_planner_chose_is_told_without_neighbours():
    chosen = Allocation(1234, 1, 1, 1)
    given_ = Plan(
        (Assignment(chosen, Reasons(0.5, 0.9, Bound.BUDGET, None)),), False, SolverStatus.OPTIMAL, 0.0
    )
    found = explain(replace(a_round(service()), plan=given_), 0)
    assert found == Explanation(chosen, Bound.BUDGET, 0.9)
    assert found.candidates == 0


def test_what_nothing_can_save_is_told_and_counts_for_nothing():
    found = why(service(queue=[Waiting(0.001, budget_s=1.0)] * 5))
    assert found.lost == 5
    assert found.misses == Misses()
    assert found.bound is Bound.FLOOR


# What it believes of service times


def test_service_times_are_those_under_the_quota():
    measured = why(service(arriving=demand(2))).service_time
    assert (measured.rows, measured.threads, measured.trust) == (1, 1, 1.0)
    assert measured.mean_s == pytest.approx(0.2)  # 0.1 s of work on half a core
    assert measured.upper_s >= measured.mean_s
    assert why(service(LatencyModel(), demand(2))).service_time.trust == 0


def test_candidates_are_all_that_is_allowed():
    assert why(service(limits=Limits(500, 500, 1, 1, 1))).candidates == 1
    assert why(service()).candidates > 100
