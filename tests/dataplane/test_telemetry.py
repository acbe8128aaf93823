"""Samples: everything of one window, once."""

import pytest

from dataplane.batcher import Batcher, Shape
from dataplane.request import Completion, ExecutionRecord, Outcome
from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.telemetry import BOUNDS_MS, Resources, Telemetry
from protos import control_pb2
from tests.dataplane.requests import request

ALLOCATION = control_pb2.Allocation(cpu_millicores=1500, instances=2, threads=1, max_batch=4)


@pytest.fixture
def batcher():
    return Batcher(Shape(1, 2, 1, (3, 7)), ServiceTimes([ServiceTime(1, 1.0, 1.0, 1.0)]), max_queue=1000)


def count(histogram, milliseconds):
    """How many values up to `milliseconds`."""
    return sum(
        n
        for bound, n in zip(histogram.upper_bound_ms, histogram.count, strict=False)
        if bound <= milliseconds
    )


def test_a_window_is_told_once(batcher):
    telemetry = Telemetry(10.0, Resources(cpu_s=5.0))
    for _ in range(3):  # one is still on its way
        telemetry.announced()
    telemetry.arrived(request(12.0, rows=3), 11.0)
    telemetry.arrived(request(9.0), 11.0)
    telemetry.completed(Completion(Outcome.ON_TIME, 3, 11.0, 11.5, 11.1, 3))
    telemetry.completed(Completion(Outcome.REFUSED, 1, 11.0, 11.0))
    telemetry.executed(ExecutionRecord(3, 1, 0.4, 0.3, 1.5, mixed=False))
    sample = telemetry.sample(batcher, Resources(cpu_s=5.5), ALLOCATION, 12.0)
    assert sample.window_s == 2.0
    assert (sample.headers, sample.arrivals, sample.arrived_rows) == (3, 2, 4)
    assert sample.outcomes == control_pb2.Outcomes(on_time=1, refused=1)
    assert tuple(sample.budget_at_arrival.upper_bound_ms) == BOUNDS_MS
    assert count(sample.budget_at_arrival, 1) == 1  # what is over counts as none left
    assert sum(sample.budget_at_arrival.count) == 2
    assert sum(sample.latency.count) == 1
    assert count(sample.latency, 400) == 0
    assert count(sample.latency, 600) == 1
    assert sample.usage.cpu_s == 0.5
    assert sample.allocation == ALLOCATION
    assert (sample.applied.term, sample.applied.epoch) == (3, 7)
    (execution,) = sample.executions
    assert (execution.rows, execution.wall_ms, execution.cpu_ms, execution.busy) == (3, 400, 300, 1.5)

    empty = telemetry.sample(batcher, Resources(cpu_s=5.5), ALLOCATION, 12.5)
    assert (empty.window_s, empty.arrivals, empty.usage.cpu_s) == (0.5, 0, 0.0)
    assert empty.outcomes == control_pb2.Outcomes()
    assert not empty.executions
    assert sum(empty.budget_at_arrival.count) == sum(empty.latency.count) == 0


def test_what_waits_and_runs(batcher):
    running, late, *live = (request(at, grace_s=9.0, queued_at=0.2) for at in (20.0, 0.5, 21.0, 30.0))
    batcher.add(running)
    batcher.step(0.0)
    for waiting in (late, *live):
        batcher.add(waiting)
    batcher.step(1.0)
    sample = Telemetry(0.0, Resources(0.0)).sample(batcher, Resources(0.0), ALLOCATION, 1.0, distress=True)
    assert [(w.remaining_ms, w.rows, w.waited_ms) for w in sample.waiting] == [
        (20_000, 1, 800),
        (29_000, 1, 800),
    ]
    assert sample.waiting_rest == 1
    assert [(r.elapsed_ms, r.rows, r.threads) for r in sample.running] == [(1000, 1, 2)]
    assert sample.distress


