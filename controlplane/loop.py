"""The control loop: observe, plan, govern, act."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

import structlog

from controlplane import governor, planner, status
from controlplane.actuators import Actuator
from controlplane.admission import Admission
from controlplane.cell import Cell
from controlplane.config import Config
from controlplane.decision import Decision
from controlplane.decisions import Decisions
from controlplane.explanation import Round
from controlplane.exploration import Exploration
from controlplane.governor import crowded
from controlplane.inputs import inputs
from controlplane.memory import Memory
from controlplane.metrics import Metrics
from controlplane.overrides import Overrides
from controlplane.planner import Planner
from controlplane.prior import Priors
from controlplane.reconciliation import Reconciliation
from controlplane.reports import AbsurdReportError, version_of
from controlplane.scaling import Scaling
from controlplane.session import Session
from controlplane.state import Fleet, Host, Worker
from controlplane.store import Store
from protos import control_pb2

_GOODBYE_S = 3.0
_RETRY_S = 0.1

# Workers of a predecessor try again every second: a plan for those that come first would give away what others have.
GATHER_S = 1.0

log = structlog.get_logger()


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
        decide: Planner = planner.plan,
        priors: Priors | None = None,
        scaling: Scaling | None = None,
        gather_s: float = GATHER_S,
    ) -> None:
        self.fleet = fleet
        self.actuator = actuator
        # Who shares a Lease has a store of its own: what was set there may have been set otherwise elsewhere since.
        kept = None if config.leader.lease else store
        self.overrides = Overrides(config.services, fleet, kept, metrics)
        self.decisions = Decisions(store, metrics)
        self._config = config
        self._metrics = metrics
        metrics.configure(config.services)
        self._clock = clock
        self._decide = decide
        self._priors = priors or Priors({})
        self._scaling = scaling
        self._gather_s = gather_s
        self._rounds: dict[str, Round] = {}  # by host: the newest plan, and what it was made of
        self._explorations = defaultdict[str, Exploration](lambda: Exploration(config.planner))  # by host
        self._sessions: dict[str, Session] = {}
        self._early = asyncio.Event()
        self._progress = asyncio.Event()
        self._memory = Memory(store, config.store, metrics, clock)
        self.reconciliation = Reconciliation(
            fleet, self._sessions, actuator, config.actuator.reconcile_interval_s, clock
        )
        self._admission = Admission(
            config, fleet, actuator, metrics, clock, self._progress.set, self.reconciliation.is_known
        )

    async def run(self) -> None:
        """Plan every interval, at once on distress and for a new worker; remember; see to what is in force."""
        async with asyncio.TaskGroup() as tasks:
            # Beside the rounds: a plan waits neither for a disk nor for an engine.
            tasks.create_task(self._memory.run(self.fleet.models))
            tasks.create_task(self.reconciliation.run())
            tasks.create_task(self._go_round())

    async def _go_round(self) -> None:
        await asyncio.sleep(self._gather_s)
        self._early.clear()
        await self.tick()
        while True:
            host_full = any(host.full for host in self.fleet.hosts.values())
            rest_s = governor.rest_s(host_full, self._config.governor.rest_s)
            await asyncio.sleep(rest_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._config.planner.interval_s - rest_s)):
                    await self._early.wait()
            self._early.clear()
            await self.tick()

    async def tick(self) -> None:
        """Go once around the loop: every host is planned for itself."""
        self._poll()
        for host in self.fleet.hosts.values():
            try:
                await self._go_on(host)
            except Exception:  # workers keep what they have; the next round may do better
                self._metrics.plan_failures.inc()
                log.exception("round failed", host=host.name)

    async def _go_on(self, host: Host) -> None:
        """Plan for the workers of a host, and put it in force as far as that may be."""
        fresh = self.fleet.fresh(self._clock(), self._config.governor.stale_s)
        workers = [worker for worker in fresh if worker.host is host]
        made = self._rounds[host.name] = await self._plan(host, workers)
        plan = made.plan
        host.full = plan.host_full
        if self.fleet.paused:
            return
        if self._scaling is not None:
            self._scaling.consider(made, self.fleet)
        changes = [
            (worker.allocation, assignment.configuration)
            for worker, assignment in zip(workers, plan.assignments, strict=True)
        ]
        full = crowded(changes, self._available(host, workers)[0])
        for index, worker in enumerate(workers):
            # It may have gone, or come back as another, while the plan was made.
            session = self._sessions.get(worker.worker_id)
            if session is not None and session.worker is worker:
                self._govern(session, made, index, full)

    async def attach(self, hello: control_pb2.Hello) -> Session:
        """A worker has opened its stream; one that it had before is closed."""
        self._close(hello.worker_id)
        cells: Mapping[tuple[int, int], Cell] = {}
        if hello.model_digest not in self.fleet.models:
            remembered = self._memory.recall(hello.model_digest)
            cells = self._priors.beneath(remembered, hello.service, hello.model_digest, self._clock())
        self.fleet.remember(hello.model_digest, cells)
        session = await self._admission.admit(hello)
        self._close(hello.worker_id)  # another may have opened meanwhile
        self._sessions[hello.worker_id] = session
        return session

    def _close(self, worker_id: str) -> None:
        """Close the stream that a worker has, if it has one."""
        if (before := self._sessions.get(worker_id)) is not None:
            before.close()

    def detach(self, session: Session) -> None:
        """The stream has ended."""
        session.close()
        worker = session.worker
        if self._sessions.get(worker.worker_id) is session:
            del self._sessions[worker.worker_id]
            self._admission.forget_owners(self._sessions.values())
        self.fleet.detach(worker)
        log.info("worker gone", worker=worker.worker_id, service=worker.service)

    def record(self, session: Session, sample: control_pb2.Sample) -> None:
        """Learn from a sample, and act on what it acknowledges; not if the stream has a successor."""
        if session.closed:
            return
        worker, now = session.worker, self._clock()
        plannable_before = worker.plannable
        try:
            self.fleet.record(worker, sample, now)
        except AbsurdReportError as error:
            self._metrics.samples_refused.labels(self._metrics.label(worker.service)).inc()
            session.complain("sample refused", str(error))
            return
        session.tell_drift()
        if not sample.starting:
            session.perform(worker.resize.warm(now))
        session.perform(worker.resize.acknowledged(version_of(sample.acknowledged), now))
        if sample.distress or (worker.plannable and not plannable_before):
            self._early.set()

    async def goodbye(self) -> None:
        """Put every worker back to the allocation it was found with, as far as time allows, and let it go.

        What was set, what was decided and what was learned is kept.
        """
        now = self._clock()
        for session in self._sessions.values():
            session.perform(session.worker.resize.restore(now))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await self._settled()
        # Before their streams end: workers attach again at once, also to one that is about to stop.
        await self.decisions.kept()
        await self._memory.keep(self.fleet.models)
        await self.overrides.kept()
        for session in tuple(self._sessions.values()):
            session.close()

    async def _settled(self) -> None:
        """Wait until nothing is pending; what failed is tried again when its time comes."""
        while any(session.worker.resize.pending for session in self._sessions.values()):
            self._progress.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self._progress.wait()
            self._poll()

    def replan(self) -> None:
        """Plan without waiting for the interval to end."""
        self._early.set()

    def round_of(self, worker: Worker) -> Round | None:
        """The newest plan of the worker's host; None before there is one."""
        return None if worker.host is None else self._rounds.get(worker.host.name)

    async def _plan(self, host: Host, workers: list[Worker]) -> Round:
        states = [status.service_state(w, self.fleet.policy(w.service), self._config) for w in workers]
        millicores, memory_bytes = self._available(host, workers)
        kept = self._kept(host, workers)
        now, settings = self._clock(), self._config.planner
        exploration = self._explorations[host.name]
        believed = [state.latency for state in states]  # hope is nothing to hold executions against
        if not self.fleet.paused:
            states = exploration.hoped(states, now)
        began = time.perf_counter()
        # The solver may take its time; samples and acknowledgements must not wait for it.
        plan = await asyncio.to_thread(self._decide, states, millicores, memory_bytes, settings)
        self._metrics.plan_seconds.observe(time.perf_counter() - began)
        for worker in self.fleet.workers.values():
            if worker.host is host and worker not in workers:
                worker.expected_misses = None
        for worker, latency, assignment in zip(workers, believed, plan.assignments, strict=True):
            worker.believed = latency
            worker.expected_misses = assignment.reasons.expected_misses
        if (tried := exploration.planned(states, plan, millicores, now)) is not None:
            log.info("size tried", service=tried[0], configuration=str(tried[1]))
        return Round(now, tuple(workers), tuple(states), millicores, memory_bytes, settings, plan, kept)

    def _govern(self, session: Session, made: Round, index: int, full: bool) -> None:
        worker, now = session.worker, self._clock()
        state, assignment = made.services[index], made.plan.assignments[index]
        current = worker.allocation
        planned = assignment.configuration
        if worker.resize.overdue:  # it keeps the quota that it may need, and its resize tells it again
            session.complain("allocation not acknowledged", f"after {self._config.governor.ack_timeout_s} s")
        if not worker.resize.pending:
            worker.failure = ""  # nothing is left to write
        # What its owner refuses may never come about: a smaller plan must not wait for it.
        settled = not worker.resize.pending or worker.resize.overdue or bool(worker.failure)
        cannot_stay = governor.urgent(assignment.reasons.spared, state.planned_demand.rate)
        verdict = worker.governor.decide(
            current, planned, now, settled=settled, crowded=full, urgent=cannot_stay
        )
        if verdict is None:
            return
        decision = Decision(
            worker_id=worker.worker_id,
            service=worker.service,
            version=self.fleet.next_version(worker),
            before=current,
            after=verdict.allocation,
            action=verdict.action.value,
            reason=status.reason(assignment, worker, state.reserve, current, verdict.allocation),
            arrival_rate=state.demand.rate,
            queue_depth=worker.queue_depth,
            expected_misses=assignment.reasons.expected_misses,
            host_full=made.plan.host_full,
            inputs=inputs(made, index, verdict.allocation),
        )
        worker.last_action, worker.last_action_at = f"{decision.action}: {decision.reason}", now
        session.perform(worker.resize.retarget(decision.after, decision.version, now))
        self.decisions.add(decision)

    def _available(self, host: Host, workers: list[Worker]) -> tuple[int, int]:
        """Millicores and bytes for `workers`: what others keep counts.

        Whatever others claim to have, there are the floors at the least.
        """
        kept = self._kept(host, workers).values()
        floors = sum(self.fleet.policy(w.service).min_millicores for w in workers)
        return (
            max(floors, host.millicores - sum(millicores for millicores, _ in kept)),
            max(0, host.memory_bytes - sum(memory_bytes for _, memory_bytes in kept)),
        )

    def _kept(self, host: Host, workers: list[Worker]) -> dict[str, tuple[int, int]]:
        """By service, millicores and bytes of all but `workers`: what starts, or is silent, keeps what it has."""
        kept: dict[str, tuple[int, int]] = {}
        for worker in self.fleet.workers.values():
            if worker.host is host and worker not in workers:
                millicores, memory_bytes = kept.get(worker.service, (0, 0))
                kept[worker.service] = (
                    millicores + self._kept_millicores(worker),
                    memory_bytes + self._kept_memory(worker),
                )
        return kept

    def _kept_millicores(self, worker: Worker) -> int:
        """What counts of a worker that is not planned: what it was given, else what it claims and may have."""
        if (given := worker.resize.target) is not None:
            return given.cpu_millicores
        claimed = min(
            worker.allocation.cpu_millicores, self.fleet.most_millicores(worker.service, worker.host)
        )
        in_force = worker.resize.in_force
        if in_force is None or in_force.cpu_millicores is None or not self.actuator.holds_quota:
            return claimed
        return min(claimed, in_force.cpu_millicores)

    def _kept_memory(self, worker: Worker) -> int:
        """Likewise in bytes: the limit it was given, else what it claims and can have."""
        return worker.memory_within(worker.allocation.memory_bytes or worker.sample.usage.memory_bytes)

    def _poll(self) -> None:
        now = self._clock()
        for session in self._sessions.values():
            session.perform(session.worker.resize.poll(now))
