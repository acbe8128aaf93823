"""The control loop: observe, plan, govern, act."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

import structlog

from controlplane import planner, status
from controlplane.actuators import ActuationError, Actuator, WorkerRef
from controlplane.config import Config
from controlplane.governor import Governor
from controlplane.metrics import Metrics
from controlplane.operation import HEAD_ROOM_MILLICORES
from controlplane.planner import Plan
from controlplane.resize import Action, Quota, Resize, SendDirective, SetQuota
from controlplane.state import AbsurdSampleError, Fleet, Worker, allocation_of, version_of
from controlplane.store import Decision, Store
from protos import control_pb2

# Distress of a worker that a plan cannot help would otherwise keep the planner busy.
_MIN_PLAN_INTERVAL_S = 0.05
_GOODBYE_S = 3.0

log = structlog.get_logger()


class Session:
    """One attached stream: the worker behind it, and the directives on their way to it; None ends it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.outbox: asyncio.Queue[control_pb2.Directive | None] = asyncio.Queue()
        self.complained_of: set[str] = set()


class ControlLoop:
    """Owns the sessions, and is the only one to change the fleet or to act on it; runs on the event loop."""

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        actuator: Actuator,
        store: Store,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fleet = fleet
        self.store = store
        self.actuator = actuator
        self.decided = asyncio.Condition()
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._period_s = config.actuator.period_us / 1e6
        self._sessions: dict[str, Session] = {}
        self._distress = asyncio.Event()
        self._progress = asyncio.Event()
        self._writes: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Plan every interval, and at once on distress; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._config.planner.interval_s):
                    await self._distress.wait()
            except TimeoutError:
                pass
            self._distress.clear()
            await self.tick()
            await asyncio.sleep(_MIN_PLAN_INTERVAL_S)

    async def tick(self) -> None:
        """Go once around the loop."""
        self._poll()
        workers = self.fleet.fresh(self._clock(), self._config.governor.stale_s)
        plan = await self._plan(workers)
        self.fleet.host_full = plan.host_full
        if self.fleet.paused:
            return
        for worker, assignment in zip(workers, plan.assignments, strict=True):
            if worker.worker_id in self._sessions:
                await self._govern(worker, assignment, plan.host_full)

    async def attach(self, hello: control_pb2.Hello) -> Session:
        """A worker has opened its stream; a stream it had before is forgotten."""
        # A write for a predecessor in the same container may still be on its way.
        while (write := self._writes.get(_owner(hello))) is not None:
            await asyncio.wait([write])
        quota = await self._read_quota(hello)
        now = self._clock()
        resize = Resize(self._startup_millicores(hello), self._config.governor.ack_timeout_s)
        governor = Governor(self._config.governor.shrink_hold_s, self._config.governor.dead_band_millicores)
        worker = self.fleet.attach(hello, resize, governor, now)
        session = self._sessions[worker.worker_id] = Session(worker)
        log.info(
            "worker attached",
            worker=worker.worker_id,
            service=worker.service,
            container=hello.container_id,
            quota_millicores=None if quota is None else quota.cpu_millicores,
            term=self.fleet.term,
        )
        found = allocation_of(hello.allocation)
        applied = version_of(hello.applied)
        self._perform(session, resize.attached(applied, found, quota, now, starting=hello.starting))
        if quota is not None and quota.cpu_millicores is None:
            # Unlimited, as after `docker run` without a quota: from now on it has what it says it has.
            self._perform(session, resize.retarget(found, self.fleet.next_version(), now))
        return session

    def detach(self, session: Session) -> None:
        """The stream has ended."""
        worker = session.worker
        if self._sessions.get(worker.worker_id) is session:
            del self._sessions[worker.worker_id]
        self.fleet.detach(worker)
        log.info("worker gone", worker=worker.worker_id, service=worker.service)

    def record(self, session: Session, sample: control_pb2.Sample) -> None:
        """Learn from a sample, and act on what it acknowledges."""
        worker, now = session.worker, self._clock()
        try:
            self.fleet.record(worker, sample, now)
        except AbsurdSampleError as error:
            self._metrics.samples_refused.labels(worker.service).inc()
            self._complain(session, "sample refused", str(error))
            return
        if not sample.starting:
            self._perform(session, worker.resize.warm(now))
        self._perform(session, worker.resize.acknowledged(version_of(sample.acknowledged), now))
        if sample.distress:
            self._distress.set()

    async def goodbye(self) -> None:
        """Put every worker back to the allocation it was found with, as far as time allows, and let it go."""
        now = self._clock()
        for session in self._sessions.values():
            self._perform(session, session.worker.resize.restore(now))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await self._settled()
        for session in self._sessions.values():
            session.outbox.put_nowait(None)

    async def _settled(self) -> None:
        while any(session.worker.resize.pending for session in self._sessions.values()):
            self._progress.clear()
            await self._progress.wait()

    def replan(self) -> None:
        """Plan without waiting for the interval to end."""
        self._distress.set()

    async def _plan(self, workers: list[Worker]) -> Plan:
        states = [status.service_state(w, self.fleet.policy(w.service), self._config) for w in workers]
        began = time.perf_counter()
        # The solver may take its time; samples and acknowledgements must not wait for it.
        plan = await asyncio.to_thread(
            planner.plan,
            states,
            self.fleet.host_millicores,
            self.fleet.host_memory_bytes,
            self._config.planner,
        )
        self._metrics.plan_seconds.observe(time.perf_counter() - began)
        return plan

    async def _govern(self, worker: Worker, assignment: planner.Assignment, host_full: bool) -> None:
        session, now = self._sessions[worker.worker_id], self._clock()
        current = worker.allocation
        planned = status.allocation_of(assignment.configuration)
        verdict = worker.governor.decide(current, planned, now, settled=not worker.resize.pending)
        if verdict is None:
            return
        reason = status.reason(assignment, worker)
        version = self.fleet.next_version()
        estimate = worker.demand.estimate()
        decision = Decision(
            worker_id=worker.worker_id,
            service=worker.service,
            version=version,
            before=current,
            after=verdict.allocation,
            action=verdict.action.value,
            reason=reason,
            arrival_rate=estimate.rate,
            queue_depth=worker.queue_depth,
            expected_misses=assignment.reasons.expected_misses,
            host_full=host_full,
        )
        self.store.add(decision)
        self._metrics.decisions.labels(worker.service, verdict.action.value).inc()
        worker.last_action = f"{verdict.action.value}: {reason}"
        worker.last_action_at = now
        log.info(
            "decision",
            service=worker.service,
            worker=worker.worker_id,
            action=verdict.action.value,
            reason=reason,
            before=str(current),
            after=str(verdict.allocation),
        )
        self._perform(session, worker.resize.retarget(verdict.allocation, version, now))
        async with self.decided:
            self.decided.notify_all()

    def _startup_millicores(self, hello: control_pb2.Hello) -> int:
        """What a worker gets while it loads and warms up: enough that its threads are not throttled.

        Its quota may be a small one that its predecessor had: engines keep it over a restart.
        """
        allocation = hello.allocation
        unthrottled = 1000 * allocation.instances * allocation.threads + HEAD_ROOM_MILLICORES
        most = min(self.fleet.host_millicores, self.fleet.policy(hello.service).max_millicores)
        return max(allocation.cpu_millicores, min(unthrottled, most))

    def _poll(self) -> None:
        now = self._clock()
        for session in self._sessions.values():
            self._perform(session, session.worker.resize.poll(now))

    def _perform(self, session: Session, actions: Iterable[Action]) -> None:
        self._progress.set()
        for action in actions:
            match action:
                case SendDirective():
                    session.outbox.put_nowait(
                        status.directive(
                            session.worker, action, self._period_s, pace=not self.actuator.holds_quota
                        )
                    )
                case SetQuota(cpu_millicores, memory_bytes):
                    # A resize has one write out at most.
                    self._writes[_owner(session.worker.hello)] = asyncio.create_task(
                        self._write(session, Quota(cpu_millicores, memory_bytes))
                    )

    async def _write(self, session: Session, quota: Quota) -> None:
        worker = session.worker
        began = time.perf_counter()
        try:
            try:
                await self.actuator.write(_ref(worker.hello), quota)
            finally:
                del self._writes[_owner(worker.hello)]
        except ActuationError as error:
            self._metrics.actuation_failures.labels(self.actuator.kind).inc()
            self._complain(session, "quota not written", str(error))
            actions = worker.resize.quota_failed(self._clock())
        else:
            self._metrics.actuation_seconds.observe(time.perf_counter() - began)
            session.complained_of.clear()
            actions = worker.resize.quota_written(quota.cpu_millicores, quota.memory_bytes, self._clock())
        # What is left of a worker that has gone meanwhile is its successor's to decide.
        if self._sessions.get(worker.worker_id) is session:
            self._perform(session, actions)

    async def _read_quota(self, hello: control_pb2.Hello) -> Quota | None:
        try:
            return await self.actuator.read(_ref(hello))
        except ActuationError as error:
            self._metrics.actuation_failures.labels(self.actuator.kind).inc()
            log.warning("quota not read", worker=hello.worker_id, service=hello.service, error=str(error))
            return None

    def _complain(self, session: Session, event: str, text: str) -> None:
        """Log a cause once, until things work again."""
        if text not in session.complained_of:
            session.complained_of.add(text)
            log.warning(event, worker=session.worker.worker_id, service=session.worker.service, error=text)


def _owner(hello: control_pb2.Hello) -> str:
    """What a quota belongs to: outlives the worker process where that is in a container or a group."""
    return hello.container_id or hello.cgroup_path or hello.worker_id


def _ref(hello: control_pb2.Hello) -> WorkerRef:
    return WorkerRef(hello.worker_id, hello.container_id, hello.cgroup_path, hello.pid)
