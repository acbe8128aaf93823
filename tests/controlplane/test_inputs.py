"""What is kept of what a decision was made of."""

import pytest

from controlplane import planner
from controlplane.allocation import Allocation
from controlplane.config import Planner as Settings
from controlplane.demand import settled
from controlplane.explanation import Round, explain
from controlplane.inputs import inputs
from controlplane.latency import LatencyModel
from controlplane.operation import ServiceState, Waiting
from controlplane.shape import Limits


def a_round(**changes: object) -> Round:
    """Of 60 requests a second that take 20 ms, and 4 more for each row beyond the first."""
    latency = LatencyModel()
    for rows in range(1, 9):
        for _ in range(20):
            latency.record(rows, 1, 0.016 + 0.004 * rows, 1.0, 1.0)
    budgets = ((0.1, 0.04), (0.2, 0.06), (0.3, 0.5), (0.4, 0.38), (0.5, 0.02))
    service = {
        "name": "vision",
        "latency": latency,
        "demand": settled(60, budgets),
        "limits": Limits(min_millicores=250, max_millicores=1050, max_instances=1, max_threads=1),
        "slower": 1.5,
        "wider": 1.6,
    }
    state = ServiceState(**service | changes)
    plan = planner.plan([state], 4000, 1 << 30, Settings())
    return Round(1.0, (), (state,), 4000, 1 << 30, Settings(), plan)


def test_times_are_those_that_the_planner_counted_with():
    made = a_round()
    chosen = made.plan.assignments[0].configuration
    found, believed = inputs(made, 0, chosen), explain(made, 0).service_time
    assert believed is not None
    assert found.execution_rows == believed.rows > 1
    assert found.execution_mean_ms == pytest.approx(1000 * believed.mean_s)
    assert found.execution_upper_ms == pytest.approx(1000 * believed.upper_s)
    assert (found.measured_share, found.drift) == (believed.trust, 1.5)


def test_times_are_of_what_the_worker_is_given_where_that_is_not_the_plan():
    made = a_round()
    chosen = made.plan.assignments[0].configuration
    half = inputs(made, 0, Allocation(chosen.cpu_millicores // 2, 1, 1, chosen.max_batch))
    assert half.execution_mean_ms > 1.5 * inputs(made, 0, chosen).execution_mean_ms


def test_budgets_are_kept_as_quantiles():
    found = inputs(a_round(), 0, Allocation(1000, 1, 1, 8))
    assert (found.budget_p5_ms, found.budget_p50_ms, found.budget_p95_ms) == pytest.approx((200, 300, 400))


def test_where_nothing_arrives_or_waits_there_is_no_budget_and_nothing_due():
    found = inputs(a_round(demand=settled(0, ())), 0, Allocation(1000, 1, 1, 8))
    assert (found.budget_p5_ms, found.budget_p95_ms, found.first_due_ms, found.waiting_rows) == (
        None,
        None,
        None,
        0,
    )


def test_what_waits_and_what_is_allowed():
    waiting = [Waiting(0.2, 2), Waiting(0.4, 3)]
    current, used = Allocation(1000, 1, 1, 8), {"cores_used": 1.0}
    made = a_round(queue=waiting, running=[(0.01, 1)], current=current, weight=2.0, reserve=0.1, **used)
    found = inputs(made, 0, current)
    assert (found.waiting_rows, found.first_due_ms, found.running, found.saturated) == (5, 200, 1, True)
    assert (found.min_millicores, found.max_millicores) == (300, 1000)
    assert (found.weight, found.reserve, found.host_memory_bytes) == (2.0, 0.1, 1 << 30)
    assert found.bound == made.plan.assignments[0].reasons.bound.value
