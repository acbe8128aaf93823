"""Who is due when, against looking at everybody."""

from math import inf

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dataplane.due import Fixed, Patience
from dataplane.servicetime import ServiceTime, ServiceTimes
from tests.dataplane.requests import request


class PatienceMachine(RuleBasedStateMachine):
    """Requests of several sizes and shapes are doubted, go, and come back, while executions get faster and slower."""

    @initialize()
    def start(self):
        self.now = 0.0
        self.times = ServiceTimes([ServiceTime(1, 0.1, 0.08, 0.15), ServiceTime(4, 0.3, 0.2, 0.4)])
        self.doubted = {}
        self.patience = Patience(0.25, self.doubted, self.times)
        self.waiting = []
        self.gone = []

    @rule(budget=st.floats(0.0, 1.0), rows=st.integers(1, 5), shape=st.sampled_from("ab"))
    def doubt(self, budget, rows, shape):
        added = request(self.now + budget, rows=rows, shape=shape)
        self.times.costs.meet(added)
        self.doubted[added] = (self.now, self.now)
        self.patience.add(added)
        self.waiting.append(added)

    @rule(index=st.integers(0))
    def go(self, index):
        if self.waiting:
            self.gone.append(self.waiting.pop(index % len(self.waiting)))
            self.patience.discard(self.gone[-1])

    @rule(index=st.integers(0))
    def come_back(self, index):
        """Doubted since the first time."""
        if self.gone:
            self.waiting.append(self.gone.pop(index % len(self.gone)))
            self.patience.add(self.waiting[-1])

    @rule(rows=st.integers(1, 4), seconds=st.floats(0.01, 1.0), shape=st.sampled_from("ab"))
    def observe(self, rows, seconds, shape):
        self.times.observe(rows, seconds, request(1.0, shape=shape))

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.25]))
    def take(self, seconds):
        self.now += seconds
        due = {r for r in self.waiting if self.now >= self.until(r)}
        taken = self.patience.take(self.now)
        assert len(taken) == len(due)
        assert set(taken) == due
        self.waiting = [r for r in self.waiting if r not in due]
        self.gone += taken

    @invariant()
    def next_is_the_first_of_all(self):
        if hasattr(self, "waiting"):
            assert self.patience.next_at() == min(map(self.until, self.waiting), default=inf)

    def until(self, waiting):
        since, _ = self.doubted[waiting]
        least = self.times.low(waiting.rows) * self.times.costs.of(waiting)
        assert self.patience.until(waiting) == min(since + 0.25, waiting.deadline_at - least)
        return self.patience.until(waiting)


TestPatience = PatienceMachine.TestCase


def test_what_has_gone_is_not_kept_for_long():
    due = Fixed(lambda one: one.deadline_at)
    due.add(request(1.0))
    for _ in range(1000):
        gone = request(2.0)
        due.add(gone)
        due.discard(gone)
    assert len(due._heap) < 50
    assert due.next_at() == 1.0
