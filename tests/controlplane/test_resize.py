from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.allocation import NONE, Allocation, Quota, Version, largest, next_term, smallest
from controlplane.resize import PENDING_S, Resize, SendDirective, SetQuota

DEFAULT = Allocation(1000, 1, 1, 1)
STARTUP_MILLICORES = 1000


def allocation(cpu_millicores: int, instances: int = 1, memory_bytes: int = 0) -> Allocation:
    return Allocation(cpu_millicores, instances, 1, 4, memory_bytes)


def attached(quota: Quota | None = DEFAULT.quota, applied: Version | None = None) -> Resize:
    resize = Resize(STARTUP_MILLICORES)
    assert resize.attached(applied, DEFAULT, quota, 0.0) == []
    return resize


V1, V2, V3 = Version(1, 1), Version(1, 2), Version(1, 3)
BIG, SMALL = allocation(2000, 2), allocation(500)


def test_growth_is_one_write_then_the_directive():
    resize = attached()
    assert resize.retarget(BIG, V1, 1.0) == [SetQuota(2000, 0)]
    assert resize.quota_written(2000, 0, 1.02) == [SendDirective(V1, BIG)]
    assert (resize.in_force, resize.unacknowledged, resize.pending) == (Quota(2000), (V1,), True)
    assert resize.acknowledged(V1, 1.1) == []
    assert (resize.target, resize.unacknowledged, resize.pending) == (BIG, (), False)


def test_a_shrink_is_the_directive_then_after_the_acknowledgement_one_write():
    resize = attached()
    assert resize.retarget(SMALL, V1, 1.0) == [SendDirective(V1, SMALL)]
    assert resize.largest_unacknowledged == Quota(1000)
    assert resize.acknowledged(V1, 1.1) == [SetQuota(500, 0)]
    assert resize.acknowledged(V1, 1.11) == []
    assert resize.quota_written(500, 0, 1.12) == []
    assert not resize.pending


def test_a_change_of_shape_writes_no_quota():
    resize = attached()
    reshaped = allocation(1000, instances=2)
    assert resize.retarget(reshaped, V1, 1.0) == [SendDirective(V1, reshaped)]
    assert resize.acknowledged(V1, 1.1) == []
    assert not resize.pending


def test_no_limit_and_a_limit_of_memory_are_compared_as_what_they_allow():
    resize = attached(Quota(None))
    assert resize.retarget(BIG, V1, 1.0) == [SendDirective(V1, BIG)]
    assert resize.acknowledged(V1, 1.1) == [SetQuota(2000, 0)]
    resize.quota_written(2000, 0, 1.2)
    # Less memory, more CPU: neither may fall before the acknowledgement.
    mixed = allocation(3000, memory_bytes=100)
    assert resize.retarget(mixed, V2, 2.0) == [SetQuota(3000, 0)]
    assert resize.quota_written(3000, 0, 2.1) == [SendDirective(V2, mixed)]
    assert resize.acknowledged(V2, 2.2) == [SetQuota(3000, 100)]


def test_a_newer_target_replaces_one_whose_write_is_still_out():
    resize = attached()
    assert resize.retarget(BIG, V1, 1.0) == [SetQuota(2000, 0)]
    assert resize.retarget(SMALL, V2, 1.01) == [SendDirective(V2, SMALL)]
    # Nothing was ever sent that needs 2000: back to what the worker may still be running under.
    assert resize.quota_written(2000, 0, 1.02) == [SetQuota(1000, 0)]
    assert resize.acknowledged(V2, 1.03) == []
    assert resize.quota_written(1000, 0, 1.04) == [SetQuota(500, 0)]


def test_growth_waits_for_a_shrink_that_is_still_out():
    resize = attached()
    resize.retarget(SMALL, V1, 1.0)
    assert resize.acknowledged(V1, 1.1) == [SetQuota(500, 0)]
    assert resize.retarget(DEFAULT, V2, 1.11) == []
    assert resize.quota_written(500, 0, 1.12) == [SetQuota(1000, 0)]
    assert resize.quota_written(1000, 0, 1.14) == [SendDirective(V2, DEFAULT)]


