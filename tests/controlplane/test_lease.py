"""Leadership by a Lease: in virtual time with one in memory, and one at an API server of our own."""

import asyncio
from contextlib import closing

import pytest

from controlplane import config as settings
from controlplane.actuators.fake import FakeLease
from controlplane.election import Claim
from controlplane.lease import LeaseConflictError, LeaseError, LeaseLeadership
from tests.kube_api import NAMESPACE, KubeApi

GET, PATCH = ("get", "leases.coordination.k8s.io", ""), ("patch", "leases.coordination.k8s.io", "")
STAMP = "2026-01-02T03:04:05.678901Z"


class Time:
    """Passes when somebody sleeps; `events` happen at their second."""

    def __init__(self) -> None:
        self.now = 100.0
        self.events = {}

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds
        for at in [at for at in self.events if at <= self.now]:
            self.events.pop(at)()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def lease() -> FakeLease:
    return FakeLease()


def candidate(lease: FakeLease, time: Time, name: str = "me") -> LeaseLeadership:
    return LeaseLeadership(lease, name, 4, lambda: str(time.now), time, time.sleep)


async def test_who_is_alone_leads_at_once_and_renews_every_second(lease, time):
    mine = candidate(lease, time)
    assert not mine.held
    await mine.gain()
    assert (mine.held, time.now, lease.claim) == (True, 100.0, Claim("me", "100.0", 4, 1))
    time.events[110.5] = lambda: setattr(lease, "failure", "gone")
    await mine.keep()
    assert lease.claim == Claim("me", "110.0", 4, 1)
    assert (mine.held, time.now) == (False, 113.0)  # three seconds after the last that succeeded


async def test_one_that_is_killed_is_succeeded_within_five_seconds(lease, time, capsys):
    first, second = candidate(lease, time, "first"), candidate(lease, time, "second")
    await first.gain()
    await second.gain()  # the first never renews: it was killed right after it had begun to lead
    assert time.now <= 105.0
    assert (second.held, first.held) == (True, False)
    assert lease.claim.holder == "second"
    assert lease.claim.transitions == 2
    assert capsys.readouterr().out.count("standing by") == 1


async def test_one_that_is_told_to_stop_is_succeeded_at_once(lease, time):
    first, second = candidate(lease, time, "first"), candidate(lease, time, "second")
    await first.gain()
    keeping = asyncio.create_task(first.keep())
    gaining = asyncio.create_task(second.gain())
    await asyncio.sleep(0)
    keeping.cancel()
    await first.release()
    assert (first.held, lease.claim.holder) == (False, "")
    released_at = time.now
    await gaining
    assert second.held
    assert time.now - released_at <= 0.25


async def test_a_failure_now_and_then_costs_nothing(lease, time, capsys):
    mine = candidate(lease, time)
    await mine.gain()
    for at in (101.1, 105.1):
        time.events[at] = lambda: setattr(lease, "failure", "busy")
        time.events[at + 1.5] = lambda: setattr(lease, "failure", "")
    time.events[120.0] = lambda: setattr(lease, "failure", "gone")
    await mine.keep()
    assert time.now >= 122.0
    told = capsys.readouterr().out
    assert (told.count("error=busy"), told.count("error=gone")) == (2, 1)


async def test_a_write_whose_answer_is_lost_is_its_own(lease, time):
    mine = candidate(lease, time)
    lease.lost = 1
    await mine.gain()
    assert time.now == 100.25
    lease.lost = 1
    time.events[106.0] = lambda: setattr(lease, "failure", "gone")
    await mine.keep()
    assert time.now >= 108.0
    assert lease.claim.holder == "me"


async def test_an_answer_that_comes_when_it_is_over_is_none(time):
    class Slow(FakeLease):
        """Takes four seconds for its first write."""

        async def write(self, claim: Claim, version: str) -> str:
            written = await super().write(claim, version)
            time.now += 4.0 if self.version == 2 else 0.0
            return written

    mine = candidate(Slow(), time)
    await mine.gain()
    assert (mine.held, time.now) == (True, 104.25)


async def test_what_another_has_taken_is_lost_at_once(lease, time):
    mine = candidate(lease, time)
    await mine.gain()
    await candidate(lease, time, "other").gain()  # while this one was stopped
    lease_of_other, at = lease.claim, time.now
    assert not mine.held
    await mine.keep()
    assert (lease.claim, time.now) == (lease_of_other, at)
    await mine.release()
    assert lease.claim == lease_of_other


