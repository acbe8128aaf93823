"""The planner: against brute force, and choice by choice."""

import heapq
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controlplane import config
from controlplane.allocation import Allocation
from controlplane.demand import NOTHING, DemandEstimate
from controlplane.knapsack import SolverStatus
from controlplane.latency import LatencyModel
from controlplane.lateness import late
from controlplane.operation import Operations, Queue, ServiceState, Waiting, operations
from controlplane.planner import Bound, plan
from controlplane.shape import MEMORY_STEP_BYTES, Limits, ladder, shapes
from controlplane.stretch import WAITING

SETTINGS = config.Planner(solver_gap=0.0)
PLENTY = 1 << 50
HOST = 15_700


def model(row_s: float = 0.1, serial: float = 0.15, fixed: float = 0.0, rows=(1, 2, 4)) -> LatencyModel:
    """Give a model whose first row takes `row_s` on one thread, a `fixed` share of it independent of rows."""
    latency = LatencyModel()
    for b, t in product(rows, (1, 2, 4)):
        work = row_s * (fixed + (1 - fixed) * b) * (serial + (1 - serial) / t)
        for _ in range(16):
            latency.record(b, t, work, 1.0, 0.0)
    return latency


# Models are slow to make and only read here.
CONV, BATCHING, SMALL = model(), model(fixed=0.8), model(0.005)


def demand(rate: float, budget_s: float | None = None, rows: float = 1.0) -> DemandEstimate:
    """Give a Poisson demand, known exactly, of one budget."""
    return DemandEstimate(rate, 0.0, rows, ((budget_s, 1.0),) if budget_s else (), 1.0)


def service(latency: LatencyModel = CONV, arriving: DemandEstimate = NOTHING, **more) -> ServiceState:
    return ServiceState("service", latency, arriving, **more)


def millicores(**more) -> int:
    """Plan one service alone, for its CPU."""
    return choose(service(**more)).configuration.cpu_millicores


def choose(state: ServiceState, host: int = HOST):
    """Plan one service alone."""
    return plan([state], host, PLENTY, SETTINGS).assignments[0]


# One service


def test_nothing_arrives_nothing_waits():
    choice = choose(service())
    assert choice.configuration == Allocation(500, 1, 1, 1)
    assert choice.reasons.bound is Bound.FLOOR
    assert choice.reasons.smaller is None
    assert choice.reasons.expected_misses == 0


def test_a_host_below_the_floor():
    assert choose(service(), host=300).configuration == Allocation(300, 1, 1, 1)


def test_throughput_asks_for_instances_not_threads():
    choice = choose(service(arriving=demand(30)))
    assert choice.configuration.threads == 1
    assert choice.configuration.instances == 4
    assert choice.configuration.max_batch == 1
    assert choice.reasons.bound is Bound.THROUGHPUT
    assert choice.reasons.utilisation <= SETTINGS.max_utilisation
    assert choice.reasons.smaller.cpu_millicores < choice.configuration.cpu_millicores


def test_throughput_asks_for_batches_where_they_pay():
    choice = choose(service(BATCHING, demand(20)))
    assert choice.configuration.max_batch > 1
    assert (
        choice.configuration.cpu_millicores
        < choose(service(arriving=demand(20))).configuration.cpu_millicores
    )


def test_batch_limits_that_batches_do_not_grow_to_are_not_chosen():
    queue = [Waiting(0.5)] * 40
    assert choose(service(queue=queue)).configuration.max_batch <= 2


def test_the_overhead_of_requests_counts():
    cheap = choose(service(SMALL, demand(100), request_overhead_s=0.0)).configuration
    dear = choose(service(SMALL, demand(100), request_overhead_s=0.005)).configuration
    assert dear.cpu_millicores >= cheap.cpu_millicores + 400


def test_tight_budgets_ask_for_threads():
    choice = choose(service(arriving=demand(2, budget_s=0.09)))
    assert choice.configuration.threads > 1
    assert choice.reasons.bound is Bound.BUDGET
    assert choice.reasons.expected_misses < 0.5


def test_budgets_that_nothing_can_meet_cost_nothing():
    assert (
        choose(service(arriving=demand(2, budget_s=0.01))).configuration
        == choose(service(arriving=demand(2))).configuration
    )