def test_without_acknowledgement_the_quota_stays_and_it_is_reported():
    resize = attached()
    resize.retarget(SMALL, V1, 1.0)
    assert resize.poll(2.9) == []
    assert not resize.overdue
    resize.poll(3.0)
    assert resize.overdue
    assert resize.in_force == Quota(1000)
    assert resize.acknowledged(V1, 9.0) == [SetQuota(500, 0)]
    assert not resize.overdue


def test_a_worker_that_does_not_acknowledge_is_told_again():
    resize = attached()
    resize.retarget(SMALL, V1, 1.0)
    assert resize.retarget(allocation(250), V2, 2.0) == [SendDirective(V2, allocation(250))]
    for now in (4.0, 6.0, 8.0):
        # Only what is wanted of it now, as it was, and not for a version that is overdue and overtaken.
        assert resize.poll(now - 0.1) == []
        assert resize.poll(now) == [SendDirective(V2, allocation(250))]
        assert resize.unacknowledged == (V1, V2)
    assert resize.acknowledged(V2, 9.0) == [SetQuota(250, 0)]
    assert resize.quota_written(250, 0, 9.1) == []
    assert resize.poll(20.0) == []


def test_a_failed_write_is_tried_again_ever_more_rarely():
    resize = attached()
    assert resize.retarget(BIG, V1, 0.0) == [SetQuota(2000, 0)]
    now = 0.0
    for delay in (0.5, 0.75, 0.75, 0.75):
        assert resize.quota_failed(now) == []
        assert resize.retry_at == now + delay
        assert resize.poll(now + delay / 2) == []
        now += delay
        assert resize.poll(now) == [SetQuota(2000, 0)]
    assert resize.quota_written(2000, 0, now) == [SendDirective(V1, BIG)]


def test_an_owner_that_is_gone_for_hours_is_still_asked():
    resize = attached()
    resize.retarget(BIG, V1, 0.0)
    for second in range(2000):
        resize.quota_failed(float(second))
        assert resize.poll(second + 0.75) == [SetQuota(2000, 0)]


def test_what_its_owner_puts_off_is_asked_for_more_rarely_and_something_else_soon():
    resize = attached()
    assert resize.retarget(BIG, V1, 0.0) == [SetQuota(2000, 0)]
    now = 0.0
    for delay in (0.5, 1.0, 2.0, 4.0, 5.0):
        assert resize.quota_failed(now, put_off=True) == []
        assert resize.retry_at == now + delay
        now += delay
        assert resize.poll(now) == [SetQuota(2000, 0)]
    assert resize.quota_failed(now, put_off=True) == []
    # The same quota is not asked for sooner, another one is, and what it was found with in the end.
    assert resize.retarget(replace(BIG, max_batch=2), V2, now) == []
    assert resize.retry_at == now + 5.0
    assert resize.retarget(allocation(1500), V3, now) == []
    assert resize.retry_at == now + 0.75
    assert resize.poll(now + 0.75) == [SetQuota(1500, 0)]
    assert resize.quota_failed(now + 0.75, put_off=True) == []
    resize.restore(now + 1.0)
    assert resize.retry_at == now + 1.75


def test_growth_that_is_accepted_and_not_in_force_is_not_told_to_the_worker():
    resize = attached()
    assert resize.retarget(BIG, V1, 0.0) == [SetQuota(2000, 0)]
    now = 0.0
    for _ in range(5):  # as often as it takes, and never more rarely
        assert resize.quota_pending(now) == []
        assert (resize.in_force, resize.unacknowledged, resize.pending) == (Quota(1000), (), True)
        assert resize.retry_at == now + PENDING_S
        now += PENDING_S
        assert resize.poll(now) == [SetQuota(2000, 0)]
    assert resize.quota_written(2000, 0, now) == [SendDirective(V1, BIG)]


