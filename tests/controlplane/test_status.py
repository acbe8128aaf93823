"""What the planner and the worker are told of a worker."""

import re

import pytest

from controlplane import config, status
from controlplane.allocation import Allocation, Quota
from controlplane.config import Actuator, Config, ServicePolicy
from controlplane.governor import Governor
from controlplane.operation import Waiting, operations
from controlplane.planner import Assignment, Bound, Reasons
from controlplane.reports import allocation_of
from controlplane.resize import NONE, Resize, SendDirective
from controlplane.state import Fleet, Host, Worker
from protos import control_pb2 as pb


def attached() -> tuple[Fleet, Worker]:
    fleet = Fleet([Host(2000, 0)], 0.001)
    hello = pb.Hello(
        worker_id="w", service="s", model_digest="d", max_instances=2, max_threads=2, max_batch=4
    )
    return fleet, fleet.attach(hello, Resize(0, 2.0), Governor(1.0, 100), 0.0)


def test_what_waits_is_told_with_the_budget_that_it_came_with():
    fleet, worker = attached()
    waiting = [
        pb.Waiting(remaining_ms=-1, rows=1, waited_ms=900),
        pb.Waiting(remaining_ms=100, rows=2, waited_ms=400),
    ]
    fleet.record(worker, pb.Sample(window_s=0.2, waiting=waiting), 0.2)
    assert status.service_state(worker, ServicePolicy(), Config()).queue == [Waiting(0.1, 2, 0.5)]


def test_what_waits_or_runs_has_no_more_rows_than_the_worker_takes_now():
    fleet, worker = attached()
    most = worker.hello.max_batch
    waiting = [pb.Waiting(remaining_ms=100, rows=rows) for rows in (1, most, most + 1)]
    running = [pb.Running(elapsed_ms=10, rows=most + 1, threads=1)]
    fleet.record(worker, pb.Sample(window_s=0.2, waiting=waiting, running=running), 0.2)
    state = status.service_state(worker, ServicePolicy(), Config())
    assert [each.rows for each in state.queue] == [1, most, most]
    assert state.running == [(0.01, most)]


def test_memory_is_planned_with_head_room_where_it_is_resized():
    fleet, worker = attached()
    usage = pb.Usage(memory_bytes=1000, memory_peak_bytes=2000)
    fleet.record(worker, pb.Sample(window_s=0.2, usage=usage), 0.2)
    policy = ServicePolicy(memory_mib_per_row=4.0)
    alone = status.service_state(worker, policy, Config())
    assert (alone.memory_base_bytes, alone.memory_per_row_bytes, alone.memory_peak_bytes) == (0, 0, 0)
    resized = Config(actuator=Actuator(resize_memory=True), planner=config.Planner(memory_head_room=0.5))
    state = status.service_state(worker, policy, resized)
    assert (state.memory_base_bytes, state.memory_peak_bytes) == (1500, 3000)
    assert state.memory_per_row_bytes == 6 << 20
    assert state.limits.max_memory_bytes is None
    bounded = ServicePolicy(max_memory_mib=512)
    assert status.service_state(worker, bounded, resized).limits.max_memory_bytes == 512 << 20


