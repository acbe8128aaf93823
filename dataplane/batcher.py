"""Which requests run now, in which batch, and which never will.

Driven by time, owns no clock: every entry point takes `now` (seconds, monotonic), `step` returns what to do
as a value, and `Step.wake_at` says when to ask again if nothing happens before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from core import edf
from dataplane.queue import EdfQueue
from dataplane.request import Outcome, Request
from dataplane.servicetime import ServiceTimes

# Whatever is predicted, an execution starts this often, so that predictions can recover.
_PROBE_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What a worker runs with: concurrent executions, threads of each, most rows of one.

    `version` is the (term, epoch) of the directive that asked for it.
    """

    instances: int
    threads: int
    max_batch: int
    version: tuple[int, int] = (0, 0)


@dataclass(slots=True, eq=False)
class Execution:
    """One batch that occupies a slot."""

    requests: tuple[Request, ...]
    rows: int
    shape: Shape
    started_at: float
    busy_seconds_before: float
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """A request that leaves the queue without having run; `predicted_s` is when it would have ended, from now."""

    request: Request
    outcome: Outcome
    predicted_s: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now."""

    start: Sequence[Execution] = ()
    drop: Sequence[Drop] = ()
    wake_at: float | None = None
    # Some of what waits is not going to make its deadline if executions take as long as they may.
    distress: bool = False


@dataclass(slots=True)
class _Work:
    start: list[Execution] = field(default_factory=list)
    drop: list[Drop] = field(default_factory=list)
    given_up: int = 0


class Batcher:
    """Earliest deadline first over `shape.instances` slots.

    Two lanes: *live* requests can still be on time; *late* ones cannot, and run when no live one waits.
    No request waits while a slot is idle, except while `hold_until` paces the worker.
    """

    def __init__(self, shape: Shape, times: ServiceTimes, max_queue: int) -> None:
        self.shape = shape
        self.times = times
        self.max_queue = max_queue
        self.hold_until = 0.0
        self._live = EdfQueue()
        self._late = EdfQueue()
        self._running: list[Execution] = []
        self._last_start_at = float("-inf")
        self._busy_seconds = 0.0
        self._busy_since = 0.0

    def __repr__(self) -> str:
        return f"<Batcher live={len(self._live)} late={len(self._late)} running={len(self._running)}>"

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._live) + len(self._late)

    @property
    def live(self) -> EdfQueue:
        """What waits and can still be on time."""
        return self._live

    @property
    def late(self) -> EdfQueue:
        """What waits for an answer after its deadline."""
        return self._late

    @property
    def running(self) -> Sequence[Execution]:
        return self._running

    @property
    def oldest_at(self) -> float | None:
        """Arrival of what has waited longest."""
        return min((r.arrived_at for lane in (self._live, self._late) for r in lane), default=None)

    @property
    def acknowledged(self) -> tuple[int, int]:
        """The newest version under which nothing older still runs."""
        return min((execution.shape.version for execution in self._running), default=self.shape.version)

    def add(self, request: Request) -> bool:
        """Queue a request; False if the queue is full."""
        if len(self) >= self.max_queue:
            return False
        self._live.add(request)
        return True

    def cancel(self, request: Request) -> bool:
        """The client has gone; False if the request no longer waits."""
        return self._live.remove(request) or self._late.remove(request)

    def reshape(self, shape: Shape) -> None:
        """Run what starts from now on under `shape`; what was given up gets another chance."""
        if shape.instances * shape.threads != self.shape.instances * self.shape.threads:
            for execution in self._running:
                execution.mixed = True
        self.shape = shape
        for request in list(self._late):
            self._late.remove(request)
            self._live.add(request)

    def finish(self, execution: Execution, now: float) -> float:
        """An execution is over and its slot idle. Returns the mean number of busy slots while it ran."""
        self._account(now)
        self._running.remove(execution)
        elapsed = now - execution.started_at
        if elapsed <= 0:
            return 1.0
        return max(1.0, (self._busy_seconds - execution.busy_seconds_before) / elapsed)

    def step(self, now: float) -> Step:
        """Expire, start and refuse, in this order, whatever the time has come for."""
        work = _Work()
        self._expire(now, work)
        if now >= self.hold_until:
            while len(self._running) < self.shape.instances and len(self) > 0:
                self._start_next(now, work)
        distress = self._refuse_hopeless(now, work) if len(self._live) > 0 else False
        return Step(work.start, work.drop, self._wake_at(now), distress)

    def _expire(self, now: float, work: _Work) -> None:
        # Not only the head: a deadline may lie before its rank (see deadline.Policy.min_slo_s).
        for request in [r for r in self._live if r.deadline_at <= now]:
            self._live.remove(request)
            if now < request.expires_at:
                self._late.add(request)
            else:
                work.drop.append(Drop(request, Outcome.EXPIRED))
        for request in [r for r in self._late if r.expires_at <= now]:
            self._late.remove(request)
            work.drop.append(Drop(request, Outcome.EXPIRED))

    def _start_next(self, now: float, work: _Work) -> None:
        """Fill one idle slot from the live lane, or from the late one where no live request waits."""
        if len(self._live) > 0:
            first = self._live[0]
            predicted = self.times.low(first.rows)
            hopeless = now + predicted > first.deadline_at
            if hopeless and now - self._last_start_at < _PROBE_INTERVAL_S:
                self._give_up(first, predicted, work)
                return
            requests = self._batch(self._live, now)
        else:
            requests = self._batch(self._late, now)
        lane = self._live if len(self._live) > 0 else self._late
        for request in requests:
            lane.remove(request)
        self._account(now)
        execution = Execution(
            tuple(requests), sum(r.rows for r in requests), self.shape, now, self._busy_seconds
        )
        self._running.append(execution)
        self._last_start_at = now
        work.start.append(execution)

    def _batch(self, lane: EdfQueue, now: float) -> list[Request]:
        """The first request of `lane` and those after it that share its shape, while that pays.

        A batch takes no more than its share of what waits for the idle slots, keeps the deadline of every
        member that can still be kept, and ends where the time per row is least.
        """
        first = lane[0]
        idle = self.shape.instances - len(self._running)
        limit = min(self.shape.max_batch, -(-lane.rows // idle))
        batch = [first]
        rows = first.rows
        best, best_cost = 1, self.times.mean(rows) / rows
        deadline = first.deadline_at if lane is self._live else float("inf")
        for request in lane:
            if request is first or request.shape_key != first.shape_key:
                continue
            if rows + request.rows > limit:
                break
            deadline = min(deadline, request.deadline_at) if lane is self._live else deadline
            if now + self.times.high(rows + request.rows) > deadline:
                break
            rows += request.rows
            batch.append(request)
            cost = self.times.mean(rows) / rows
            if cost < best_cost:
                best, best_cost = len(batch), cost
        return batch[:best]

    def _refuse_hopeless(self, now: float, work: _Work) -> bool:
        """With all slots busy, give up what would end past its deadline; returns whether more is at risk.

        Of everything served up to the first miss, the request of lowest priority makes room: the missing
        one itself among equals, since all others would only be late in its stead.
        """
        batch = self.times.best_batch(self.shape.max_batch)
        while (found := self._first_miss(now, batch, self.times.means)) is not None:
            miss, ends_in = found
            victim = min((self._live[index] for index in range(miss, -1, -1)), key=lambda r: r.priority)
            self._give_up(victim, ends_in, work)
        if work.given_up:
            return True
        return len(self._live) > 0 and self._first_miss(now, batch, self.times.highs()) is not None

    def _first_miss(self, now: float, batch: int, service_time: Sequence[float]) -> tuple[int, float] | None:
        """Position and completion (from now) of the first live request that would end past its deadline."""
        if len(self._live) == 0:
            return None
        hold = max(0.0, self.hold_until - now)
        free_at = [
            # What has run for longer than predicted is as good as a tenth of an execution from its end.
            max(hold, self.times.mean(e.rows) - (now - e.started_at), 0.1 * self.times.mean(e.rows))
            for e in sorted(self._running, key=lambda e: e.started_at)
        ]
        # More executions than instances run for a while after a shrink; those that end first free no slot.
        free_at.sort()
        free_at = free_at[max(0, len(free_at) - self.shape.instances) :]
        free_at += [hold] * (self.shape.instances - len(free_at))
        ends = edf.completions(free_at, [r.rows for r in self._live], service_time, batch)
        for index, (request, end) in enumerate(zip(self._live, ends, strict=True)):
            if now + end > request.deadline_at:
                return index, end
        return None

    def _give_up(self, request: Request, predicted_s: float, work: _Work) -> None:
        work.given_up += 1
        self._live.remove(request)
        if request.wants_late:
            self._late.add(request)
        else:
            work.drop.append(Drop(request, Outcome.REFUSED, predicted_s))

    def _wake_at(self, now: float) -> float | None:
        times = [r.deadline_at for r in self._live] + [r.expires_at for r in self._late]
        if len(self) > 0 and self.hold_until > now:
            times.append(self.hold_until)
        return min(times, default=None)

    def _account(self, now: float) -> None:
        self._busy_seconds += len(self._running) * (now - self._busy_since)
        self._busy_since = now
