"""The stream of one worker, and what goes wrong in it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import grpc
import pytest
from structlog.testing import capture_logs

from controlplane.actuators.fake import FakeActuator
from controlplane.allocation import Quota
from controlplane.demand import Demand
from controlplane.metrics import MOST_SERVICES
from controlplane.server import ControlPlaneServer
from protos import control_pb2 as pb
from protos import control_pb2_grpc
from tests.controlplane.test_loop import Plane, settle
from tests.decided import decision


class Overflowing(Demand):
    """One that fails at whatever it is told."""

    def record(self, *_args, **_named) -> None:
        raise OverflowError("34, 'Numerical result out of range'")


class Stream:
    """A worker's stream without a wire; `ended` once the control plane has ended it."""

    def __init__(self, plane: Plane, worker_id: str, beside: pb.Hello | None = None) -> None:
        self._reports: asyncio.Queue[pb.Report] = asyncio.Queue()
        allocation = pb.Allocation(cpu_millicores=1100, instances=1, threads=1, max_batch=1)
        hello = pb.Hello(
            worker_id=worker_id,
            service="vision",
            model_digest="d",
            max_instances=1,
            max_threads=1,
            max_batch=1,
            allocation=allocation,
        )
        if beside is not None:
            hello.MergeFrom(beside)
        self._reports.put_nowait(pb.Report(hello=hello))
        self._task = asyncio.create_task(self._attach(ControlPlaneServer(plane.loop)))

    @property
    def ended(self) -> bool:
        return self._task.done() and self._task.exception() is None

    async def say(self, **report: Any) -> None:
        self._reports.put_nowait(pb.Report(**report))
        await settle()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _attach(self, server: ControlPlaneServer) -> None:
        async for _ in server.Attach(self._all(), cast("Any", None)):
            pass

    async def _all(self) -> AsyncIterator[pb.Report]:
        while True:
            yield await self._reports.get()


async def test_what_nobody_foresaw_is_logged_and_ends_the_stream_of_that_worker_only():
    plane = Plane(FakeActuator({"one": Quota(1100), "other": Quota(1100)}))
    one, other = Stream(plane, "one"), Stream(plane, "other")
    await settle()
    broken = plane.fleet.workers["one"]
    broken.demand = Overflowing()
    sample = pb.Sample(window_s=0.2)
    with capture_logs() as logs:
        await one.say(sample=sample)
        await other.say(sample=sample)
    failed = [line for line in logs if line["event"] == "report failed"]
    assert [(line["worker"], line["log_level"], line["exc_info"]) for line in failed] == [
        ("one", "error", True)
    ]
    assert one.ended
    assert not other.ended
    assert list(plane.fleet.workers) == ["other"]
    assert plane.fleet.workers["other"].plannable
    await other.close()
    assert plane.fleet.workers == {}


async def test_what_is_absurd_is_refused_and_the_stream_goes_on():
    plane = Plane(FakeActuator({"one": Quota(1100)}))
    one = Stream(plane, "one")
    await one.say(sample=pb.Sample(window_s=1e-200))
    assert plane.metric("sponge_control_samples_refused_total", service="vision") == 1
    assert not one.ended
    await one.say(sample=pb.Sample(window_s=0.2))
    assert plane.fleet.workers["one"].plannable
    await one.close()


async def test_what_a_report_says_in_no_field_is_not_kept():
    plane = Plane(FakeActuator({"one": Quota(1100)}))
    unknown = bytes([0xFA, 0x3F, 100]) + b"x" * 100  # field 1023
    one = Stream(plane, "one", pb.Hello.FromString(unknown))
    await one.say(sample=pb.Sample.FromString(pb.Sample(window_s=0.2).SerializeToString() + unknown))
    worker = plane.fleet.workers["one"]
    assert worker.plannable
    assert b"xxx" not in worker.hello.SerializeToString() + worker.sample.SerializeToString()
    await one.close()


async def test_a_hello_with_a_name_too_long_is_refused_by_field():
    plane, server = Plane(FakeActuator({})), grpc.aio.server()
    control_pb2_grpc.add_ControlPlaneServicer_to_server(ControlPlaneServer(plane.loop), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = control_pb2_grpc.ControlPlaneStub(channel).Attach()
            hello = pb.Hello(worker_id="one", service="vision", container_id="c" * 300, model_digest="d")
            await call.write(pb.Report(hello=hello))
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await call.read()
    finally:
        await server.stop(None)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.value.details() == "hello.container_id: expected 0 to 256 characters, got 300"
    assert plane.fleet.workers == {}


async def test_names_of_services_that_workers_make_up_get_no_labels_without_end():
    plane = Plane(FakeActuator({"one": Quota(1100)}))
    for number in range(MOST_SERVICES + 2):
        plane.loop.decisions.add(replace(decision(number), service=f"s{number}"))
    one = Stream(plane, "one")
    await one.say(sample=pb.Sample(window_s=-1.0))
    # A service that is configured has its own, whatever the others are.
    assert plane.metric("sponge_control_samples_refused_total", service="vision") == 1
    action = decision(0).action
    assert plane.metric("sponge_control_decisions_total", service="s0", action=action) == 1
    assert plane.metric("sponge_control_decisions_total", service="", action=action) == 2
    await one.close()
    await plane.loop.decisions.kept()
