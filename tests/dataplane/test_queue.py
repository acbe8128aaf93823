"""The EDF queue against a list that is sorted whenever it is read."""

from math import inf

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dataplane.due import Fixed
from dataplane.queue import EdfQueue
from tests.dataplane.requests import request


def lane():
    """A queue that requests leave at their deadline."""
    return EdfQueue(Fixed(lambda request: request.deadline_at))


class EdfQueueMachine(RuleBasedStateMachine):
    """Adds and removes anywhere, deadlines often equal."""

    def __init__(self):
        super().__init__()
        self.queue = lane()
        self.model = []
        self.gone = []

    @rule(deadline_at=st.sampled_from([0.5, 1.0, 1.0, 2.0]) | st.floats(0, 3), rows=st.integers(1, 4))
    def add(self, deadline_at, rows):
        added = request(deadline_at, rows=rows)
        assert added not in self.queue
        self.queue.add(added)
        self.model.append(added)

    @rule(index=st.integers(0))
    def remove(self, index):
        if self.model:
            removed = self.model.pop(index % len(self.model))
            assert self.queue.remove(removed)
            self.gone.append(removed)

    @rule(index=st.integers(0))
    def remove_again(self, index):
        if self.gone:
            assert not self.queue.remove(self.gone[index % len(self.gone)])

    @rule(now=st.sampled_from([0.5, 1.0, 2.0]) | st.floats(0, 3))
    def take_due(self, now):
        taken = self.queue.take_due(now)
        assert taken == sorted((r for r in self.model if r.deadline_at <= now), key=lambda r: r.rank_at)
        self.model = [r for r in self.model if r.deadline_at > now]
        self.gone += taken

    @invariant()
    def equals_the_sorted_list(self):
        # Python's sort is stable, and the model is in order of arrival.
        expected = sorted(self.model, key=lambda r: r.rank_at)
        assert list(self.queue) == expected
        assert [self.queue[index] for index in range(len(self.queue))] == expected
        assert self.queue.rows == sum(r.rows for r in expected)
        assert self.queue.due_at == min((r.deadline_at for r in expected), default=inf)
        assert all(r in self.queue for r in expected)
        assert repr(self.queue) == f"<EdfQueue requests={len(expected)} rows={self.queue.rows}>"


TestEdfQueue = EdfQueueMachine.TestCase


def test_rank_orders_where_it_differs_from_the_deadline():
    queue = lane()
    liar = request(0.001, rank_at=0.5)
    honest = request(0.4)
    queue.add(liar)
    queue.add(honest)
    assert list(queue) == [honest, liar]
