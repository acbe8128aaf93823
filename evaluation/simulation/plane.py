"""The control plane in virtual time: what `controlplane.loop` does, around any policy."""

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from controlplane import prior, status
from controlplane.allocation import NONE, Quota
from controlplane.cell import HALF_LIFE_S
from controlplane.config import Config, ServicePolicy
from controlplane.governor import Governor, rest_s
from controlplane.reports import allocation_message, version_of
from controlplane.resize import Action, Resize, SendDirective, SetQuota
from controlplane.state import Fleet, Host, Worker
from dataplane.agent import shape_of, table_of
from dataplane.telemetry import version
from evaluation.simulation import worker as virtual
from evaluation.simulation.policies import Policy, Seen, Target
from evaluation.simulation.scenario import Scenario, Service
from evaluation.simulation.score import Tally
from evaluation.simulation.series import Span
from evaluation.simulation.worker import VirtualWorker
from protos import control_pb2


@dataclass(slots=True)
class Seat:
    """One worker, as it is and as it is believed to be."""

    worker: Worker
    virtual: VirtualWorker
    # What is reserved under each quota ever asked for, in cores.
    reserved: dict[int, float] = field(default_factory=dict)
    cpu_s: float = 0.0


class Plane:
    """Owns the fleet, and performs what the resizing rule asks for: quotas late, directives at once."""

    def __init__(
        self, scenario: Scenario, policy: Policy, tallies: list[Tally], control: Config | None = None
    ) -> None:
        self._scenario = scenario
        self._policy = policy
        self._config = control or Config()
        planning = self._config.planner
        self.host = Host(1000 * scenario.host_cores, 0)
        self.fleet = Fleet(
            [self.host],
            planning.request_overhead_ms / 1000,
            planning.latency_quantile,
            self._config.actuator.period_us / 1e6,
        )
        self.resizes = 0
        self.core_seconds = 0.0
        self.reserved: list[Span] = []
        self.speed_changed = True
        self._accounted_at = 0.0
        self._decided_at = 0.0
        self._writes: list[tuple[float, int, Seat, Quota]] = []
        self._written = 0
        self._tick_at = math.inf
        targets = policy.start(scenario)
        self.seats = [
            self._seat(index, service, target, tally)
            for index, (service, target, tally) in enumerate(
                zip(scenario.services, targets, tallies, strict=True)
            )
        ]
        self._schedule(0.0)

    @property
    def next_at(self) -> float:
        """When `act` has something to do."""
        return min(self._writes[0][0], self._tick_at) if self._writes else self._tick_at

    def act(self, now: float) -> None:
        """A quota has come into force, or a decision is due."""
        if self._writes and self._writes[0][0] <= now:
            _, _, seat, quota = heapq.heappop(self._writes)
            self._account(now)
            assert quota.cpu_millicores is not None
            seat.virtual.set_quota(quota.cpu_millicores, now)
            self._perform(seat, seat.worker.resize.quota_written(quota.cpu_millicores, 0, now), now)
        else:
            self._tick(now)

    def hear(self, seat: Seat, now: float) -> None:
        """A worker reports, and acknowledges."""
        sample = seat.virtual.report(allocation_message(seat.worker.allocation), now)
        if sample is not None:
            self._describe(seat, sample)
            self.fleet.record(seat.worker, sample, now)
            if sample.distress:
                rested_at = self._decided_at + rest_s(self.host.full, self._config.governor.rest_s)
                self._tick_at = min(self._tick_at, max(now, rested_at))
        acknowledged = version_of(version(seat.virtual.batcher.acknowledged))
        self._perform(seat, seat.worker.resize.acknowledged(acknowledged, now), now)

    def close(self, now: float) -> None:
        """Account for what is reserved until `now`."""
        self._account(now)

    def _seat(self, index: int, service: Service, target: Target, tally: Tally) -> Seat:
        scenario, allocation = self._scenario, target.allocation
        hello = control_pb2.Hello(
            worker_id=service.name,
            service=service.name,
            model_digest=service.name,
            max_instances=service.max_instances or service.max_cores,
            max_threads=service.max_cores,
            max_batch=service.max_batch,
            allocation=allocation_message(allocation),
        )
        governing = self._config.governor
        governor = Governor(governing.shrink_hold_s, governing.dead_band_millicores, service.max_cores)
        worker = self.fleet.attach(hello, Resize(0, governing.ack_timeout_s), governor, 0.0, self.host)
        self.fleet.policies[service.name] = ServicePolicy(
            weight=service.weight, max_millicores=1000 * service.max_cores, max_batch=service.max_batch
        )
        _profile(worker, service, virtual.noise(scenario.noise, (scenario.seed, index, 1)))
        first = SendDirective(NONE, allocation)
        directive = status.directive(worker, first, self._period_s, pace=False)
        batcher = virtual.batcher(shape_of(directive), scenario.patience_s)
        batcher.times.adopt(table_of(directive))
        draws = virtual.noise(scenario.noise, (scenario.seed, index, 2))
        work = service.work or service.truth.noisy(draws)
        runs = VirtualWorker(service, scenario, batcher, allocation.cpu_millicores, tally, work)
        runs.on_change = self._note_change
        if self._policy.listens:
            runs.listen(0.0)
        seat = Seat(worker, runs, {allocation.cpu_millicores: target.reserved_cores})
        worker.resize.attached(None, allocation, allocation.quota, 0.0)
        return seat

    @property
    def _period_s(self) -> float:
        return self._config.actuator.period_us / 1e6

    def _note_change(self) -> None:
        self.speed_changed = True

    def _schedule(self, now: float) -> None:
        interval_s = self._policy.interval_s(self._scenario)
        self._tick_at = math.inf if interval_s is None else now + interval_s

    def _tick(self, now: float) -> None:
        seen = []
        for seat in self.seats:
            self._perform(seat, seat.worker.resize.poll(now), now)
            seat.virtual.advance(now)
            used_cores = (seat.virtual.cpu_s - seat.cpu_s) / max(now - self._decided_at, 1e-9)
            seat.cpu_s = seat.virtual.cpu_s
            seen.append(Seen(seat.virtual.service, seat.worker, used_cores))
        self._decided_at = now
        self._schedule(now)
        for seat, target in zip(self.seats, self._policy.decide(self.fleet, seen, now), strict=True):
            if target is None or target.allocation == seat.worker.allocation:
                continue
            self.resizes += 1
            self._account(now)
            seat.reserved[target.allocation.cpu_millicores] = target.reserved_cores
            actions = seat.worker.resize.retarget(
                target.allocation, self.fleet.next_version(seat.worker), now
            )
            self._perform(seat, actions, now)

    def _perform(self, seat: Seat, actions: Iterable[Action], now: float) -> None:
        for action in actions:
            match action:
                case SendDirective():
                    directive = status.directive(seat.worker, action, self._period_s, pace=False)
                    seat.virtual.obey(shape_of(directive), table_of(directive), now)
                case SetQuota(cpu_millicores, memory_bytes):
                    self._written += 1
                    quota = Quota(cpu_millicores, memory_bytes)
                    entry = (now + self._scenario.actuation_s, self._written, seat, quota)
                    heapq.heappush(self._writes, entry)

    def _describe(self, seat: Seat, sample: control_pb2.Sample) -> None:
        """Fill in what the agent reads off its own shape and quota."""
        shape = seat.virtual.batcher.shape
        sample.allocation.cpu_millicores = seat.virtual.quota_millicores
        sample.allocation.instances = shape.instances
        sample.allocation.threads = shape.threads
        sample.allocation.max_batch = shape.max_batch

    def _account(self, now: float) -> None:
        """Charge what is reserved since the last time, within the run."""
        until = min(now, self._scenario.seconds)
        elapsed = until - self._accounted_at
        if elapsed > 0:
            cores = tuple(seat.reserved[seat.virtual.quota_millicores] for seat in self.seats)
            self.core_seconds += sum(cores) * elapsed
            self.reserved.append(Span(until, cores))
            self._accounted_at = until


def _profile(worker: Worker, service: Service, noise: Iterator[float]) -> None:
    """Tell the latency model of a worker what was measured beforehand, as much and as old as in `prior`."""
    for point in service.profile:
        if point.cores <= service.max_cores and point.batch <= service.max_batch:
            for _ in range(prior.EXECUTIONS):
                work_s = point.latency_ms / 1000 * next(noise)
                worker.latency.record(point.batch, point.cores, work_s, 1.0, -HALF_LIFE_S)
