"""A real worker under quotas with other and other periods: what it reports, and how soon it answers a health check."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from core.cgroup import Cgroup, CgroupError, usable_parent
from evaluation.experiment.footprint import Model
from evaluation.process import Process, StartError, free_port
from protos import control_pb2, control_pb2_grpc, inference_pb2, inference_pb2_grpc

_HEALTH_INTERVAL_S = 0.02
_TIMEOUT_S = 30.0
_KINDS = {"f": "FP", "i": "INT", "u": "UINT"}  # numpy's name of a kind, and the protocol's


@dataclass(frozen=True, slots=True)
class Setting:
    """What the control group is told."""

    quota_millicores: int
    period_ms: int


@dataclass(frozen=True, slots=True)
class Observation:
    """What a worker that is never idle did under one setting. `cpu_ms` is of the whole worker, per execution."""

    service_ms: Sequence[float]
    health_ms: Sequence[float]
    cpu_ms: float
    throttled_share: float  # of the periods


class _Listener(control_pb2_grpc.ControlPlaneServicer):
    """A control plane that only listens."""

    def __init__(self) -> None:
        self.samples: asyncio.Queue[control_pb2.Sample] = asyncio.Queue()

    async def Attach(  # noqa: N802 - gRPC's name for it
        self,
        reports: AsyncIterator[control_pb2.Report],
        context: "grpc.aio.ServicerContext[control_pb2.Report, control_pb2.Directive]",
    ) -> AsyncIterator[control_pb2.Directive]:
        async for report in reports:
            if report.WhichOneof("kind") == "sample":
                self.samples.put_nowait(report.sample)
        nothing: tuple[control_pb2.Directive, ...] = ()
        for directive in nothing:
            yield directive


@dataclass(slots=True)
class Subject:
    """A worker that serves one request after the other, on one thread, in a control group of its own."""

    group: Cgroup
    samples: "asyncio.Queue[control_pb2.Sample]"
    health_ms: list[float]
    load: "Sequence[asyncio.Task[None]]"

    async def observe(self, setting: Setting, seconds: float) -> Observation:
        """Put `setting` in force and watch for so long. Raises StartError where the worker falls silent."""
        self.group.set_quota(setting.quota_millicores, 1000 * setting.period_ms)
        while not self.samples.empty():
            self.samples.get_nowait()
        for _ in range(2):  # under way when the setting changed, and the window that it changed in
            await self._sample()
        self.health_ms.clear()
        until = time.monotonic() + seconds
        samples = []
        while time.monotonic() < until:
            samples.append(await self._sample())
        for task in self.load:
            if task.done():  # they end with an error only
                raise StartError(f"load: {task.exception()}")
        executions = [e for sample in samples for e in sample.executions if not e.mixed]
        if not executions:
            raise StartError(f"{setting}: not an execution in {seconds:g} s")
        count = sum(len(sample.executions) + sample.executions_rest for sample in samples)
        periods = sum(sample.usage.periods for sample in samples)
        return Observation(
            service_ms=[execution.wall_ms for execution in executions],
            health_ms=list(self.health_ms),
            cpu_ms=1000 * sum(sample.usage.cpu_s for sample in samples) / count,
            throttled_share=sum(s.usage.throttled_periods for s in samples) / max(1, periods),
        )

    async def _sample(self) -> control_pb2.Sample:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self.samples.get()
        except TimeoutError:
            raise StartError(f"worker: no telemetry for {_TIMEOUT_S:.0f} s") from None


@asynccontextmanager
async def subject(directory: Path, model: Model) -> AsyncIterator[Subject]:
    """Run a worker of `model` under load while the block runs. Raises StartError."""
    try:
        parent = usable_parent()
        if parent is None:
            raise StartError("no control group may be made here, and without one there is no quota")
        group = Cgroup.create(f"sponge-{uuid.uuid4().hex[:8]}", parent)
    except CgroupError as error:
        raise StartError(f"control groups: {error}") from error
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(group.remove)
        listener, control = _Listener(), f"127.0.0.1:{free_port()}"
        server = grpc.aio.server()
        control_pb2_grpc.add_ControlPlaneServicer_to_server(listener, server)
        server.add_insecure_port(control)
        await server.start()
        stack.push_async_callback(server.stop, None)
        address = f"127.0.0.1:{free_port()}"
        config = directory / f"{model.service}.toml"
        config.write_text(
            f'[model]\npath = "{model.path}"\nname = "{model.service}"\n'
            f"warmup_shapes = {{{model.input} = {list(model.row)}}}\n"
            f'[service]\nslo_ms = {1000 * _TIMEOUT_S}\n[server]\nlisten = "{address}"\nmetrics_listen = ""\n'
            f'[engine]\nmax_batch = 1\n[control]\naddress = "{control}"\n'
        )
        process = await Process.start(model.service, "dataplane", config, group)
        stack.push_async_callback(process.stop)
        await process.serving(address)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        health_ms: list[float] = []
        load = [
            asyncio.create_task(_ask(inference_pb2_grpc.GRPCInferenceServiceStub(channel), _request(model))),
            asyncio.create_task(_check(health_pb2_grpc.HealthStub(channel), health_ms)),
        ]
        try:
            yield Subject(group, listener.samples, health_ms, load)
        finally:
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)


async def _ask(
    stub: "inference_pb2_grpc.GRPCInferenceServiceAsyncStub", request: inference_pb2.ModelInferRequest
) -> None:
    """Keep one request running and one waiting, so that the worker is never idle."""

    async def one() -> None:
        while True:
            await stub.ModelInfer(request, timeout=_TIMEOUT_S)

    await asyncio.gather(one(), one())


async def _check(stub: health_pb2_grpc.HealthStub, took_ms: list[float]) -> None:
    """Check its health by schedule, timed from the schedule: one that is answered late delays no other."""

    async def one(scheduled_at: float) -> None:
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        took_ms.append(1000 * (time.monotonic() - scheduled_at))

    scheduled_at = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        while True:
            scheduled_at += _HEALTH_INTERVAL_S
            await asyncio.sleep(max(0.0, scheduled_at - time.monotonic()))
            tasks.create_task(one(scheduled_at))


def _request(model: Model) -> inference_pb2.ModelInferRequest:
    row = np.zeros((1, *model.row), model.dtype)
    request = inference_pb2.ModelInferRequest(model_name=model.service, raw_input_contents=[row.tobytes()])
    datatype = f"{_KINDS[row.dtype.kind]}{8 * row.dtype.itemsize}"
    request.inputs.add(name=model.input, datatype=datatype, shape=row.shape)
    return request
