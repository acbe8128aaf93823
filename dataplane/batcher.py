"""Which requests run now, in which batch, and which never will.

Driven by time, owns no clock: every entry point takes `now` (seconds, monotonic), `step` returns what to do
as a value, and `Step.wake_at` says when to ask again if nothing happens before.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import inf

from core import edf
from dataplane.due import Fixed, Patience
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
    given_up: list[Request] = field(default_factory=list)


class Batcher:
    """Earliest deadline first over `shape.instances` slots.

    Three lanes: *live* requests can be on time; *doubtful* ones could if the worker had more, or ran faster,
    and wait `patience_s` for that before they are given up; *late* ones cannot. Each runs when none waits in
    the lanes before it. No request waits while a slot is idle, except while `hold_until` paces the worker.
    """

    def __init__(self, shape: Shape, times: ServiceTimes, max_queue: int, patience_s: float = 0.0) -> None:
        self.shape = shape
        self.times = times
        self.max_queue = max_queue
        self.patience_s = patience_s
        self.hold_until = 0.0
        # When a doubtful request was so first, and when it would have ended.
        self._doubted: dict[Request, tuple[float, float]] = {}
        self._patience = Patience(patience_s, self._doubted, times)
        self._live = EdfQueue(Fixed(lambda request: request.deadline_at))
        self._doubtful = EdfQueue(self._patience)
        self._late = EdfQueue(Fixed(lambda request: request.expires_at))
        self._running: list[Execution] = []
        self._last_start_at = float("-inf")
        self._busy_seconds = 0.0
        self._busy_since = 0.0

    def __repr__(self) -> str:
        lanes = f"live={len(self._live)} doubtful={len(self._doubtful)} late={len(self._late)}"
        return f"<Batcher {lanes} running={len(self._running)}>"

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._live) + len(self._doubtful) + len(self._late)

    @property
    def live(self) -> EdfQueue:
        """What waits and can still be on time."""
        return self._live

    @property
    def doubtful(self) -> EdfQueue:
        """What waits for the worker to get more."""
        return self._doubtful

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
        return min(
            (r.arrived_at for lane in (self._live, self._doubtful, self._late) for r in lane), default=None
        )

    @property
    def acknowledged(self) -> tuple[int, int]:
        """The newest version under which nothing older still runs."""
        return min((execution.shape.version for execution in self._running), default=self.shape.version)

    @property
    def would_grow(self) -> bool:
        """Whether more requests would make better batches of what starts now."""
        idle = self.shape.instances - len(self._running)
        return idle > 0 and len(self) < idle * self.times.best_batch(self.shape.max_batch)

    def add(self, request: Request) -> bool:
        """Queue a request; False if the queue is full.

        Late ones take no place that it could have: the next step drops them, the latest first.
        """
        if len(self._live) >= self.max_queue:
            return False
        self.times.costs.meet(request)
        self._live.add(request)
        return True

    def cancel(self, request: Request) -> bool:
        """The client has gone; False if the request no longer waits."""
        self._doubted.pop(request, None)
        return any(lane.remove(request) for lane in (self._live, self._doubtful, self._late))

    def reshape(self, shape: Shape) -> None:
        """Run what starts from now on under `shape`; what was given up gets another chance."""
        if (shape.instances, shape.threads) != (self.shape.instances, self.shape.threads):
            self.disturb()
        self.shape = shape
        for lane in (self._doubtful, self._late):
            for request in list(lane):
                lane.remove(request)
                self._live.add(request)

    def disturb(self) -> None:
        """CPUs or slots have changed: what runs says nothing of how long it takes under either."""
        for execution in self._running:
            execution.mixed = True

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
        self._lose_patience(now, work)
        if now >= self.hold_until:
            while len(self._running) < self.shape.instances and len(self) > 0:
                self._start_next(now, work)
        distress = self._doubt_hopeless(now, work)
        while len(self) > self.max_queue:
            self._displace(work)
        for request in work.given_up:
            self.times.costs.refuse(request, now)
        return Step(work.start, work.drop, self._wake_at(now), distress)

    def _expire(self, now: float, work: _Work) -> None:
        # Not only the head: a deadline may lie before its rank (see deadline.Policy.min_slo_s).
        for request in self._live.take_due(now):
            self._doubted.pop(request, None)
            if now < request.expires_at:
                self._late.add(request)
            else:
                work.drop.append(Drop(request, Outcome.EXPIRED))
        for request in self._late.take_due(now):
            work.drop.append(Drop(request, Outcome.EXPIRED))

    def _lose_patience(self, now: float, work: _Work) -> None:
        """Give up what has been doubtful for too long, or cannot be on time any more whatever happens."""
        for request in self._doubtful.take_due(now):
            _, ends_at = self._doubted[request]
            self._give_up(request, max(0.0, ends_at - now), work)

    def _start_next(self, now: float, work: _Work) -> None:
        """Fill one idle slot from the first lane that is not empty."""
        lane, deadline = self._late, float("inf")
        if len(self._live) + len(self._doubtful) > 0:
            lane = self._live if len(self._live) > 0 else self._doubtful
            first = lane[0]
            deadline = first.deadline_at
            least = self.times.least(first)
            if now + least > deadline and now - self._last_start_at < _PROBE_INTERVAL_S:
                lane.remove(first)
                self._give_up(first, least, work)
                return
        requests = self._batch(lane, deadline, now)
        for request in requests:
            lane.remove(request)
            self._doubted.pop(request, None)
        self._account(now)
        rows = sum(request.rows for request in requests)
        execution = Execution(tuple(requests), rows, self.shape, now, self._busy_seconds)
        self._running.append(execution)
        self._last_start_at = now
        work.start.append(execution)

    def _batch(self, lane: EdfQueue, deadline: float, now: float) -> list[Request]:
        """The first request of `lane` and those after it that share its shape, while that pays.

        A batch takes no more than its share of what waits for the idle slots, ends by `deadline`, that of
        the first, and by those of the others in a lane that has one, and stops where the time per row is
        least. Where the upper quantile leaves not even the first alone enough time, the mean decides:
        shrinking batches just when time is short would only cost throughput. It ends early enough, too, for
        those of other shapes that are due before its last member and that no other idle slot can take.
        """
        first = lane[0]
        cost = self.times.costs.of(first)
        idle = self.shape.instances - len(self._running)
        share = -(-len(lane) // idle)
        sure = now + cost * self.times.high(first.rows) <= deadline
        duration = self.times.high if sure else self.times.mean
        batch = [first]
        rows = first.rows
        best, best_cost = 1, self.times.mean(rows) / rows
        passed = 0
        for request in lane:
            if request is first:
                continue
            if request.shape_key != first.shape_key:
                passed += 1
                if lane is self._live and passed >= idle:
                    until = request.deadline_at - self.times.costs.of(request) * self.times.mean(request.rows)
                    if now + cost * duration(rows) <= until:
                        deadline = min(deadline, until)
                continue
            if len(batch) == share or rows + request.rows > self.shape.max_batch:
                break
            deadline = deadline if lane is self._late else min(deadline, request.deadline_at)
            if now + cost * duration(rows + request.rows) > deadline:
                break
            rows += request.rows
            batch.append(request)
            row_cost = self.times.mean(rows) / rows
            if row_cost < best_cost:
                best, best_cost = len(batch), row_cost
        return batch[:best]

    def _doubt_hopeless(self, now: float, work: _Work) -> bool:
        """With all slots busy, doubt what would end past its deadline if executions take their mean.

        Tells whether anything is doubtful or given up, or would be if they took their upper quantile.
        """
        if len(self._live) > 0 and not self._in_time(free_in := self._free_in(now), now):
            highs = self.times.highs()
            alone = self.times.best_batch(self.shape.max_batch) == 1
            if not alone or self._first_miss(self._live, free_in, now, highs) is not None:
                while (found := self._first_miss(self._live, free_in, now, self.times.means)) is not None:
                    miss, ends_in = found
                    self._doubt(self._victim(miss, free_in, now), now, ends_in, work)
                if self._first_miss(self._live, free_in, now, highs) is not None:
                    return True
            # Else one by one, where shorter executions end no later, all are on time under the mean as well.
        return len(work.given_up) + len(self._doubtful) > 0

    def _in_time(self, free_in: Sequence[float], now: float) -> bool:
        """Whether all of `live` end in time in any order, which spares most of the checks."""
        count = len(self._live)
        # No request has more rows than the others leave if they have one each.
        rows = max(self.times.best_batch(self.shape.max_batch), self._live.rows - count + 1)
        highs = self.times.highs()
        if rows >= len(highs):
            return False
        longest = max(highs[: rows + 1])
        costs = self.times.costs
        if not costs.even:
            longest *= max(map(costs.of, self._live))
        end = edf.latest(free_in, count, longest)
        return now + end <= self._live.due_at

    def _victim(self, miss: int, free_in: Sequence[float], now: float) -> Request:
        """Who makes room for the request at position `miss`.

        One of lower priority that is served before it, if it can make it without those; otherwise it goes
        itself: anyone else's place would not save it, or its own priority does not warrant that.
        """
        ahead = [self._live[index] for index in range(miss)]
        missing = self._live[miss]
        weaker = [request for request in ahead if request.priority < missing.priority]
        if not weaker:
            return missing
        rest = [request for request in ahead if request.priority >= missing.priority]
        if self._first_miss([*rest, missing], free_in, now, self.times.means) is not None:
            return missing
        return min(reversed(weaker), key=lambda request: request.priority)

    def _first_miss(
        self,
        waiting: Collection[Request],
        free_in: Sequence[float],
        now: float,
        service_time: Sequence[float],
    ) -> tuple[int, float] | None:
        """Position and completion (from now) of the first request that would end past its deadline."""
        batch = self.times.best_batch(self.shape.max_batch)
        rows = [r.rows for r in waiting]
        costs = self.times.costs
        if costs.even:
            ends = edf.completions(free_in, rows, service_time, batch)
        else:
            shapes = [r.shape_key for r in waiting]
            factors = [costs.of(r) for r in waiting]
            remaining = [r.deadline_at - now for r in waiting]
            ends = edf.completions_by_shape(free_in, rows, shapes, factors, remaining, service_time, batch)
        for index, (request, end) in enumerate(zip(waiting, ends, strict=True)):
            if now + end > request.deadline_at:
                return index, end
        return None

    def _free_in(self, now: float) -> list[float]:
        """Seconds until each slot can start an execution."""
        hold = max(0.0, self.hold_until - now)
        means, known = self.times.means, len(self.times.means)
        free_in = []
        for execution in self._running:
            mean = means[execution.rows] if execution.rows < known else self.times.mean(execution.rows)
            mean *= self.times.costs.of(execution.requests[0])
            # What has run for longer than predicted is as good as a tenth of an execution from its end.
            free_in.append(max(hold, mean - (now - execution.started_at), 0.1 * mean))
        free_in.sort()
        # After a shrink more run than there are instances; those that end first free no slot.
        free_in = free_in[max(0, len(free_in) - self.shape.instances) :]
        return free_in + [hold] * (self.shape.instances - len(free_in))

    def _doubt(self, request: Request, now: float, ends_in: float, work: _Work) -> None:
        self._live.remove(request)
        self._doubted.setdefault(request, (now, now + ends_in))
        if now < self._patience.until(request):
            self._doubtful.add(request)
        else:
            self._give_up(request, ends_in, work)

    def _give_up(self, request: Request, predicted_s: float, work: _Work) -> None:
        work.given_up.append(request)
        self._doubted.pop(request, None)
        if request.wants_late:
            self._late.add(request)
        else:
            work.drop.append(Drop(request, Outcome.REFUSED, predicted_s))

    def _displace(self, work: _Work) -> None:
        lane = self._late if len(self._late) > 0 else self._doubtful
        last = lane[len(lane) - 1]
        lane.remove(last)
        self._doubted.pop(last, None)
        work.drop.append(Drop(last, Outcome.QUEUE_FULL))

    def _wake_at(self, now: float) -> float | None:
        held_until = self.hold_until if self.hold_until > now and len(self) > 0 else inf
        at = min(self._live.due_at, self._late.due_at, self._doubtful.due_at, held_until)
        return None if at == inf else at

    def _account(self, now: float) -> None:
        self._busy_seconds += len(self._running) * (now - self._busy_since)
        self._busy_since = now
