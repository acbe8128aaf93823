"""The batcher under everything that can happen to a worker, in any order, in virtual time."""

import random
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from core import edf
from dataplane.batcher import Batcher, Shape
from dataplane.request import Outcome
from dataplane.servicetime import ServiceTime, ServiceTimes
from tests.dataplane.requests import request

shapes = st.builds(Shape, instances=st.integers(1, 3), threads=st.integers(1, 2), max_batch=st.integers(1, 5))
# Seconds of 1 to 4 rows: proportional, economical, better up to three rows only.
TABLES = [(0.1, 0.2, 0.3, 0.4), (0.1, 0.11, 0.12, 0.13), (0.1, 0.15, 0.18, 0.4)]

# Small enough to be full at times.
MAX_QUEUE = 8

# What ends this close to its deadline may go either way.
ROUNDING_S = 1e-9


class BatcherMachine(RuleBasedStateMachine):
    """A worker whose executions take 0.2 to 5 times what is predicted, those of shape b a quarter or four times those
    of shape a.
    """

    @initialize(
        shape=shapes,
        means=st.sampled_from(TABLES),
        patience_s=st.sampled_from([0.0, 0.25]),
        cost=st.sampled_from([0.25, 1.0, 4.0]),
        seed=st.integers(0, 2**16),
    )
    def start(self, shape, means, patience_s, cost, seed):
        self.now = 0.0
        self.random = random.Random(seed)
        self.cost = {"a": 1.0, "b": cost}
        times = ServiceTimes(
            [ServiceTime(rows, mean, 0.7 * mean, 1.4 * mean) for rows, mean in enumerate(means, start=1)]
        )
        self.batcher = Batcher(shape, times, MAX_QUEUE, patience_s)
        self.waiting = set()
        self.ends = {}  # execution → when
        self.ended = {}  # request → how
        self.asked = []
        self.last_start_at = -inf
        self.epoch = 0
        self.wake_at = None

    @rule(
        budget=st.sampled_from([0.05, 0.1, 0.2, 0.5, 1.0, 3.0]) | st.floats(-0.1, 2.0),
        rows=st.integers(1, 4),
        shape=st.sampled_from("aab"),
        grace=st.sampled_from([0.0, 0.0, 0.3, 2.0]),
        priority=st.sampled_from([0, 0, 1, 2]),
        least_rank=st.sampled_from([0.0, 0.0, 0.15]),
    )
    def arrive(self, budget, rows, shape, grace, priority, least_rank):
        deadline_at = self.now + budget
        arrived = request(
            deadline_at,
            rows=rows,
            shape=shape,
            grace_s=grace,
            priority=priority,
            arrived_at=self.now,
            rank_at=max(deadline_at, self.now + least_rank),
        )
        room = len(self.batcher.live) < MAX_QUEUE
        assert self.batcher.add(arrived) == room
        if room:
            self.asked.append(arrived)
            self.waiting.add(arrived)
        self.step()

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.3, 1.5]))
    def time_passes(self, seconds):
        until = self.now + seconds
        while (event_at := min([*self.ends.values(), self.wake_at or inf])) <= until:
            self.now = event_at
            for execution in [e for e, end in self.ends.items() if end <= self.now]:
                self.finish(execution)
            self.step()
        self.now = until
        self.step()

    @rule(index=st.integers(0, 29))
    def cancel(self, index):
        if self.waiting:
            gone = sorted(self.waiting, key=lambda r: r.sequence)[index % len(self.waiting)]
            assert self.batcher.cancel(gone)
            assert not self.batcher.cancel(gone)
            self.end(gone, Outcome.CANCELLED)
            self.step()

    @rule(shape=shapes)
    def reshape(self, shape):
        self.epoch += 1
        self.batcher.reshape(Shape(shape.instances, shape.threads, shape.max_batch, (1, self.epoch)))
        self.step()

    @rule(seconds=st.sampled_from([0.05, 0.4]))
    def hold(self, seconds):
        self.batcher.hold_until = self.now + seconds
        self.step()

    def teardown(self):
        if not hasattr(self, "batcher"):
            return
        self.time_passes(10.0)
        while self.ends:
            self.time_passes(10.0)
        assert not self.waiting
        assert len(self.batcher) == 0
        assert set(self.ended) == set(self.asked)

    def end(self, ended, outcome):
        assert ended not in self.ended, "ended twice"
        self.ended[ended] = outcome
        self.waiting.discard(ended)

    def finish(self, execution):
        del self.ends[execution]
        most = max(len(self.ends) + 1, 3)
        assert 1.0 <= self.batcher.finish(execution, self.now) <= most + 1e-9
        if not execution.mixed:
            self.batcher.times.observe(execution.rows, self.now - execution.started_at, execution.requests[0])
        for ended in execution.requests:
            self.end(ended, Outcome.ON_TIME if self.now <= ended.deadline_at else Outcome.LATE)

    def step(self):
        """One step, held to everything that the batcher promises."""
        batcher, now = self.batcher, self.now
        live_before = [r for r in batcher.live if r.deadline_at > now]
        doubtful_before = list(batcher.doubtful)
        running_before = len(batcher.running)
        held = now < batcher.hold_until
        # As they are when it decides: refusals lower them.
        costs = {r.shape_key: batcher.times.costs.of(r) for r in self.waiting}
        costs |= {e.requests[0].shape_key: batcher.times.costs.of(e.requests[0]) for e in batcher.running}
        step = batcher.step(now)
        live, doubtful, late = list(batcher.live), list(batcher.doubtful), list(batcher.late)
        kept = [*live, *doubtful, *late]
        runs = {r for execution in step.start for r in execution.requests}
        drops = {drop.request for drop in step.drop}

        assert len(kept) <= MAX_QUEUE
        # Nothing is lost: what waited runs, ends, or still waits, and only one of them.
        assert runs | drops | {*kept} == self.waiting
        assert len(runs) + len(drops) + len(kept) == len(self.waiting)

        given_up = [r for r in live_before if r in doubtful or r in late or r in drops]
        for drop in step.drop:
            if drop.outcome is Outcome.EXPIRED:
                assert now >= drop.request.expires_at
            elif drop.outcome is Outcome.QUEUE_FULL:
                assert drop.request not in live
                assert len(kept) == MAX_QUEUE
                assert all(
                    (drop.request.rank_at, drop.request.sequence) > (r.rank_at, r.sequence) for r in late
                )
            else:
                assert drop.outcome is Outcome.REFUSED
                assert drop.request in given_up or drop.request in doubtful_before
                assert drop.predicted_s is not None
            self.end(drop.request, drop.outcome)
        assert all(r.deadline_at > now for r in live)
        assert all(r.deadline_at > now for r in doubtful)
        assert all(r.expires_at > now for r in late)

        self.check_starts(step, (live_before, doubtful_before), (live, doubtful, late), costs)
        if held:
            assert not step.start
        else:
            assert len(batcher.running) >= batcher.shape.instances or not len(batcher)
            if live_before and running_before < batcher.shape.instances and now - self.last_start_at >= 1.0:
                assert step.start, "one execution a second runs"
            if not given_up and any(len(execution.requests) > 1 for execution in step.start):
                assert len(batcher.running) >= batcher.shape.instances, "a batch grew beside an idle slot"
        self.check_refusals(given_up, live, costs)
        assert step.distress or not (given_up or doubtful)

        for execution in step.start:
            self.waiting -= set(execution.requests)
            self.last_start_at = now
            actual = self.random.choice([0.2, 0.9, 1.0, 1.1, 1.2, 5.0])
            cost = self.cost[execution.requests[0].shape_key]
            self.ends[execution] = now + batcher.times.mean(execution.rows) * cost * actual
        self.wake_at = step.wake_at
        assert (step.wake_at is None) == (not self.waiting)
        assert all(now < step.wake_at <= r.deadline_at for r in [*live, *doubtful])
        versions = [execution.shape.version for execution in batcher.running]
        assert batcher.acknowledged == min(versions, default=batcher.shape.version)

    def check_starts(self, step, before, lanes, costs):
        live_before, doubtful_before = before
        live, doubtful, late = lanes
        shape = self.batcher.shape
        assert len(self.batcher.running) <= max(shape.instances, len(self.ends))
        ranks = [[(r.rank_at, r.sequence) for r in e.requests] for e in step.start]
        for execution, order in zip(step.start, ranks, strict=True):
            first = execution.requests[0]
            assert execution.shape == shape
            assert execution.rows == sum(r.rows for r in execution.requests)
            assert execution.rows <= shape.max_batch or execution.requests == (first,)
            assert {r.shape_key for r in execution.requests} == {first.shape_key}
            assert order == sorted(order)
            # What the step itself has doubted was live before, and so still comes first.
            lane = live if first in live_before else doubtful if first in doubtful_before else late
            waited = [*live_before, *doubtful_before]
            if lane is not live:
                assert not live, "the others only when nothing that can be on time waits"
            if lane is late:
                assert not doubtful, "late ones only when nothing that could be on time waits"
            for left in lane:
                rank = (left.rank_at, left.sequence)
                assert rank > order[0], "an earlier deadline was left behind"
                if left.shape_key == first.shape_key and left in waited:
                    assert rank > order[-1], "an earlier request of equal shape was left behind"
        live_starts = [
            order[0]
            for e, order in zip(step.start, ranks, strict=True)
            # What even the lower quantile is too long for may be given up, and run as a late one, in one step.
            if (first := e.requests[0]) in live_before
            and self.now + costs[first.shape_key] * self.batcher.times.low(first.rows) <= first.deadline_at
        ]
        assert live_starts == sorted(live_starts)

    def check_refusals(self, given_up, live, costs):
        """Only the hopeless are given up, or those whom a request of higher priority displaces."""
        times, now = self.batcher.times, self.now
        # No idle slot takes them: even the lower quantile is too long.
        rest = [r for r in given_up if now + costs[r.shape_key] * times.low(r.rows) <= r.deadline_at]
        queue = sorted([*live, *rest], key=lambda r: (r.rank_at, r.sequence))
        misses = self.misses(queue, costs, -ROUNDING_S)
        assert misses or not rest, "everything would have been on time"
        assert not self.misses(live, costs, ROUNDING_S), "something hopeless was kept"
        if times.best_batch(self.batcher.shape.max_batch) == 1:
            # Single rows: no completion depends on what comes later, or is later for fewer before it.
            for r in rest:
                assert r in misses or any(m.priority > r.priority for m in misses)

    def misses(self, queue, costs, tolerance):
        """Which of these end past their deadline if executions take their mean."""
        batcher, times = self.batcher, self.batcher.times
        hold = max(0.0, batcher.hold_until - self.now)
        busy = []
        for execution in batcher.running:
            mean = times.mean(execution.rows) * costs[execution.requests[0].shape_key]
            busy.append(max(hold, execution.started_at + mean - self.now, mean / 10))
        slots = sorted(busy + [hold] * (batcher.shape.instances - len(busy)))[-batcher.shape.instances :]
        batch = times.best_batch(batcher.shape.max_batch)
        rows = [r.rows for r in queue]
        if times.costs.even:
            ends = edf.completions(slots, rows, times.means, batch)
        else:
            ends = edf.completions_by_shape(
                slots,
                rows,
                [r.shape_key for r in queue],
                [costs[r.shape_key] for r in queue],
                [r.deadline_at - self.now for r in queue],
                times.means,
                batch,
            )
        return [r for r, end in zip(queue, ends, strict=True) if self.now + end > r.deadline_at + tolerance]


TestBatcher = BatcherMachine.TestCase
TestBatcher.settings = settings(max_examples=100, stateful_step_count=40)