def test_budgets_below_one_core_are_met_through_throttling():
    tight = choose(service(SMALL, demand(5, budget_s=0.020))).configuration
    loose = choose(service(SMALL, demand(5, budget_s=0.200))).configuration
    assert loose.cpu_millicores == 500
    assert tight.cpu_millicores > 500


def test_what_waits_is_saved():
    queue = [Waiting(0.35)] * 9  # three instances in three rounds of 0.1 s and contention
    choice = choose(service(queue=queue))
    assert choice.reasons.bound is Bound.QUEUE
    assert choice.reasons.expected_misses == 0
    assert choice.configuration.instances * choice.configuration.threads >= 3


def test_of_what_arrived_tight_a_miss_counts_less():
    # One row on one thread takes 0.1 s.
    assert millicores(arriving=demand(20, budget_s=0.149)) < millicores(arriving=demand(20, budget_s=0.151))
    # Whoever has as little left only after a wait is worth all of it.
    arriving = demand(20, budget_s=1.0)
    waited = millicores(arriving=arriving, queue=[Waiting(0.12, budget_s=1.0)] * 6)
    tight = millicores(arriving=arriving, queue=[Waiting(0.12, budget_s=0.12)] * 6)
    assert tight < waited


def test_what_runs_is_in_the_way():
    free = choose(service(queue=[Waiting(0.25)] * 2)).configuration
    busy = choose(service(queue=[Waiting(0.25)] * 2, running=[(0.0, 1)] * 2)).configuration
    assert busy.cpu_millicores > free.cpu_millicores


def test_what_nothing_can_save_costs_nothing():
    assert choose(service(queue=[Waiting(0.001)] * 50)).configuration.cpu_millicores == 500


def test_overload_takes_the_shape_with_the_fewest_misses():
    choice = choose(service(arriving=demand(200)), host=4200)
    assert choice.configuration.cpu_millicores == 4100
    assert (choice.configuration.instances, choice.configuration.threads) == (4, 1)
    assert choice.reasons.utilisation > 1
    assert choice.reasons.expected_misses > 150


def test_requests_of_several_rows():
    one = choose(service(arriving=demand(20, rows=1.0)))
    four = choose(service(arriving=demand(5, rows=4.0)))
    assert four.configuration.cpu_millicores == one.configuration.cpu_millicores
    assert four.reasons.utilisation == pytest.approx(one.reasons.utilisation, rel=0.15)


def test_executions_are_of_whole_requests():
    def rows(of_a_request: float) -> set[int]:
        return set(operations(service(BATCHING, demand(100, rows=of_a_request)), HOST, 0.9).rows.tolist())

    assert rows(1.0) == {1, 2, 3, 4, 5, 6, 7, 8}
    assert rows(2.5) == {3, 5, 8}
    assert rows(4.0) == {4, 8}


@pytest.mark.parametrize("millicores", [500, 600, 700, 800, 900])
@pytest.mark.parametrize(("latency", "rows"), [(SMALL, 1), (BATCHING, 4)])
def test_what_fills_its_quota_gets_a_larger_one(latency, rows, millicores):
    # Clients that ask again once they are answered: never more arrives than the quota serves, and of its CPU time
    # as little as 0.93 was accounted for. Batches are no way out: no two requests of 4 rows are one of 6.
    state = service(
        latency,
        limits=Limits(max_batch=6 if rows > 1 else 8),
        current=Allocation(millicores, 1, 1, 1),
        queue=[Waiting(60.0, rows)] * 7,
    )
    cpu_s = latency.mean(rows, 1) + state.request_overhead_s
    arriving = demand(0.93 * millicores / 1000 / cpu_s, rows=float(rows))
    choice = choose(replace(state, demand=arriving, cores_used=0.97 * millicores / 1000))
    assert choice.configuration.cpu_millicores > millicores
    assert choice.reasons.bound is Bound.THROUGHPUT
    # Where nothing waits, or CPU is left over, what arrives is all there is.
    full = replace(state, cores_used=0.97 * millicores / 1000)
    assert full.saturated(SETTINGS.saturated)
    assert not replace(full, queue=()).saturated(SETTINGS.saturated)
    assert not replace(full, cores_used=0.8 * millicores / 1000).saturated(SETTINGS.saturated)


