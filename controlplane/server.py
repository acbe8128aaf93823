"""The control plane's gRPC edge: workers attach, people and tools ask."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc

from controlplane import status
from controlplane.config import ServicePolicy
from controlplane.loop import ControlLoop, Session
from protos import control_pb2 as pb
from protos import control_pb2_grpc


class ControlPlaneServer(control_pb2_grpc.ControlPlaneServicer):
    """One stream a worker."""

    def __init__(self, loop: ControlLoop) -> None:
        self._loop = loop

    async def Attach(
        self,
        reports: AsyncIterator[pb.Report],
        context: grpc.aio.ServicerContext[pb.Report, pb.Directive],
    ) -> AsyncIterator[pb.Directive]:
        """Hello first, then samples; directives go the other way until either side leaves."""
        first = await anext(reports, None)
        if first is None or first.WhichOneof("kind") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "report: expected hello first")
        if not (first.hello.worker_id and first.hello.service and first.hello.model_digest):
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "hello: expected worker_id, service and model_digest"
            )
        session = await self._loop.attach(first.hello)
        receiving = asyncio.create_task(self._receive(reports, session))
        try:
            while (directive := await session.outbox.get()) is not None:
                yield directive
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
            self._loop.detach(session)

    async def _receive(self, reports: AsyncIterator[pb.Report], session: Session) -> None:
        try:
            async for report in reports:
                self._loop.record(session, report.sample)
        finally:
            session.outbox.put_nowait(None)


class AdminServer(control_pb2_grpc.AdminServicer):
    """What people and tools may see and set."""

    def __init__(self, loop: ControlLoop, stale_s: float, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._stale_s = stale_s
        self._clock = clock

    async def GetFleet(
        self, request: pb.GetFleetRequest, context: grpc.aio.ServicerContext[pb.GetFleetRequest, pb.Fleet]
    ) -> pb.Fleet:
        return status.fleet(self._loop.fleet, self._loop.actuator.kind, self._stale_s, self._clock())

    async def WatchDecisions(
        self,
        request: pb.WatchDecisionsRequest,
        context: grpc.aio.ServicerContext[pb.WatchDecisionsRequest, pb.Decision],
    ) -> AsyncIterator[pb.Decision]:
        store, last = self._loop.store, 0
        decisions = store.last(max(1, request.past))
        if request.past == 0 and decisions:
            last, decisions = decisions[-1].id, []
        while True:
            for decision in decisions:
                last = decision.id
                yield decision
            async with self._loop.decided:
                while not (decisions := store.since(last)):
                    await self._loop.decided.wait()

    async def SetServicePolicy(
        self,
        request: pb.SetServicePolicyRequest,
        context: grpc.aio.ServicerContext[pb.SetServicePolicyRequest, pb.ServicePolicy],
    ) -> pb.ServicePolicy:
        policies = self._loop.fleet.policies
        before = self._loop.fleet.policy(request.service)
        after = ServicePolicy(
            weight=request.weight if request.HasField("weight") else before.weight,
            min_millicores=(
                request.min_millicores if request.HasField("min_millicores") else before.min_millicores
            ),
            max_millicores=(
                request.max_millicores if request.HasField("max_millicores") else before.max_millicores
            ),
            max_batch=before.max_batch,
            memory_mib_per_row=before.memory_mib_per_row,
        )
        known = request.service in policies or any(
            worker.service == request.service for worker in self._loop.fleet.workers.values()
        )
        if not known:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"service: {request.service[:100]!r} is neither configured nor attached",
            )
        if not after.weight > 0:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "weight: expected a number above 0")
        if not 100 <= after.min_millicores <= after.max_millicores:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"min_millicores: expected 100 to max_millicores = {after.max_millicores}, "
                f"got {after.min_millicores}",
            )
        policies[request.service] = after
        self._loop.replan()
        return pb.ServicePolicy(
            service=request.service,
            weight=after.weight,
            min_millicores=after.min_millicores,
            max_millicores=after.max_millicores,
        )

    async def Pause(
        self,
        request: pb.PauseRequest,
        context: grpc.aio.ServicerContext[pb.PauseRequest, pb.PauseResponse],
    ) -> pb.PauseResponse:
        self._loop.fleet.paused = True
        return pb.PauseResponse()

    async def Resume(
        self,
        request: pb.ResumeRequest,
        context: grpc.aio.ServicerContext[pb.ResumeRequest, pb.ResumeResponse],
    ) -> pb.ResumeResponse:
        self._loop.fleet.paused = False
        self._loop.replan()
        return pb.ResumeResponse()
