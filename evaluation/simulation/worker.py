"""One worker in virtual time: what `dataplane.worker` and `dataplane.agent` do, over the same batcher."""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dataplane.batcher import Batcher, Execution, Shape
from dataplane.request import Completion, ExecutionRecord, Outcome, Request
from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.telemetry import Resources, Telemetry
from dataplane.worker import Observer
from evaluation.simulation.scenario import Order, Scenario, Service, Work
from evaluation.simulation.score import Tally
from protos import control_pb2

_MAX_QUEUE = 1024  # as in dataplane.config
_DISTRESS_INTERVAL_S = 0.1  # as in dataplane.uplink
_NEVER = math.inf


class VirtualWorker:
    """Owns a batcher and the executions it started.

    All executions of a worker progress at one speed, that of the quota over its busy threads (1 at most), divided
    by 1 + κ·(busy instances of the host − 1). So a clock of work done tells when each is over, whatever changes
    meanwhile: an execution started at w with s seconds of work ends when the clock shows w + s.
    """

    def __init__(
        self,
        service: Service,
        scenario: Scenario,
        batcher: Batcher,
        quota_millicores: int,
        tally: Tally,
        work: Work,
    ) -> None:
        self.service = service
        self.batcher = batcher
        self.quota_millicores = quota_millicores
        self.busy_threads = 0
        self.cpu_s = 0.0  # of all busy threads, waiting for each other included, as of `_at`
        self.telemetry: Telemetry | None = None
        self.observers: list[Observer] = []  # telemetry among them
        self.on_change: Callable[[], None] = lambda: None
        self.next_header_at = _NEVER
        self.next_arrival_at = _NEVER
        self.next_finish_at = _NEVER
        self.wake_at = _NEVER
        self.report_at = _NEVER
        self._scenario = scenario
        self._tally = tally
        self._work_of = work
        self._overhead_s = service.request_cpu_s
        self._arrivals = service.offered.arrived_s
        self._deadlines = service.offered.deadline_s
        self._next = -1
        self._headers = iter(sorted(service.offered.header_s))
        self._edf = scenario.order is Order.EDF
        self._running: list[tuple[float, int, Execution, float]] = []
        self._started = 0
        self._at = 0.0
        self._throttle = self._speed = 1.0
        self._work_s = self._thread_s = 0.0
        self._distress = False
        self._distress_sent_at = -_NEVER
        self._quota_reported = quota_millicores
        self._await_next()
        self._await_header()

    @property
    def done(self) -> bool:
        """Whether nothing waits, runs, or is yet to arrive."""
        return self.next_arrival_at == _NEVER and not self._running and len(self.batcher) == 0

    def listen(self, now: float) -> None:
        """Report to a control plane from now on."""
        self.telemetry = Telemetry(now, self._resources())
        self.observers.append(self.telemetry)
        self.report_at = now

    def advance(self, now: float) -> None:
        """Let what runs go on until `now`."""
        elapsed = now - self._at
        if elapsed > 0:
            self._at = now
            if self.busy_threads:
                self._work_s += elapsed * self._speed
                granted = elapsed * self._throttle
                self._thread_s += granted
                self.cpu_s += granted * self.busy_threads

    def respeed(self, host_busy: int) -> None:
        """Reckon with the busy instances of the host, the quota and the threads as they are now."""
        threads = self.busy_threads
        if threads == 0:
            self.next_finish_at = _NEVER
            return
        quota = self.quota_millicores / 1000
        self._throttle = 1.0 if quota >= threads else quota / threads
        self._speed = self._throttle / (1 + self._scenario.contention * (host_busy - 1))
        self.next_finish_at = self._at + max(0.0, self._running[0][0] - self._work_s) / self._speed

    def announce(self, now: float) -> None:
        """The next header is there."""
        self._await_header()
        for observer in self.observers:
            observer.announced()

    def arrive(self, now: float) -> None:
        """The next request is complete at the worker."""
        index = self._next
        self._await_next()
        deadline_at = self._deadlines[index]
        rank_at = deadline_at if self._edf else now
        request = Request(
            index, 1, None, now, now, deadline_at, deadline_at + self._scenario.grace_s, rank_at
        )
        self.cpu_s += self._overhead_s
        for observer in self.observers:
            observer.arrived(request, now)
        if self.batcher.add(request):
            self.pump(now)
        else:
            self._end(request, Outcome.QUEUE_FULL, now)

    def finish(self, now: float) -> None:
        """The execution that is due next is over."""
        self.advance(now)
        _, _, execution, thread_s = heapq.heappop(self._running)
        threads = execution.shape.threads
        self.busy_threads -= threads
        self.on_change()
        before = self.batcher.acknowledged
        busy = self.batcher.finish(execution, now)
        wall_s = now - execution.started_at
        if not execution.mixed:
            self.batcher.times.observe(execution.rows, wall_s, execution.requests[0])
        if self.observers:
            cpu_s = self._thread_s - thread_s
            record = ExecutionRecord(execution.rows, threads, wall_s, cpu_s, busy, execution.mixed)
            for observer in self.observers:
                observer.executed(record)
        for request in execution.requests:
            on_time = now <= request.deadline_at
            self._end(request, Outcome.ON_TIME if on_time else Outcome.LATE, now, execution)
        if self.batcher.acknowledged != before:
            self.report_at = now
        if len(self.batcher) > 0:
            self.pump(now)

    def pump(self, now: float) -> None:
        """Let the batcher do whatever the time has come for."""
        step = self.batcher.step(now)
        self.wake_at = _NEVER if step.wake_at is None else step.wake_at
        for drop in step.drop:
            self._end(drop.request, drop.outcome, now)
        if step.start:
            self.advance(now)
            for execution in step.start:
                threads = execution.shape.threads
                work_s = self._work_of(execution.rows, threads, now)
                self._started += 1
                entry = (self._work_s + work_s, self._started, execution, self._thread_s)
                heapq.heappush(self._running, entry)
                self.busy_threads += threads
            self.on_change()
        if step.distress and self._scenario.distress and self.telemetry is not None:
            self._distress = True
            if now - self._distress_sent_at >= _DISTRESS_INTERVAL_S:
                self.report_at = now

    def obey(self, shape: Shape, table: Sequence[ServiceTime], now: float) -> None:
        """Put a directive in force, unless it is: it is sent again when it is not acknowledged in time."""
        if shape.version <= self.batcher.shape.version:
            return
        self.batcher.times.adopt(table)
        self.batcher.reshape(shape)
        self.pump(now)
        self.report_at = now

    def set_quota(self, millicores: int, now: float) -> None:
        """The owner of the quota has changed it; the worker learns of that with its next report."""
        self.advance(now)
        self.quota_millicores = millicores
        self.on_change()

    def report(self, allocation: control_pb2.Allocation, now: float) -> control_pb2.Sample | None:
        """Tell what happened since the last time; None while nobody listens."""
        if self.quota_millicores != self._quota_reported:
            self._quota_reported = self.quota_millicores
            self.batcher.disturb()
        if self.telemetry is None:
            self.report_at = _NEVER
            return None
        self.advance(now)
        distress, self._distress = self._distress, False
        if distress:
            self._distress_sent_at = now
        self.report_at = now + self._scenario.report_s
        return self.telemetry.sample(self.batcher, self._resources(), allocation, now, distress=distress)

    def _resources(self) -> Resources:
        return Resources(cpu_s=self.cpu_s, quota_millicores=self.quota_millicores)

    def _await_header(self) -> None:
        self.next_header_at = next(self._headers, _NEVER)

    def _await_next(self) -> None:
        """Uploads that outlive their deadline never reach the worker."""
        arrivals, deadlines, grace_s = self._arrivals, self._deadlines, self._scenario.grace_s
        index = self._next + 1
        while index < len(arrivals) and arrivals[index] >= deadlines[index] + grace_s:
            self._tally.end(index, Outcome.EXPIRED_IN_UPLOAD)
            index += 1
        self._next = index
        self.next_arrival_at = arrivals[index] if index < len(arrivals) else _NEVER

    def _end(
        self, request: Request, outcome: Outcome, now: float, execution: Execution | None = None
    ) -> None:
        self._tally.end(request.sequence, outcome)
        if self.observers:
            completion = (
                Completion(outcome, request.rows, request.arrived_at, now)
                if execution is None
                else Completion(
                    outcome, request.rows, request.arrived_at, now, execution.started_at, execution.rows
                )
            )
            for observer in self.observers:
                observer.completed(completion)


def noise(cv: float, seed: Sequence[int]) -> Iterator[float]:
    """Give factors of mean 1 and coefficient of variation `cv`, log-normal: executions are skewed to the right."""
    if cv == 0:
        while True:
            yield 1.0
    rng = np.random.default_rng(seed)
    variance = math.log1p(cv * cv)
    while True:
        yield from np.exp(rng.normal(-variance / 2, math.sqrt(variance), 4096)).tolist()


def unknown() -> ServiceTimes:
    """Give service times to be replaced by those of the first directive."""
    return ServiceTimes([ServiceTime(1, 0.1, 0.1, 0.1)])


def batcher(shape: Shape, patience_s: float) -> Batcher:
    """Give the batcher of a worker that has just started."""
    return Batcher(shape, unknown(), _MAX_QUEUE, patience_s)