def test_a_rate_that_is_not_known_well_needs_more():
    known = demand(18)
    assert millicores(arriving=replace(known, rate_error=4.0)) > millicores(arriving=known)


def test_a_change_of_shape_must_be_worth_it():
    state = service(arriving=demand(30))
    best = choose(state).configuration
    other = replace(best, max_batch=best.max_batch + 1)
    assert choose(replace(state, current=best)).configuration == best
    assert choose(replace(state, current=other)).configuration == other
    assert choose(replace(state, current=replace(best, max_batch=64))).configuration == best


def test_a_plan_tells_what_staying_would_miss():
    loose = service(arriving=demand(30, budget_s=1.0))
    best = choose(loose).configuration
    assert choose(replace(loose, current=best)).reasons.spared == pytest.approx(0, abs=1e-9)
    worse = Allocation(1100, 1, 1, 1)
    spared = choose(replace(loose, current=worse)).reasons.spared
    assert spared > 5
    assert choose(replace(loose, current=replace(best, cpu_millicores=123))).reasons.spared == 0


def test_memory_is_that_of_all_slots_and_never_below_the_peak():
    step = MEMORY_STEP_BYTES
    state = service(arriving=demand(30), memory_base_bytes=9 * step, memory_per_row_bytes=2 * step)
    assert choose(state).configuration.memory_bytes == (9 + 4 * 2) * step
    assert choose(replace(state, memory_base_bytes=9 * step - 1)).configuration.memory_bytes == 17 * step
    assert choose(replace(state, memory_peak_bytes=20 * step)).configuration.memory_bytes == 20 * step


def test_no_limit_of_memory_is_planned_above_its_ceiling():
    step = MEMORY_STEP_BYTES
    free = service(arriving=demand(30), memory_base_bytes=9 * step, memory_per_row_bytes=2 * step)
    wished = choose(free).configuration  # 17 steps, for 4 rows at once
    assert wished.instances * wished.max_batch == 4

    def limited(steps: float, **fields) -> Allocation:
        limits = replace(free.limits, max_memory_bytes=int(steps * step))
        return choose(replace(free, limits=limits, **fields)).configuration

    assert limited(17) == wished
    fewer = limited(16.9)
    assert fewer.memory_bytes == (9 + 2 * fewer.instances * fewer.max_batch) * step < 17 * step
    # A peak of the past takes no instance away, and what needs more at its least gets all there may be.
    assert limited(17, memory_peak_bytes=40 * step) == wished
    leaking = limited(17, memory_base_bytes=40 * step)
    assert (leaking.instances, leaking.max_batch, leaking.memory_bytes) == (1, 1, 17 * step)
    # What the rows in execution take is in use afterwards, and then no reason to allow fewer.
    used = limited(17, memory_base_bytes=17 * step, current=wished)
    assert (used.instances, used.max_batch, used.memory_bytes) == (
        wished.instances,
        wished.max_batch,
        17 * step,
    )


def test_a_model_never_seen_is_planned():
    choice = choose(service(LatencyModel(), demand(15, budget_s=1.0)))
    assert choice.configuration.cpu_millicores >= 1500
    assert choice.reasons.utilisation <= 1


RATES = st.floats(0.5, 60)


@settings(max_examples=40, deadline=None)
@given(rate=RATES, less=st.floats(0.3, 1.0), budget_s=st.floats(0.25, 2.0), more=st.floats(1.0, 3.0))
def test_less_demand_or_looser_budgets_never_take_more(rate, less, budget_s, more):
    limits = Limits(max_batch=1)

    def cpu(arriving: DemandEstimate) -> int:
        return choose(service(arriving=arriving, limits=limits)).configuration.cpu_millicores

    here = cpu(demand(rate, budget_s))
    assert cpu(demand(rate * less, budget_s)) <= here
    assert cpu(demand(rate, budget_s * more)) <= here


