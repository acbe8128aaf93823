"""What the control plane believes, and what it refuses to."""

import math

import pytest

from controlplane.governor import Governor
from controlplane.latency import MOST_ROWS
from controlplane.reports import AbsurdReportError, check_hello
from controlplane.resize import Resize
from controlplane.state import Fleet, Host
from protos import control_pb2 as pb


def hello(worker_id: str = "w1", **fields) -> pb.Hello:
    return pb.Hello(
        worker_id=worker_id,
        service="vision",
        model_digest="d",
        max_instances=4,
        max_threads=4,
        max_batch=8,
        allocation=pb.Allocation(cpu_millicores=1100, instances=1, threads=1, max_batch=1),
        **fields,
    )


def fleet_of_one(**fields):
    fleet = Fleet([Host(4000, 1 << 33)], default_overhead_s=0.0015)
    return fleet, fleet.attach(hello(**fields), Resize(), Governor(4.0, 100), 0.0)


def sample(**fields) -> pb.Sample:
    allocation = pb.Allocation(cpu_millicores=1100, instances=1, threads=1, max_batch=1)
    return pb.Sample(**{"window_s": 0.2, "allocation": allocation, **fields})


def histogram(bounds_ms, counts) -> pb.Histogram:
    return pb.Histogram(upper_bound_ms=bounds_ms, count=counts)


def test_executions_teach_the_model_of_every_worker_with_the_same_file():
    fleet, worker = fleet_of_one()
    other = fleet.attach(hello("w2"), Resize(), Governor(4.0, 100), 0.0)
    for second in range(20):
        run = pb.Execution(rows=1, threads=1, wall_ms=40, cpu_ms=39, busy=1)
        fleet.record(worker, sample(executions=[run]), float(second))
    assert other.latency is worker.latency
    assert other.latency.mean(1, 1) == pytest.approx(0.040, rel=0.05)


def test_executions_that_a_change_fell_into_teach_nothing():
    fleet, worker = fleet_of_one()
    before = worker.latency.mean(1, 1)
    for second in range(20):
        run = pb.Execution(rows=1, threads=1, wall_ms=7, cpu_ms=7, busy=1, mixed=True)
        fleet.record(worker, sample(executions=[run]), float(second))
    assert worker.latency.mean(1, 1) == before


@pytest.mark.parametrize(("rows", "threads"), [(9, 1), (1, 5)])
def test_executions_of_more_than_a_worker_can_run_teach_nothing(rows, threads):
    fleet, worker = fleet_of_one()
    run = pb.Execution(rows=rows, threads=threads, wall_ms=7, cpu_ms=7, busy=1)
    fleet.record(worker, sample(executions=[run]), 1.0)
    assert not worker.latency.known
    run = pb.Execution(rows=8, threads=4, wall_ms=7, cpu_ms=7, busy=1)
    fleet.record(worker, sample(executions=[run]), 1.0)
    assert set(worker.latency.cells) == {(8, 4)}


def test_a_request_has_no_more_rows_than_its_worker_takes():
    fleet, worker = fleet_of_one()
    budgets = pb.Histogram(upper_bound_ms=[500], count=[2, 1])
    fleet.record(worker, sample(arrivals=3, arrived_rows=24, budget_at_arrival=budgets), 1.0)
    assert worker.demand.estimate().rows_per_request == 8


def test_cores_used_are_the_mean_of_the_last_second():
    fleet, worker = fleet_of_one()
    assert worker.cores_used() == 0.0
    for number in range(10):
        fleet.record(worker, sample(usage=pb.Usage(cpu_s=0.2 if number < 5 else 0.1)), 0.2 * number)
    assert worker.cores_used() == pytest.approx(0.5)
    fleet.record(worker, sample(window_s=0.8, usage=pb.Usage(cpu_s=0.8)), 2.7)
    assert worker.cores_used() == pytest.approx((0.8 + 0.1) / 1.0)


def test_core_seconds_in_executions_are_counted_whatever_else_they_teach():
    fleet, worker = fleet_of_one()
    runs = [
        pb.Execution(rows=1, threads=1, wall_ms=9, cpu_ms=6, busy=1, mixed=mixed) for mixed in (False, True)
    ]
    for second in range(2):
        fleet.record(worker, sample(executions=runs, usage=pb.Usage(cpu_s=0.02)), float(second))
    assert worker.core_seconds_executing == pytest.approx(0.024)
    assert worker.core_seconds_used == pytest.approx(0.04)


def test_a_throttled_execution_enters_by_its_cpu_time():
    fleet, worker = fleet_of_one()
    for second in range(20):
        run = pb.Execution(rows=1, threads=1, wall_ms=80, cpu_ms=40, busy=1)
        usage = pb.Usage(quota_millicores=500)
        fleet.record(worker, sample(executions=[run], usage=usage), float(second))
    assert worker.latency.mean(1, 1) == pytest.approx(0.040, rel=0.05)


