"""What is seen of a fleet over a run."""

import asyncio
import contextlib
import time

import grpc
import pytest
from prometheus_client import CollectorRegistry

from controlplane.actuators.fake import FakeActuator
from controlplane.allocation import Allocation
from controlplane.config import Config
from controlplane.loop import ControlLoop
from controlplane.metrics import Metrics
from controlplane.server import AdminServer
from controlplane.state import Fleet, Host
from controlplane.store import Store
from evaluation import measure
from evaluation.admin import Admin, ControlPlaneError
from evaluation.bandwidth import BandwidthTrace
from evaluation.measure import Offered, Seen
from evaluation.result import Cost
from protos import control_pb2 as pb
from protos import control_pb2_grpc
from tests.decided import decision


@contextlib.asynccontextmanager
async def serving():
    """Give the loop of a control plane without workers, and its admin service over loopback."""
    store = Store("")
    loop = ControlLoop(
        Config(), Fleet([Host(4000, 1 << 33)], 0.001), FakeActuator(), store, Metrics(CollectorRegistry())
    )
    server = grpc.aio.server()
    control_pb2_grpc.add_AdminServicer_to_server(AdminServer(loop, 3.0, time.monotonic), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with contextlib.aclosing(Admin(f"127.0.0.1:{port}")) as admin:
            yield loop, admin
    finally:
        await server.stop(None)
        store.close()


async def decide(loop, service):
    before, after = Allocation(1000, 1, 1, 1), Allocation(2000, 2, 1, 1)
    loop.decisions.add(decision(1, service=service, before=before, after=after))
    await loop.decisions.kept()


async def test_decisions_made_before_a_run_are_no_part_of_it():
    async with serving() as (loop, admin):
        for _ in range(3):
            await decide(loop, "old")
        t0 = time.monotonic()
        async with measure.watch(admin, t0) as seen:
            while not seen.changes:  # until the stream is open
                await decide(loop, "new")
                await asyncio.sleep(0.01)
    assert {change.service for change in seen.changes} == {"new"}
    assert (seen.changes[0].before_millicores, seen.changes[0].after_millicores) == (1000, 2000)


async def test_a_run_of_nothing_has_nothing_to_report():
    offered = Offered((), (), BandwidthTrace.constant(1e6), 1.0)
    async with serving() as (loop, admin):
        await decide(loop, "old")
        run = await measure.run("sponge", admin, {}, offered, lambda _: None)
    assert (run.rows, run.points, run.changes, run.cost) == ((), [], [], {})


async def test_one_line_says_which_control_plane_does_not_answer():
    async with contextlib.aclosing(Admin("127.0.0.1:1")) as admin:
        with pytest.raises(ControlPlaneError, match=r"^control plane at 127\.0\.0\.1:1: UNAVAILABLE: "):
            await admin.fleet()
        with pytest.raises(ControlPlaneError, match="UNAVAILABLE"):
            await anext(admin.decisions())


def fleet(**workers):
    """A fleet of workers: their service, and core-seconds reserved, used and, a half of that, in executions so far."""
    return pb.Fleet(
        workers=[
            pb.WorkerStatus(
                worker_id=name,
                service=service,
                core_seconds_reserved=reserved,
                core_seconds_used=used,
                core_seconds_executing=used / 2,
            )
            for name, (service, reserved, used) in workers.items()
        ]
    )


def cost_of(*fleets):
    seen = Seen()
    for at_s, each in enumerate(fleets):
        seen.observe(each, at_s)
    return seen.cost


def test_the_cost_of_a_service_is_that_of_all_its_workers():
    before = fleet(a=("vision", 10.0, 1.0), b=("vision", 20.0, 2.0), c=("magika", 5.0, 5.0))
    after = fleet(a=("vision", 13.0, 2.0), b=("vision", 24.0, 4.0), c=("magika", 6.0, 5.5))
    assert cost_of(before, after) == {"vision": Cost(7.0, 3.0, 1.5), "magika": Cost(1.0, 0.5, 0.25)}


def test_a_worker_that_attaches_anew_keeps_what_it_has_cost():
    cost = cost_of(
        fleet(a=("vision", 10.0, 4.0)), fleet(a=("vision", 13.0, 5.0)), fleet(a=("vision", 1.0, 0.5))
    )
    assert cost == {"vision": Cost(4.0, 1.5, 0.75)}


def test_a_worker_that_comes_or_goes_during_the_run_counts_while_it_is_there():
    cost = cost_of(
        fleet(a=("vision", 10.0, 4.0)), fleet(a=("vision", 12.0, 5.0), b=("vision", 1.0, 1.0)), fleet()
    )
    assert cost == {"vision": Cost(3.0, 2.0, 1.0)}


def test_points_say_what_their_service_has_cost_so_far():
    seen = Seen()
    for at_s, reserved in enumerate((10.0, 13.0, 15.0)):
        seen.observe(fleet(a=("vision", reserved, reserved / 2)), at_s)
    assert [point.reserved_so_far for point in seen.points] == [0.0, 3.0, 5.0]
    assert [point.used_so_far for point in seen.points] == [0.0, 1.5, 2.5]
    assert [point.executing_so_far for point in seen.points] == [0.0, 0.75, 1.25]
