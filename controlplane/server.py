"""The control plane's gRPC edge: workers attach, people and tools ask."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

import grpc
import structlog

from controlplane import explanation, status
from controlplane.decisions import MOST_PAST
from controlplane.loop import ControlLoop
from controlplane.overrides import PolicyError
from controlplane.reports import AbsurdReportError, check_hello
from controlplane.session import Session
from controlplane.state import Worker
from controlplane.store import POLICY_KEYS
from protos import control_pb2 as pb
from protos import control_pb2_grpc

log = structlog.get_logger()


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
        try:
            check_hello(first.hello)
        except AbsurdReportError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        first.DiscardUnknownFields()  # of a worker of another version: nothing reads them, and the hello is kept
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
        """Until either side ends the stream; so does whatever goes wrong, of this stream only."""
        try:
            async for report in reports:
                if report.WhichOneof("kind") == "sample":
                    report.DiscardUnknownFields()  # the newest sample is kept, too
                    self._loop.record(session, report.sample)
        except Exception:
            worker = session.worker
            log.exception("report failed", worker=worker.worker_id, service=worker.service)
        finally:
            session.outbox.put_nowait(None)


class AdminServer(control_pb2_grpc.AdminServicer):
    """What people and tools may see and set."""

    def __init__(self, loop: ControlLoop, stale_s: float, clock: Callable[[], float]) -> None:
        self._loop = loop
        self._stale_s = stale_s
        self._clock = clock
        self._explaining = asyncio.Lock()  # one at a time: plans and quota writes need the same threads

    async def GetFleet(
        self, request: pb.GetFleetRequest, context: grpc.aio.ServicerContext[pb.GetFleetRequest, pb.Fleet]
    ) -> pb.Fleet:
        return status.fleet(self._loop.fleet, self._loop.actuator.kind, self._stale_s, self._clock())

    async def WatchDecisions(
        self,
        request: pb.WatchDecisionsRequest,
        context: grpc.aio.ServicerContext[pb.WatchDecisionsRequest, pb.Decision],
    ) -> AsyncIterator[pb.Decision]:
        if request.past > MOST_PAST:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"past: expected at most {MOST_PAST}, got {request.past}"
            )
        async with aclosing(self._loop.decisions.watch(request.past)) as decisions:
            async for decision in decisions:
                yield decision

    async def Explain(
        self,
        request: pb.ExplainRequest,
        context: grpc.aio.ServicerContext[pb.ExplainRequest, pb.ExplainResponse],
    ) -> pb.ExplainResponse:
        fleet = self._loop.fleet
        if request.service not in (known := fleet.services()):
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"service: {request.service[:100]!r} is neither configured nor attached; {_names(known)}",
            )
        workers = sorted(
            (worker for worker in fleet.workers.values() if worker.service == request.service),
            key=lambda worker: worker.worker_id,
        )
        if request.worker_id:
            ids = [worker.worker_id for worker in workers]
            if request.worker_id not in ids:
                await context.abort(
                    grpc.StatusCode.NOT_FOUND,
                    f"worker_id: {request.worker_id[:100]!r} is no attached worker of the service; {_names(ids)}",
                )
            workers = [worker for worker in workers if worker.worker_id == request.worker_id]
        return pb.ExplainResponse(explanations=[await self._explained(worker) for worker in workers])

    async def _explained(self, worker: Worker) -> pb.Explanation:
        last, why = self._loop.round_of(worker), None
        if last is not None and (index := last.index(worker)) is not None:
            # Pricing all candidates takes milliseconds, for which samples and acknowledgements must not wait.
            async with self._explaining:
                why = await asyncio.to_thread(explanation.explain, last, index)
        return status.explained(worker, last, why, self._loop.fleet.paused, self._stale_s, self._clock())

    async def SetServicePolicy(
        self,
        request: pb.SetServicePolicyRequest,
        context: grpc.aio.ServicerContext[pb.SetServicePolicyRequest, pb.ServicePolicy],
    ) -> pb.ServicePolicy:
        if request.service not in self._loop.fleet.services():
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"service: {request.service[:100]!r} is neither configured nor attached",
            )
        asked = {field.name: value for field, value in request.ListFields() if field.name in POLICY_KEYS}
        try:
            after = self._loop.overrides.set_policy(request.service, asked, reset=request.reset)
        except PolicyError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        self._loop.replan()
        await self._loop.overrides.kept()
        return pb.ServicePolicy(
            service=request.service, **{name: getattr(after, name) for name in POLICY_KEYS}
        )

    async def Pause(
        self,
        request: pb.PauseRequest,
        context: grpc.aio.ServicerContext[pb.PauseRequest, pb.PauseResponse],
    ) -> pb.PauseResponse:
        self._loop.overrides.pause(True)
        await self._loop.overrides.kept()
        return pb.PauseResponse()

    async def Resume(
        self,
        request: pb.ResumeRequest,
        context: grpc.aio.ServicerContext[pb.ResumeRequest, pb.ResumeResponse],
    ) -> pb.ResumeResponse:
        self._loop.overrides.pause(False)
        self._loop.replan()
        await self._loop.overrides.kept()
        return pb.ResumeResponse()


def _names(known: Sequence[str]) -> str:
    """Those that would do, as far as they fit into a status."""
    return f"known: {', '.join(known)[:1000]}" if known else "none is known"