def most_instances(found: Operations) -> Operations:
    """Only the operation of the shape with the most instances, of which there is one."""
    instances = found.shapes.instances[found.shape]
    [index] = np.flatnonzero(instances == instances.max())
    columns = ("shape", "rows", "load", "served", "shed", "mean_s", "spread")
    return replace(found, **{name: getattr(found, name)[[index]] for name in columns})


@pytest.mark.parametrize("instances", [1, 2, 4])
@pytest.mark.parametrize("load", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("slack", [0.5, 1.0, 3.0])
def test_late_arrivals_are_those_of_a_simulation(instances, load, slack):
    millicores = 1000 * instances + 100
    only = Limits(millicores, millicores, instances, 1, 1)
    mean_s = operations(service(limits=only), HOST, 0.9).mean_s[-1]
    rate = load * instances / mean_s
    budget_s = mean_s * (1 + slack)
    state = service(arriving=demand(rate, budget_s), limits=only)
    found = most_instances(operations(state, HOST, 0.9))

    arrivals = np.cumsum(np.random.default_rng(1).exponential(1 / rate, 20_000))
    free_at = [0.0] * instances
    missed = 0
    for at in arrivals:
        end = max(at, free_at[0]) + mean_s
        heapq.heapreplace(free_at, end)
        missed += end > at + budget_s
    [late_rate] = late(state.demand, found, horizon_s=1e4)
    assert late_rate / rate == pytest.approx(missed / len(arrivals), abs=0.07)


@pytest.mark.parametrize("instances", [1, 3])
@pytest.mark.parametrize("load", [0.5, 0.9, 1.4])
@pytest.mark.parametrize("backlog", [0, 12])
def test_within_the_horizon_a_queue_has_no_time_to_build_up_or_to_go_away(instances, load, backlog):
    millicores = 1000 * instances + 100
    only = Limits(millicores, millicores, instances, 1, 1)
    mean_s = operations(service(limits=only), HOST, 1.0).mean_s[-1]
    rate, slack_s = load * instances / mean_s, 4 * mean_s
    state = service(arriving=demand(rate, mean_s + slack_s), limits=only)
    found = most_instances(operations(state, HOST, 1e9))

    random = np.random.default_rng(1)
    missed = 0
    for _ in range(1000):
        free_at = [0.0] * instances
        at = 0.0
        for _ in range(backlog):
            heapq.heapreplace(free_at, free_at[0] + mean_s)
        while (at := at + random.exponential(1 / rate)) < 1.0:
            heapq.heapreplace(free_at, max(at, free_at[0]) + mean_s)
        missed += free_at[0] - 1.0 > slack_s
    [late_rate] = late(state.demand, found, backlog, horizon_s=1.0)
    assert late_rate / rate == pytest.approx(missed / 1000, abs=0.15)


@pytest.mark.parametrize("urgent", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("load", [0.6, 0.85])
def test_earliest_deadline_first_needs_only_the_mean_slack(urgent, load):
    only = Limits(2100, 2100, 2, 1, 1)
    mean_s = operations(service(limits=only), HOST, 1.0).mean_s[-1]
    rate = load * 2 / mean_s
    budgets = ((3 * mean_s, urgent), (12 * mean_s, 1 - urgent))
    arriving = replace(demand(rate), budgets=budgets)
    found = most_instances(operations(service(arriving=arriving, limits=only), HOST, 1.0))

    random = np.random.default_rng(1)
    arrivals = np.cumsum(random.exponential(1 / rate, 20_000)).tolist()
    due = [at + budgets[int(random.random() > urgent)][0] for at in arrivals]

    def missed(rank) -> float:
        free_at, waiting, late_ones, index = [0.0, 0.0], [], 0, 0
        while index < len(arrivals) or waiting:
            start = free_at[0] if waiting else max(free_at[0], arrivals[index])
            while index < len(arrivals) and arrivals[index] <= start:
                heapq.heappush(waiting, (rank(index), index))
                index += 1
            _, request = heapq.heappop(waiting)
            heapq.heapreplace(free_at, start + mean_s)
            late_ones += start + mean_s > due[request]
        return late_ones / len(arrivals)

    [late_rate] = late(arriving, found, horizon_s=1e4)
    assert late_rate / rate == pytest.approx(missed(due.__getitem__), abs=0.05)
    assert late_rate / rate < missed(arrivals.__getitem__) + 0.02


# Several services


def brute_force(states, host, memory=PLENTY, *, frugal=False) -> float:
    """Least cost over all configurations of all services, with nothing pruned; infinite if none fit together.

    `frugal`: of each service over those that need the least memory.
    """
    priced = []
    for state in states:
        found = operations(state, host, SETTINGS.max_utilisation)
        tight_s = 1.5 * state.latency.mean(1, 1)

        def worth(budget_s, tight_s=tight_s):
            return SETTINGS.tight_weight if budget_s < tight_s else 1.0

        waiting = sum(each.rows for each in state.queue)
        late_rates = late(state.demand, found, waiting, SETTINGS.interval_s, worth)
        shapes_of = found.shapes
        configurations = list(zip(found.of.tolist(), found.batch.tolist(), strict=True))
        # By checks that were asked nothing else.
        missed = [
            Queue.of(state, worth).checks(shapes_of)(int(found.shape[of])).missed(batch)
            for of, batch in configurations
        ]
        millicores = shapes_of.millicores[found.shape[found.of]].tolist()
        lost = min(m for m, quota in zip(missed, millicores, strict=True) if quota == max(millicores))
        prices = []
        for (of, batch), quota, queued in zip(configurations, millicores, missed, strict=True):
            misses = found.shed[of] + late_rates[of] + max(0, queued - lost)
            cost = (
                quota
                + SETTINGS.batch_cost_millicores * batch
                + SETTINGS.switch_cost_millicores
                + SETTINGS.miss_cost_millicores * state.weight / max(state.demand.rate, 1.0) * misses
            )
            slots = int(shapes_of.instances[found.shape[of]])
            needed = state.memory_base_bytes + state.memory_per_row_bytes * slots * batch
            prices.append((quota, max(needed, state.memory_peak_bytes), cost))
        if frugal:
            least = min(needed for _, needed, _ in prices)
            prices = [price for price in prices if price[1] == least]
        priced.append(prices)
    return min(
        (
            sum(cost for _, _, cost in chosen)
            for chosen in product(*priced)
            if sum(millicores for millicores, _, _ in chosen) <= host
            and sum(needed for _, needed, _ in chosen) <= memory
        ),
        default=math.inf,
    )


def cost_of(planned, states) -> float:
    """What the planner minimises, of a plan."""
    return sum(
        a.configuration.cpu_millicores
        + SETTINGS.batch_cost_millicores * a.configuration.max_batch
        + SETTINGS.switch_cost_millicores
        + SETTINGS.miss_cost_millicores
        * state.weight
        / max(state.demand.rate, 1.0)
        * a.reasons.expected_misses
        for state, a in zip(states, planned.assignments, strict=True)
    )


WAIT = st.floats(0.05, 1.0)
STATES = st.builds(
    lambda latency, rate, budget_s, queue, weight: service(
        latency,
        demand(rate, budget_s),
        queue=sorted(queue, key=lambda waiting: waiting.remaining_s),
        weight=weight,
        limits=Limits(300, 64_000, 3, 2, 2),
    ),
    st.sampled_from([CONV, BATCHING, SMALL]),
    st.floats(0, 40),
    st.sampled_from([None, 0.1, 0.3, 1.0]),
    st.lists(st.builds(Waiting, WAIT, st.integers(1, 2), WAIT), max_size=8),
    st.sampled_from([0.5, 1.0, 4.0]),
)


@settings(max_examples=30, deadline=None)
@given(states=st.lists(STATES, min_size=1, max_size=2), host=st.integers(600, 6000))
def test_a_plan_costs_what_brute_force_finds(states, host):
    assume(sum(min(300, host) for _ in states) <= host)
    planned = plan(states, host, PLENTY, SETTINGS)
    assert planned.status is SolverStatus.OPTIMAL
    assert sum(a.configuration.cpu_millicores for a in planned.assignments) <= host
    assert cost_of(planned, states) == pytest.approx(brute_force(states, host), abs=0.1)


@settings(max_examples=30, deadline=None)
@given(
    states=st.lists(STATES, min_size=1, max_size=2),
    running=st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 2)), max_size=4),
    steps=st.integers(2, 14),
)
def test_a_plan_within_memory_costs_what_brute_force_finds(states, running, steps):
    step, memory = MEMORY_STEP_BYTES, steps * MEMORY_STEP_BYTES
    states = [
        replace(state, running=running, memory_base_bytes=step, memory_per_row_bytes=step) for state in states
    ]
    least = brute_force(states, 4000, memory)
    assume(least < math.inf)
    planned = plan(states, 4000, memory, SETTINGS)
    assert planned.status is SolverStatus.OPTIMAL
    assert sum(a.configuration.memory_bytes for a in planned.assignments) <= memory
    assert cost_of(planned, states) == pytest.approx(least, abs=0.1)


