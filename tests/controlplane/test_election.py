"""Of the candidates for one Lease no two lead at once, whatever is slow, lost or late."""

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.election import RENEWED_WITHIN, Claim, Election

A_OTHER = Claim("other", "1", 4, 0)


def test_who_finds_it_free_writes_at_once():
    election = Election("me", 4)
    assert election.may_write(Claim(), 0.0)
    claim = election.claim(Claim(), "now")
    assert claim == Claim("me", "now", 4, 1)
    election.written(0.5)
    assert (election.leads(3.49), election.leads(3.5)) == (True, False)
    assert election.claim(claim, "later") == Claim("me", "later", 4, 1)


def test_another_waits_for_the_whole_duration_after_the_last_change_it_has_seen():
    election = Election("me", 4)
    assert not election.may_write(A_OTHER, 10.0)
    assert not election.may_write(A_OTHER, 13.9)
    renewed = Claim("other", "2", 4, 0)
    assert not election.may_write(renewed, 13.95)
    assert not election.may_write(renewed, 17.9)
    assert election.may_write(renewed, 17.95)


def test_the_holder_says_for_how_long_and_one_that_does_not_is_waited_for_all_the_same():
    election = Election("me", 4)
    slow, silent = Claim("other", "1", 60), Claim("other", "1", 0)
    assert not election.may_write(slow, 0.0)
    assert not election.may_write(slow, 59.0)
    assert election.may_write(slow, 60.0)
    assert not election.may_write(silent, 61.0)
    assert election.may_write(silent, 65.0)


def test_times_of_other_clocks_count_for_nothing():
    election = Election("me", 4)
    assert not election.may_write(Claim("other", "1970-01-01T00:00:00.000000Z", 4), 1e9)
    assert not election.may_write(Claim("other", "2999-01-01T00:00:00.000000Z", 4), 1e9 + 1)


def test_one_of_whose_own_write_no_answer_came_may_write_again():
    election = Election("me", 4)
    assert election.may_write(Claim("me", "1", 4, 1), 0.0)
    assert not election.leads(0.0)


def test_a_lost_one_leads_no_more():
    election = Election("me", 4)
    election.written(0.0)
    election.lost()
    assert not election.leads(0.0)


@dataclass
class Candidate:
    """One of them; `sent` is a write under way: its claim, of which version, begun when."""

    election: Election
    rate: float  # of its clock, whose zero is its own, too
    offset: float
    version: int = -1
    last: Claim = field(default_factory=Claim)
    sent: tuple[Claim, int, float] | None = None


class Elections(RuleBasedStateMachine):
    """Candidates whose clocks run a little differently, and an API server that is as slow as it likes."""

    @initialize(clocks=st.lists(st.tuples(st.floats(0.9, 1.1), st.floats(-1e6, 1e6)), min_size=2, max_size=3))
    def begin(self, clocks: list[tuple[float, float]]) -> None:
        self.time = 0.0
        self.lease, self.version = Claim(), 0
        self.stamps = 0
        self.candidates = [
            Candidate(Election(str(number), 4), rate, offset) for number, (rate, offset) in enumerate(clocks)
        ]

    def now(self, candidate: Candidate) -> float:
        return candidate.offset + candidate.rate * self.time

    # Also about as long as a Lease lasts by the slowest and by the fastest clock.
    @rule(seconds=st.one_of(st.floats(0.0, 2.0), st.sampled_from([3.65, 4.0, 4.45])))
    def wait(self, seconds: float) -> None:
        self.time += seconds

    @rule(number=st.integers(0, 2), delay=st.floats(0.0, 2.0))
    def look(self, number: int, delay: float) -> None:
        """Read, hear of it after a while, and send a write if one may."""
        candidate = self.candidates[number % len(self.candidates)]
        claim, version = self.lease, self.version
        self.time += delay
        if candidate.sent is None and candidate.election.may_write(claim, self.now(candidate)):
            self._send(candidate, claim, version)

    @rule(number=st.integers(0, 2))
    def renew(self, number: int) -> None:
        candidate = self.candidates[number % len(self.candidates)]
        if candidate.sent is None and candidate.election.leads(self.now(candidate)):
            self._send(candidate, candidate.last, candidate.version)

    def _send(self, candidate: Candidate, over: Claim, version: int) -> None:
        self.stamps += 1
        claim = candidate.election.claim(over, str(self.stamps))
        candidate.sent = claim, version, self.now(candidate)

    @rule(number=st.integers(0, 2), answered=st.booleans(), delay=st.floats(0.0, 2.0))
    def arrive(self, number: int, answered: bool, delay: float) -> None:
        """What was sent reaches the API server, and its answer the candidate, if it is not lost."""
        candidate = self.candidates[number % len(self.candidates)]
        if candidate.sent is None:
            return
        claim, version, began_at = candidate.sent
        candidate.sent = None
        if version != self.version:
            return
        self.lease, self.version = claim, self.version + 1
        written = self.version
        self.time += delay
        if answered:
            candidate.last, candidate.version = claim, written
            candidate.election.written(began_at)

    @rule(number=st.integers(0, 2))
    def take(self, number: int) -> None:
        """All of it at once."""
        self.look(number, 0.0)
        self.arrive(number, True, 0.0)

    @precondition(lambda self: self.lease.holder)
    @rule()
    def release(self) -> None:
        """Whoever leads gives it up."""
        candidate = self.candidates[int(self.lease.holder)]
        if candidate.election.leads(self.now(candidate)) and candidate.version == self.version:
            candidate.election.lost()
            self.lease, self.version = (
                Claim("", self.lease.renewed, 4, self.lease.transitions),
                self.version + 1,
            )

    @invariant()
    def one_leads_at_most(self) -> None:
        leading = [c for c in self.candidates if c.election.leads(self.now(c))]
        assert len(leading) <= 1


def test_leaders_stop_before_others_begin_by_a_quarter():
    assert RENEWED_WITHIN * 1.1 / 0.9 < 1  # what the clocks of the machine below are apart at most


TestElections = Elections.TestCase