def test_overhead_of_a_request_is_what_the_executions_leave_of_the_cpu():
    fleet, worker = fleet_of_one()
    run = pb.Execution(rows=1, threads=1, wall_ms=10, cpu_ms=10, busy=1)
    for second in range(200):
        usage = pb.Usage(cpu_s=0.036)  # 3 × 10 ms in the model, 3 × 2 ms around it
        fleet.record(worker, sample(arrivals=3, executions=[run] * 3, usage=usage), float(second))
    assert worker.request_overhead_s == pytest.approx(0.002, rel=0.01)


@pytest.mark.parametrize(
    ("field", "absurd"),
    [
        ("window_s", {"window_s": float("nan")}),
        ("window_s", {"window_s": -1.0}),
        ("window_s", {"window_s": 1e-200}),
        ("headers", {"headers": 10**9}),
        ("arrivals", {"arrivals": 10**9}),
        ("executions.wall_ms", {"executions": [pb.Execution(rows=1, threads=1, wall_ms=-5)]}),
        ("executions.wall_ms", {"executions": [pb.Execution(rows=1, threads=1, wall_ms=float("inf"))]}),
        ("executions.wall_ms", {"executions": [pb.Execution(rows=1, threads=1, wall_ms=1e-300)]}),
        ("executions.cpu_ms", {"executions": [pb.Execution(rows=1, threads=1, wall_ms=5, cpu_ms=1e-300)]}),
        ("executions", {"executions": [pb.Execution(rows=1, threads=1, wall_ms=5)] * 65}),
        ("executions.rows", {"executions": [pb.Execution(rows=0, threads=1, wall_ms=5)]}),
        ("waiting.waited_ms", {"waiting": [pb.Waiting(waited_ms=-1, rows=1)]}),
        ("waiting.remaining_ms", {"waiting": [pb.Waiting(remaining_ms=float("nan"), rows=1)]}),
        ("waiting.rows", {"waiting": [pb.Waiting(rows=MOST_ROWS + 1)]}),
        ("waiting", {"waiting": [pb.Waiting(rows=1)] * 257}),
        ("running", {"running": [pb.Running(rows=1, threads=1)] * 5}),
        ("running.rows", {"running": [pb.Running(rows=MOST_ROWS + 1, threads=1)]}),
        ("running.elapsed_ms", {"running": [pb.Running(elapsed_ms=1e18, rows=1, threads=1)]}),
        ("usage.cpu_s", {"usage": pb.Usage(cpu_s=float("nan"))}),
        ("usage.quota_millicores", {"usage": pb.Usage(quota_millicores=2**32 - 1)}),
        ("usage.memory_bytes", {"usage": pb.Usage(memory_bytes=2**64 - 1)}),
        ("usage.memory_peak_bytes", {"usage": pb.Usage(memory_peak_bytes=2**64 - 1)}),
        ("allocation.cpu_millicores", {"allocation": pb.Allocation(cpu_millicores=2**32 - 1)}),
        # Nothing came, or one request of more rows than the model takes.
        ("arrived_rows", {"arrivals": 1, "arrived_rows": 1}),
        (
            "arrived_rows",
            {
                "arrivals": 1,
                "arrived_rows": 9,
                "budget_at_arrival": pb.Histogram(upper_bound_ms=[8], count=[1, 0]),
            },
        ),
        ("budget_at_arrival.count", {"budget_at_arrival": histogram([8], [10**9, 0])}),
        ("budget_at_arrival.count", {"budget_at_arrival": histogram([8], [1])}),
        ("budget_at_arrival.count", {"budget_at_arrival": histogram([8], [1, 0, 0])}),
        ("budget_at_arrival.count", {"budget_at_arrival": histogram([8], [])}),
        ("budget_at_arrival.count", {"budget_at_arrival": histogram([8], [0] * 66)}),
        ("budget_at_arrival.upper_bound_ms", {"budget_at_arrival": histogram([8, 8], [1, 0, 0])}),
        ("budget_at_arrival.upper_bound_ms", {"budget_at_arrival": histogram([16, 8], [1, 0, 0])}),
        ("budget_at_arrival.upper_bound_ms", {"budget_at_arrival": histogram([float("inf")], [1, 0])}),
        ("budget_at_arrival.upper_bound_ms", {"budget_at_arrival": histogram(range(65), [0] * 66)}),
        ("latency.upper_bound_ms", {"latency": histogram([float("nan")], [1, 0])}),
    ],
)
def test_absurd_samples_are_refused_by_field_and_change_nothing(field, absurd):
    fleet, worker = fleet_of_one()
    with pytest.raises(AbsurdReportError, match=f"^{field}:"):
        fleet.record(
            worker,
            sample(outcomes=pb.Outcomes(on_time=5), **absurd)
            if "window_s" not in absurd
            else pb.Sample(outcomes=pb.Outcomes(on_time=5), **absurd),
            5.0,
        )
    assert worker.last_seen_at == 0.0
    assert worker.outcomes.on_time == 0
    assert worker.arrival_rate == 0.0