def test_a_failed_shrink_may_have_been_performed():
    resize = attached()
    resize.retarget(SMALL, V1, 0.0)
    assert resize.acknowledged(V1, 0.1) == [SetQuota(500, 0)]
    assert resize.quota_failed(0.2) == []
    assert resize.retarget(DEFAULT, V2, 0.3) == []  # not sent before it is certain that 1000 is in force
    assert resize.poll(0.7) == [SetQuota(1000, 0)]
    assert resize.quota_written(1000, 0, 0.8) == [SendDirective(V2, DEFAULT)]


@pytest.mark.parametrize("found", [Quota(500), Quota(4000), Quota(None), Quota(2000, 100)])
def test_what_somebody_else_has_changed_is_put_right(found):
    resize = attached()
    resize.retarget(BIG, V1, 0.0)
    resize.quota_written(2000, 0, 0.1)
    resize.acknowledged(V1, 0.2)
    assert resize.contradicts(found)
    assert resize.quota_seen(found, 1.0) == [SetQuota(2000, 0)]
    assert not resize.contradicts(found)  # it is known now
    assert resize.quota_written(2000, 0, 1.1) == []
    assert not resize.contradicts(Quota(2000))
    assert not resize.pending


def test_it_is_put_right_to_what_may_still_run_under_it():
    resize = attached(Quota(2000), applied=V1)
    resize.retarget(SMALL, V2, 1.0)
    assert resize.quota_seen(Quota(600), 1.1) == [SetQuota(2000, 0)]
    assert resize.acknowledged(V2, 1.2) == []
    assert resize.quota_written(2000, 0, 1.3) == [SetQuota(500, 0)]


def test_what_an_owner_rounds_is_nobody_elses_change():
    resize = attached(Quota(1234, 1_000_000))
    for read in (Quota(1235, 1_000_000), Quota(1234, 1_004_096), Quota(1234, 999_424)):
        assert not resize.contradicts(read)
        assert resize.quota_seen(read, 1.0) == []
        assert resize.in_force == Quota(1234, 1_000_000)
    for read in (Quota(1250, 1_000_000), Quota(1234, 0), Quota(None, 1_000_000)):
        assert resize.contradicts(read)


def test_nothing_follows_from_what_is_read_while_a_write_is_out():
    resize = attached()
    assert resize.retarget(BIG, V1, 0.0) == [SetQuota(2000, 0)]
    assert not resize.contradicts(Quota(500))
    assert resize.quota_seen(Quota(500), 0.1) == []
    assert resize.in_force == Quota(1000)
    assert resize.quota_written(2000, 0, 0.2) == [SendDirective(V1, BIG)]


def test_an_owner_that_can_be_read_may_still_refuse_and_is_not_asked_sooner():
    resize = attached()
    resize.retarget(BIG, V1, 0.0)
    resize.quota_failed(1.0)
    assert not resize.contradicts(Quota(1000))
    assert resize.quota_seen(Quota(1000), 1.1) == []
    assert resize.poll(1.5) == [SetQuota(2000, 0)]


def test_a_write_that_failed_and_was_performed_all_the_same_is_not_repeated():
    resize = attached()
    resize.retarget(BIG, V1, 0.0)
    resize.quota_failed(1.0)
    assert resize.quota_seen(Quota(2000), 1.1) == [SendDirective(V1, BIG)]


def test_a_quota_that_was_not_known_is_put_right_when_it_is():
    resize = attached(None)
    assert resize.quota_seen(Quota(500), 1.0) == [SetQuota(1000, 0)]
    assert resize.quota_written(1000, 0, 1.1) == []
    assert not resize.pending