@settings(max_examples=30, deadline=None)
@given(
    states=st.lists(STATES, min_size=1, max_size=2),
    peaks=st.lists(st.integers(0, 20), min_size=2, max_size=2),
    host=st.integers(600, 6000),
    missing=st.integers(1, 4),
)
def test_where_no_memory_does_a_plan_costs_what_brute_force_finds_of_the_least_memory(
    states, peaks, host, missing
):
    step = MEMORY_STEP_BYTES
    states = [
        replace(state, memory_base_bytes=step, memory_per_row_bytes=step, memory_peak_bytes=peak * step)
        for state, peak in zip(states, peaks, strict=False)
    ]
    least = [max(2, peak) * step for _, peak in zip(states, peaks, strict=False)]
    planned = plan(states, host, max(0, sum(least) - missing * step), SETTINGS)
    assert planned.status is SolverStatus.OVERCOMMITTED
    assert [a.configuration.memory_bytes for a in planned.assignments] == least
    assert sum(a.configuration.cpu_millicores for a in planned.assignments) <= host
    assert cost_of(planned, states) == pytest.approx(brute_force(states, host, frugal=True), abs=0.1)


@settings(deadline=None)
@given(
    demand_=st.builds(demand, st.floats(0, 100), st.none(), st.sampled_from([1.0, 1.3, 3.0])),
    latency=st.sampled_from([CONV, BATCHING, SMALL]),
    limits=st.builds(
        Limits, st.just(300), st.just(64_000), st.integers(1, 6), st.integers(1, 4), st.integers(1, 8)
    ),
)
def test_batches_grow_to_what_the_demand_makes_necessary(demand_, latency, limits):
    """Shape by shape and limit by limit, as it is written."""
    state = service(latency, demand_, limits=limits)
    found = operations(state, HOST, SETTINGS.max_utilisation)
    request_rows = math.ceil(demand_.rows_per_request)
    longest = max(limits.max_batch, request_rows)
    of_requests = {math.ceil(n * demand_.rows_per_request - 1e-9) for n in range(1, longest + 1)}
    whole = [k for k in range(request_rows, longest + 1) if k in of_requests]
    expected = []
    for millicores, instances, threads in shapes(limits, HOST):
        loads = load_by_rows(state, millicores, instances, threads, longest)
        mean = latency.table(threads, longest).mean
        cheapest = min(whole, key=lambda k: mean[k] / k)
        for batch in ladder(limits.max_batch):
            within = [k for k in whole if k <= max(batch, request_rows)]
            enough = [k for k in within if loads[k] <= SETTINGS.max_utilisation]
            rows = enough[0] if enough else min(within, key=loads.__getitem__)
            expected.append((millicores, instances, threads, batch, rows, loads[rows]))
            if batch >= cheapest:
                break
    of, of_shapes = found.of, found.shapes
    shape = found.shape[of]
    columns = (of_shapes.millicores[shape], of_shapes.instances[shape], of_shapes.threads[shape])
    rows_of = list(
        zip(
            *(column.tolist() for column in (*columns, found.batch, found.rows[of], found.load[of])),
            strict=True,
        )
    )
    assert rows_of == [pytest.approx(one, rel=1e-12) for one in expected]
    assert len(found.rows) == len({one[:3] + one[4:5] for one in expected})