def test_as_much_as_a_worker_may_say_is_heard():
    fleet, worker = fleet_of_one()
    said = sample(
        window_s=2e-16,  # of two reports at once, by a clock that adds up
        waiting=[pb.Waiting(rows=8)] * 256,
        running=[pb.Running(rows=8, threads=1)] * 4,
        executions=[pb.Execution(rows=1, threads=1, wall_ms=1e-3, busy=1)] * 64,
        budget_at_arrival=histogram(range(64), [1] * 65),
        latency=histogram(range(64), [1] * 65),
    )
    for second in (1.0, 2.0):
        fleet.record(worker, said, second)
    assert worker.last_seen_at == 2.0


@pytest.mark.parametrize("other_s", [1e-18, 3600.0])
def test_the_shortest_windows_and_executions_leave_all_that_is_believed_finite(other_s):
    fleet, worker = fleet_of_one()
    arrived = histogram([8], [10**6, 0])
    for second, window_s in enumerate((1e-18, other_s, 1e-18)):
        runs = [
            pb.Execution(rows=1, threads=1, wall_ms=1e-9, cpu_ms=1e-9, busy=1024),
            pb.Execution(rows=8, threads=4, wall_ms=3.6e6, cpu_ms=3.6e6, busy=1),
        ]
        usage = pb.Usage(cpu_s=3.6e6, quota_millicores=1)
        crowd = sample(
            window_s=window_s,
            headers=10**6,
            arrivals=10**6,
            arrived_rows=10**6,
            budget_at_arrival=arrived,
            executions=runs * 32,
            usage=usage,
        )
        fleet.record(worker, crowd, float(second))
    demand, latency = worker.demand.estimate(), worker.latency
    believed = [demand.rate, demand.rate_error, demand.dispersion, worker.cores_used()]
    believed += [latency.mean(1, 1), latency.upper(8, 4), latency.upper(4, 4), latency.low(1, 1)]
    assert all(map(math.isfinite, believed))


def test_requests_with_more_time_than_any_bound_count_as_well():
    fleet, worker = fleet_of_one()
    for second in range(60):
        budgets = pb.Histogram(upper_bound_ms=[1000, 64_000], count=[0, 1, 9])
        arrived = sample(window_s=1.0, headers=10, arrivals=10, arrived_rows=20, budget_at_arrival=budgets)
        fleet.record(worker, arrived, float(second))
    found = worker.demand.estimate()
    assert found.rate == pytest.approx(10)
    assert found.rows_per_request == pytest.approx(2)
    assert [seconds for seconds, _ in found.budgets] == [32.5, 64.0]
    assert [share for _, share in found.budgets] == pytest.approx([0.1, 0.9])


def test_silent_and_starting_workers_are_not_planned():
    fleet, worker = fleet_of_one()
    fleet.record(worker, sample(), 1.0)
    assert fleet.fresh(2.0, stale_s=3.0) == [worker]
    assert fleet.fresh(4.5, stale_s=3.0) == []
    fleet.record(worker, sample(starting=True), 5.0)
    assert fleet.fresh(5.0, stale_s=3.0) == []


def test_a_new_leader_takes_a_term_above_all_it_hears_of():
    fleet, worker = fleet_of_one(applied=pb.Version(term=7, epoch=3))
    assert fleet.term == 8
    assert fleet.next_version(worker).term == 8
    fleet.attach(hello("w2", applied=pb.Version(term=2, epoch=9)), Resize(), Governor(4.0, 100), 0.0)
    assert fleet.term == 8


def test_a_worker_that_claims_the_highest_term_keeps_others_from_none():
    fleet, worker = fleet_of_one(applied=pb.Version(term=7, epoch=3))
    liar = hello("w2", applied=pb.Version(term=1 << 62, epoch=1 << 62))
    check_hello(liar)
    fleet.attach(liar, Resize(), Governor(4.0, 100), 0.0)
    assert fleet.next_version(worker).term == 8


def test_the_end_of_an_old_stream_does_not_forget_the_new_one():
    fleet, old = fleet_of_one()
    new = fleet.attach(hello(), Resize(), Governor(4.0, 100), 1.0)
    fleet.detach(old)
    assert fleet.workers == {"w1": new}
    fleet.detach(new)
    assert fleet.workers == {}


def test_on_time_share_is_of_the_last_minute():
    fleet, worker = fleet_of_one()
    assert worker.on_time_share() == 1.0
    fleet.record(worker, sample(outcomes=pb.Outcomes(refused=10)), 0.0)
    fleet.record(worker, sample(outcomes=pb.Outcomes(on_time=3, late=1)), 50.0)
    assert worker.on_time_share() == pytest.approx(3 / 14)
    fleet.record(worker, sample(outcomes=pb.Outcomes(on_time=0)), 61.0)
    assert worker.on_time_share() == pytest.approx(3 / 4)
    assert worker.outcomes.refused == 10