async def test_who_meddles_with_the_lease_is_noticed(lease, time):
    mine = candidate(lease, time)
    await mine.gain()

    def meddle() -> None:
        lease.claim, lease.version = Claim("kubectl", "x", 4, 2), lease.version + 1

    time.events[100.5] = meddle
    await mine.keep()
    assert (mine.held, time.now) == (False, 101.0)
    assert lease.claim.holder == "kubectl"


async def test_changes_beside_the_claim_are_no_loss(lease, time):
    mine = candidate(lease, time)
    await mine.gain()
    time.events[100.5] = lambda: setattr(lease, "version", lease.version + 1)  # as of a label
    time.events[105.0] = lambda: setattr(lease, "failure", "gone")
    await mine.keep()
    assert time.now >= 107.0


@pytest.fixture
def kube():
    api = KubeApi({GET, PATCH})
    api.start()
    api.add_lease("sponge-control")
    yield api
    api.open.set()
    api.stop()


@pytest.fixture
def connect(kube, tmp_path):
    """Reach the Lease by a kubeconfig file."""
    pytest.importorskip("kubernetes", reason="needs the extra `kubernetes`")
    from controlplane.actuators import make_lease

    server = settings.Kubernetes(namespace=NAMESPACE, kubeconfig=str(kube.kubeconfig(tmp_path / "config")))
    return lambda name="sponge-control", lease_s=4: make_lease(
        settings.Leader(lease=name, lease_s=lease_s), server
    )


async def test_a_lease_is_read_written_and_released(kube, connect):
    with closing(connect()) as lease:
        claim, version = await lease.read()
        assert claim == Claim()
        mine = Claim("me", STAMP, 4, 1)
        version = await lease.write(mine, version)
        spec = {"holderIdentity": "me", "leaseDurationSeconds": 4, "leaseTransitions": 1, "renewTime": STAMP}
        assert kube.leases["sponge-control"]["spec"] == spec
        read, again = await lease.read()
        assert (read.holder, read.duration_s, read.transitions, again) == ("me", 4, 1, version)
        await lease.release(version)
        assert "holderIdentity" not in kube.leases["sponge-control"]["spec"]
        assert (await lease.read())[0].holder == ""


async def test_of_two_writers_of_one_version_the_second_is_refused(kube, connect):
    with closing(connect()) as lease:
        _, version = await lease.read()
        await lease.write(Claim("first", STAMP, 4, 1), version)
        with pytest.raises(LeaseConflictError, match="the object has been modified"):
            await lease.write(Claim("second", STAMP, 4, 1), version)
        assert kube.leases["sponge-control"]["spec"]["holderIdentity"] == "first"


async def test_what_is_written_as_the_time_is_what_api_servers_take(connect):
    from controlplane.__main__ import _stamp

    with closing(connect()) as lease:
        _, version = await lease.read()
        await lease.write(Claim("me", _stamp(), 4, 1), version)
        with pytest.raises(LeaseError, match="Kubernetes refused: parsing time"):
            await lease.write(Claim("me", "2026-01-02T03:04:05Z", 4, 1), (await lease.read())[1])


@pytest.mark.parametrize("missing", [GET, PATCH])
async def test_a_verb_that_the_role_lacks_is_named(kube, connect, missing):
    kube.allowed.remove(missing)
    with closing(connect()) as lease, pytest.raises(LeaseError) as error:
        await lease.write(Claim("me", STAMP, 4, 1), (await lease.read())[1])
    assert str(error.value).startswith(f"the control plane's Role lacks the verb {missing[0]} on leases: ")


async def test_a_lease_that_is_not_there_is_not_made(kube, connect):
    with closing(connect("another")) as lease, pytest.raises(LeaseError) as error:
        await lease.read()
    assert str(error.value).startswith("leader.lease: expected a Lease another, as the manifests have: ")
    assert list(kube.leases) == ["sponge-control"]


@pytest.mark.parametrize("body", [b"<html>\nno\n</html>", b"{}", b"[]", b"null", b'{"spec": 3}'])
async def test_what_is_no_lease_is_an_error(kube, connect, body):
    kube.answer = 200, body
    with closing(connect()) as lease, pytest.raises(LeaseError) as error:
        await lease.read()
    assert str(error.value) == "the API server answered with something else than a Lease"


async def test_an_api_server_that_does_not_answer_keeps_nobody_waiting(kube, connect):
    kube.open.clear()
    leadership = LeaseLeadership(connect(lease_s=2), "me", 2, lambda: STAMP)
    with closing(leadership):
        gaining = asyncio.create_task(leadership.gain())
        await asyncio.sleep(0)
        assert not gaining.done()
        kube.open.set()
        await gaining
        kube.open.clear()
        await leadership.keep()  # returns, although no call does
        assert not leadership.held
        kube.open.set()