def test_a_starting_worker_gets_its_startup_allocation_until_warm():
    resize = Resize(STARTUP_MILLICORES)
    assert resize.attached(None, DEFAULT, Quota(500), 0.0, starting=True) == [SetQuota(1000, 0)]
    assert resize.retarget(SMALL, V1, 0.01) == [SendDirective(V1, SMALL)]
    assert resize.quota_written(1000, 0, 0.02) == []
    assert resize.acknowledged(V1, 0.5) == []
    assert resize.warm(0.8) == [SetQuota(500, 0)]


def test_what_was_lost_with_the_stream_is_sent_again():
    resize = attached()
    resize.retarget(BIG, V1, 1.0)
    resize.quota_written(2000, 0, 1.1)
    resize.acknowledged(V1, 1.2)
    assert resize.retarget(SMALL, V2, 2.0) == [SendDirective(V2, SMALL)]
    assert resize.attached(V1, BIG, Quota(2000), 3.0) == [SendDirective(V2, SMALL)]
    assert resize.acknowledged(V2, 3.1) == [SetQuota(500, 0)]


def test_a_worker_that_died_is_forgotten_and_gets_the_target_anew():
    resize = attached()
    resize.retarget(SMALL, V1, 1.0)
    resize.acknowledged(V1, 1.1)
    resize.quota_written(500, 0, 1.2)
    resize.retarget(BIG, V2, 2.0)
    resize.quota_written(2000, 0, 2.1)
    assert resize.attached(None, DEFAULT, Quota(2000), 5.0, starting=True) == [SendDirective(V2, BIG)]


def test_a_new_leader_lowers_nothing_before_the_worker_speaks():
    resize = attached(Quota(2000), applied=V2)
    assert resize.largest_unacknowledged == Quota(2000)
    assert resize.acknowledged(V1, 0.5) == []
    assert resize.acknowledged(V2, 1.0) == [SetQuota(1000, 0)]
    assert next_term(Version(4, 1)) == 5
    assert next_term(NONE) == 1


def test_a_shrink_begun_by_the_leader_before_is_finished_without_a_target():
    resize = attached(Quota(2000), applied=V2)
    assert resize.acknowledged(V2, 1.0) == [SetQuota(1000, 0)]
    assert resize.quota_failed(1.1) == []
    assert resize.poll(1.6) == [SetQuota(1000, 0)]


def test_a_leader_that_was_overtaken_gives_up_its_target():
    resize = attached()
    resize.retarget(SMALL, V1, 1.0)
    resize.attached(Version(2, 1), DEFAULT, Quota(1000), 2.0)
    assert resize.target is None
    with pytest.raises(ValueError, match="version: expected one newer than"):
        resize.retarget(BIG, V2, 3.0)


def test_goodbye_restores_what_was_found():
    resize = attached(Quota(None))
    assert resize.restore(0.5) == []  # nothing was changed
    resize.retarget(SMALL, V1, 1.0)
    resize.acknowledged(V1, 1.1)
    resize.quota_written(500, 0, 1.2)
    assert resize.restore(2.0) == [SetQuota(None, 0)]
    assert resize.quota_written(None, 0, 2.1) == [SendDirective(V2, DEFAULT)]
    assert resize.acknowledged(V2, 2.2) == []
    assert not resize.pending


def test_an_unknown_quota_is_written_before_any_directive():
    resize = attached(None)
    assert resize.in_force is None
    assert resize.retarget(SMALL, V1, 1.0) == [SetQuota(1000, 0)]
    assert resize.quota_written(1000, 0, 1.1) == [SendDirective(V1, SMALL)]


allocations = st.builds(
    Allocation,
    cpu_millicores=st.integers(1, 4).map(lambda cores: 500 * cores),
    instances=st.integers(1, 2),
    threads=st.just(1),
    max_batch=st.just(1),
    memory_bytes=st.sampled_from([0, 100, 200]),
)
quotas = st.builds(Quota, st.sampled_from([None, 250, 500, 1500]), st.sampled_from([0, 100]))