@pytest.mark.parametrize(
    ("came_with", "in_force", "believed"),
    [
        (0, None, 8000),  # nobody says that there is a limit, but the host is no larger
        (0, Quota(1000), 8000),
        (1 << 50, None, 8000),  # a limit that only the worker tells of
        (3000, Quota(1000, 3000), 3000),
        (3000, Quota(1000, 5000), 5000),  # on its way from one to the other
        (3000, Quota(1000), 8000),
    ],
)
def test_no_more_memory_is_believed_than_its_limit_and_its_host_allow(came_with, in_force, believed):
    fleet = Fleet([host := Host(2000, 8000)], 0.001)
    hello = pb.Hello(
        worker_id="w",
        service="s",
        model_digest="d",
        max_instances=2,
        max_threads=2,
        max_batch=4,
        allocation=pb.Allocation(
            cpu_millicores=1000, instances=1, threads=1, max_batch=1, memory_bytes=came_with
        ),
    )
    resize = Resize(0, 2.0)
    resize.attached(None, allocation_of(hello.allocation), in_force, 0.0)
    worker = fleet.attach(hello, resize, Governor(1.0, 100), 0.0, host)
    usage = pb.Usage(memory_bytes=1 << 50, memory_peak_bytes=1 << 50)
    fleet.record(worker, pb.Sample(window_s=0.2, usage=usage), 0.2)
    resized = Config(actuator=Actuator(resize_memory=True), planner=config.Planner(memory_head_room=0.5))
    state = status.service_state(worker, ServicePolicy(), resized)
    assert (state.memory_base_bytes, state.memory_peak_bytes) == (1.5 * believed, 1.5 * believed)


@pytest.mark.parametrize(
    ("cpus", "whole_cores", "most"),
    [("2-7", True, 6000), ("2-7", False, 7500), ("", True, 7500), ("0-15", True, 7500)],
)
def test_no_more_cpus_of_its_own_are_planned_than_may_be_given_away(cpus, whole_cores, most):
    _, worker = attached()
    config = Config(actuator=Actuator(whole_cores_cpus=cpus))
    policy = ServicePolicy(max_millicores=7500, whole_cores=whole_cores)
    assert status.service_state(worker, policy, config).limits.max_millicores == most


def test_whole_cores_are_planned_as_configured():
    _, worker = attached()
    assert not status.service_state(worker, ServicePolicy(), Config()).limits.whole_cores
    assert status.service_state(worker, ServicePolicy(whole_cores=True), Config()).limits.whole_cores


def test_what_takes_longer_meets_more_stand_stills_of_its_quota():
    _, worker = attached()
    for _ in range(100):
        worker.latency.record(1, 1, 0.0004, 1.0, 0.0)
    worker.drift.slower = worker.drift.wider = 2.0
    # 0.8 of 10 ms: one in twelve meets the end of the period, and stands still for the other 10 ms.
    half = SendDirective(NONE, Allocation(500, 1, 1, 1))
    [told] = status.directive(worker, half, 0.02, pace=False).predictions
    assert (told.mean_ms, told.high_ms) == pytest.approx((1.6, 10.8))
    planned = operations(status.service_state(worker, ServicePolicy(), Config()), 500, 1.0)
    assert planned.shapes.millicores[0] == 500
    assert 1000 * planned.shapes.upper_s[0, 0] == pytest.approx(10.8)


def test_a_reason_names_the_reserve_that_was_planned_for():
    _, worker = attached()
    given = Allocation(1100, 1, 1, 1)
    assignment = Assignment(given, Reasons(0.0, 0.5, Bound.THROUGHPUT, None))
    words = "needed to keep up with 0.0 requests/s"
    assert status.reason(assignment, worker, 0.0, given, given).startswith(f"{words} (")
    assert status.reason(assignment, worker, 0.25, given, given).startswith(f"{words} and a reserve of 25% (")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            Allocation(1100, 1, 1, 1, 512 << 20),
            Allocation(1100, 1, 1, 1, 768 << 20),
            r"memory 512 MiB → 768 MiB, for what is in use and head room",
        ),
        (
            Allocation(500, 1, 1, 1),
            Allocation(1100, 1, 1, 1, 768 << 20),
            r"needed to keep up with .*; memory unlimited → 768 MiB",
        ),
    ],
)
def test_a_reason_tells_of_memory_where_it_changes(before, after, words):
    _, worker = attached()
    assignment = Assignment(after, Reasons(0.0, 0.5, Bound.THROUGHPUT, None))
    assert re.fullmatch(words, status.reason(assignment, worker, 0.0, before, after))