def load_by_rows(state, millicores, instances, threads, longest) -> list[float]:
    """Give the load of the slots or of the quota, whichever is higher, with executions of so many rows."""
    arriving, latency = state.demand, state.latency
    single = latency.table(1, longest).mean
    mean = latency.table(threads, longest).mean
    contention = 1 + latency.kappa * (instances - 1)
    row_rate = arriving.rate * arriving.rows_per_request
    loads = [math.inf]
    for k in range(1, longest + 1):
        useful = min(single[k] / mean[k], threads)
        runnable = instances * (useful + WAITING * (threads - useful))
        wall_s = mean[k] * contention * max(1.0, 1000 * runnable / millicores)
        cpu_s = (
            min(single[k], threads * mean[k]) * contention / k
            + state.request_overhead_s / arriving.rows_per_request
        )
        loads.append(max(row_rate * wall_s / (k * instances), row_rate * cpu_s * 1000 / millicores))
    return loads


def test_no_services():
    assert plan([], HOST, PLENTY, SETTINGS).assignments == ()


def test_services_that_fit_get_what_they_get_alone():
    states = [service(arriving=demand(30)), service(arriving=demand(5))]
    planned = plan(states, HOST, PLENTY, SETTINGS)
    assert [a.configuration for a in planned.assignments] == [choose(s).configuration for s in states]
    assert not planned.host_full