class ResizeMachine(RuleBasedStateMachine):
    """One worker, its quota, the network between, and one leader after another."""

    @initialize(found=quotas)
    def begin(self, found: Quota) -> None:
        self.now = 0.0
        self.term = self.epoch = 0
        self.kernel = found
        self.writing: SetQuota | None = None
        self.accepted: Quota | None = None  # by an owner that takes its time
        self.elect()

    # The worker

    def boot(self) -> None:
        self.applied, self.allocation, self.starting = NONE, DEFAULT, True
        self.received: SendDirective | None = None  # and not yet in force
        self.executions: list[tuple[Version, Quota]] = []
        # Without a directive, what it runs needs what was there for sure when it came.
        out = () if self.writing is None else (Quota(self.writing.cpu_millicores, self.writing.memory_bytes),)
        accepted = () if self.accepted is None else (self.accepted,)
        self.needs = smallest((self.kernel, *out, *accepted))

    def report(self) -> Version:
        return min((version for version, _ in self.executions), default=self.applied)

    @rule()
    def start_execution(self) -> None:
        self.executions.append((self.applied, self.needs))

    @precondition(lambda self: self.executions)
    @rule(data=st.data())
    def end_execution(self, data: st.DataObject) -> None:
        self.executions.pop(data.draw(st.integers(0, len(self.executions) - 1)))

    @precondition(lambda self: self.received)
    @rule(fails=st.booleans())
    def obey(self, fails: bool) -> None:
        directive, self.received = self.received, None
        if not fails and directive.version > self.applied:
            self.applied, self.allocation = directive.version, directive.allocation
            self.needs = directive.allocation.quota

    @rule()
    def warm(self) -> None:
        self.starting = False
        self.perform(self.leader.warm(self.now))

    # The network

    @precondition(lambda self: self.directives)
    @rule()
    def deliver_directive(self) -> None:
        self.received = self.directives.pop(0)

    @rule()
    def send_acknowledgement(self) -> None:
        self.acknowledgements.append(self.report())

    @precondition(lambda self: self.acknowledgements)
    @rule(lost=st.booleans())
    def deliver_acknowledgement(self, lost: bool) -> None:
        version = self.acknowledgements.pop(0)
        if not lost:
            self.perform(self.leader.acknowledged(version, self.now))

    @rule()
    def exchange(self) -> None:
        """All goes as it should, which lets the search get further than single steps do."""
        while self.directives:
            self.deliver_directive()
        if self.received is not None:
            self.obey(fails=False)
        self.executions.clear()
        self.acknowledgements = [self.report()]
        self.deliver_acknowledgement(lost=False)

    # The leader and the owner of the quota

    def perform(self, actions: list) -> None:
        for action in actions:
            if isinstance(action, SendDirective):
                assert self.kernel.covers(action.allocation.quota)
                self.directives.append(action)
            else:
                assert self.writing is None
                self.writing = action

    def attach(self) -> None:
        self.directives: list[SendDirective] = []
        self.received = None  # what came by the old stream is not obeyed any more
        self.acknowledgements: list[Version] = []
        applied = None if self.applied == NONE else self.applied
        # What is under way is read where it is less. More, which nobody has asked for since, harms no deadline.
        seen = self.kernel if self.accepted is None else smallest((self.kernel, self.accepted))
        self.accepted = None if seen == self.kernel else seen
        hello = applied, self.allocation, seen, self.now
        self.perform(self.leader.attached(*hello, starting=self.starting))

    @rule()
    def look(self) -> None:
        """Read the quota, as at an attachment."""
        seen = self.kernel if self.accepted is None else smallest((self.kernel, self.accepted))
        if self.writing is None:
            self.accepted = None if seen == self.kernel else seen
        self.perform(self.leader.quota_seen(seen, self.now))

    @precondition(lambda self: self.writing is None and self.accepted is None)
    @rule(quota=quotas)
    def meddle(self, quota: Quota) -> None:
        """Somebody else raises the quota; what is lowered does harm before anybody can know."""
        self.kernel = largest((self.kernel, quota))

    def elect(self) -> None:
        self.leader = Resize(STARTUP_MILLICORES)
        if self.term == 0:
            self.boot()
        self.term, self.epoch = next_term(self.applied), 0
        self.attach()

    def perform_write(self) -> None:
        self.kernel = Quota(self.writing.cpu_millicores, self.writing.memory_bytes)
        self.accepted = None

    @rule(wanted=allocations)
    def retarget(self, wanted: Allocation) -> None:
        self.epoch = max(self.epoch, self.leader.version.epoch) + 1
        self.perform(self.leader.retarget(wanted, Version(self.term, self.epoch), self.now))

    @rule()
    def restore(self) -> None:
        self.perform(self.leader.restore(self.now))

    @precondition(lambda self: self.writing)
    @rule()
    def write_succeeds(self) -> None:
        self.perform_write()
        written, self.writing = self.writing, None
        self.perform(self.leader.quota_written(written.cpu_millicores, written.memory_bytes, self.now))

    @precondition(lambda self: self.writing)
    @rule(performed=st.booleans(), put_off=st.booleans())
    def write_fails(self, performed: bool, put_off: bool) -> None:
        if performed:  # and only the answer was lost
            self.perform_write()
        self.writing = None
        self.perform(self.leader.quota_failed(self.now, put_off=put_off))

    @precondition(lambda self: self.writing)
    @rule()
    def write_is_accepted(self) -> None:
        self.accepted = Quota(self.writing.cpu_millicores, self.writing.memory_bytes)
        self.writing = None
        self.perform(self.leader.quota_pending(self.now))

    @precondition(lambda self: self.accepted)
    @rule()
    def owner_acts(self) -> None:
        self.kernel, self.accepted = self.accepted, None

    @rule(seconds=st.sampled_from([0.01, 1.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.leader.poll(self.now))

    # What goes wrong

    @rule()
    def reconnect(self) -> None:
        self.attach()

    @rule()
    def restart_worker(self) -> None:
        self.boot()
        self.attach()

    @rule(performed=st.booleans())
    def new_leader(self, performed: bool) -> None:
        if self.writing is not None and performed:
            self.perform_write()
        self.writing = None
        self.elect()

    # What must hold

    @invariant()
    def nothing_runs_under_less_than_it_was_started_with(self) -> None:
        assert all(self.kernel.covers(needs) for _, needs in self.executions)
        assert self.kernel.covers(self.needs)

    @invariant()
    def the_quota_covers_the_largest_unacknowledged(self) -> None:
        assert self.kernel.covers(self.leader.largest_unacknowledged)
        assert self.kernel.covers(self.leader.in_force)

    def teardown(self) -> None:
        """When writes succeed and messages arrive, the target is reached, whatever happened before."""
        if not hasattr(self, "leader"):
            return
        self.settle()
        if self.starting:
            assert self.kernel.covers(Quota(STARTUP_MILLICORES, self.kernel.memory_bytes))
            self.warm()
            self.settle()
        if self.leader.target is not None:
            assert self.allocation == self.leader.target
        for wanted in (allocation(1500, memory_bytes=200), allocation(500, memory_bytes=100)):
            self.retarget(wanted)
            self.settle()
            assert self.allocation == self.leader.target == wanted
            assert self.leader.largest_unacknowledged == self.kernel == wanted.quota

    def settle(self) -> None:
        for _ in range(4):
            self.wait(10.0)
            if self.writing is not None:
                self.write_succeeds()
            elif self.accepted is not None:
                self.owner_acts()
            self.exchange()
            self.look()
        assert not self.leader.pending, self.leader
        assert not self.leader.overdue
        assert self.kernel == self.leader.in_force


TestResize = ResizeMachine.TestCase
TestResize.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