def test_deadlines_beyond_belief_are_cut(batcher):
    running, waiting = request(1e5), request(1e300)
    batcher.add(running)
    batcher.step(0.0)
    batcher.add(waiting)
    telemetry = Telemetry(0.0, Resources(0.0))
    telemetry.executed(ExecutionRecord(1, 1, 7200.0, 7200.0, 1.0, mixed=False))
    sample = telemetry.sample(batcher, Resources(0.0), ALLOCATION, 7200.0)
    assert [w.remaining_ms for w in sample.waiting] == [3_600_000]
    assert [r.elapsed_ms for r in sample.running] == [3_600_000]
    assert [(e.wall_ms, e.cpu_ms) for e in sample.executions] == [(3_600_000, 3_600_000)]


def test_counters_that_go_back_count_as_standing(batcher):
    telemetry = Telemetry(0.0, Resources(10.0, 1000, throttled_s=1.0, periods=50, throttled_periods=5))
    usage = telemetry.sample(batcher, Resources(cpu_s=1.0), ALLOCATION, 1.0).usage
    assert (usage.cpu_s, usage.throttled_s, usage.periods, usage.throttled_periods) == (0, 0, 0, 0)


class TestRestart:
    def used(self, resources):
        """Telemetry of half an hour in which nobody listened, and that starts anew."""
        telemetry = Telemetry(0.0, Resources(0.0, 1000))
        telemetry.arrived(request(2.0), 1.0)
        telemetry.completed(Completion(Outcome.ON_TIME, 1, 1.0, 1.5, 1.1, 1))
        for _ in range(70):
            telemetry.executed(ExecutionRecord(1, 1, 0.4, 0.3, 1.0, mixed=False))
        telemetry.restart(1800.0, resources)
        return telemetry

    def test_what_nobody_heard_is_no_part_of_the_next_window(self, batcher):
        telemetry = self.used(Resources(900.0, 1000))
        sample = telemetry.sample(batcher, Resources(900.5, 1000), ALLOCATION, 1801.0)
        assert (sample.window_s, sample.usage.cpu_s, sample.arrivals) == (1.0, 0.5, 0)
        assert sample.outcomes == control_pb2.Outcomes()
        assert sum(sample.budget_at_arrival.count) == sum(sample.latency.count) == 0

    def test_service_times_stay(self, batcher):
        telemetry = self.used(Resources(900.0, 1000))
        sample = telemetry.sample(batcher, Resources(900.5, 1000), ALLOCATION, 1801.0)
        assert (len(sample.executions), sample.executions_rest) == (64, 0)
        assert not any(execution.mixed for execution in sample.executions)

    def test_unless_they_are_those_of_another_quota(self, batcher):
        telemetry = self.used(Resources(900.0, 2000))
        assert not telemetry.sample(batcher, Resources(900.5, 2000), ALLOCATION, 1801.0).executions


def test_long_queues_and_many_executions_are_cut(batcher):
    for _ in range(300):
        batcher.add(request(1000.0))
    telemetry = Telemetry(0.0, Resources(0.0))
    for _ in range(70):
        telemetry.executed(ExecutionRecord(1, 1, 0.1, 0.1, 1.0, mixed=False))
    sample = telemetry.sample(batcher, Resources(0.0), ALLOCATION, 1.0)
    assert (len(sample.waiting), sample.waiting_rest) == (256, 44)
    assert (len(sample.executions), sample.executions_rest) == (64, 6)


def test_executions_of_a_window_in_which_the_quota_changed_are_mixed(batcher):
    telemetry = Telemetry(0.0, Resources(0.0, quota_millicores=1000))
    telemetry.executed(ExecutionRecord(1, 1, 0.1, 0.1, 1.0, mixed=False))
    assert telemetry.sample(batcher, Resources(0.0, 2000), ALLOCATION, 1.0).executions[0].mixed
    telemetry.executed(ExecutionRecord(1, 1, 0.1, 0.1, 1.0, mixed=False))
    assert not telemetry.sample(batcher, Resources(0.0, 2000), ALLOCATION, 2.0).executions[0].mixed