def test_on_a_full_host_weight_decides():
    state = service(arriving=demand(30))
    planned = plan([state, replace(state, weight=10.0)], 5000, PLENTY, SETTINGS)
    light, heavy = planned.assignments
    assert planned.host_full
    assert heavy.configuration == choose(state).configuration
    assert light.configuration.cpu_millicores <= 5000 - heavy.configuration.cpu_millicores
    assert light.reasons.bound is Bound.HOST
    assert heavy.reasons.bound is Bound.THROUGHPUT


def test_memory_is_shared_too():
    step = MEMORY_STEP_BYTES
    state = service(arriving=demand(30), memory_base_bytes=2 * step, memory_per_row_bytes=step)
    planned = plan([state, state], HOST, 6 * step, SETTINGS)
    assert sum(a.configuration.memory_bytes for a in planned.assignments) <= 6 * step
    assert planned.host_full


@pytest.mark.parametrize("leaked", [1 << 33, 1 << 50])
def test_memory_that_one_leaks_takes_no_cpu_from_another(leaked):
    limits = Limits(max_instances=1, max_threads=4)
    step = MEMORY_STEP_BYTES
    busy = service(arriving=demand(8, 0.15), limits=limits, memory_base_bytes=step, memory_per_row_bytes=step)
    services = [busy, replace(busy, memory_peak_bytes=leaked)]
    beside, leaking = plan(services, HOST, 1 << 33, SETTINGS).assignments
    assert beside.configuration == choose(busy).configuration
    assert beside.configuration.cpu_millicores > limits.min_millicores
    assert leaking.configuration.cpu_millicores == beside.configuration.cpu_millicores


def test_floors_that_do_not_fit_together():
    planned = plan([service(arriving=demand(30))] * 5, 1700, PLENTY, SETTINGS)
    assert planned.status is SolverStatus.OVERCOMMITTED
    assert planned.host_full
    assert all(a.configuration.cpu_millicores == 500 for a in planned.assignments)


def test_a_reserve_is_planned_for_as_demand():
    state = service(CONV, demand(12.0, 1.0))
    more = service(CONV, demand(18.0, 1.0))
    kept = plan([replace(state, reserve=0.5)], HOST, PLENTY, SETTINGS).assignments[0]
    assert kept == plan([more], HOST, PLENTY, SETTINGS).assignments[0]
    assert kept.configuration.cpu_millicores > choose(state).configuration.cpu_millicores


@pytest.mark.parametrize("rates", [(4.0, 4.0), (12.0, 30.0), (60.0, 60.0, 60.0)])
def test_a_host_of_odd_size_is_planned_as_the_next_smaller_step(rates):
    limits = Limits(max_instances=4, max_threads=4, max_batch=4)
    services = [service(arriving=demand(rate, 1.0), limits=limits) for rate in rates]
    odd, even = (plan(services, host, PLENTY, SETTINGS) for host in (7683, 7600))
    assert odd == even
