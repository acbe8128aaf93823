"""What others change, and what hosts have to do with each other: the loop with a fake owner of quotas."""

import asyncio

import pytest
from structlog.testing import capture_logs

from controlplane import planner
from controlplane.actuators.fake import FakeActuator
from controlplane.allocation import Quota
from controlplane.reconciliation import STEADY_S
from controlplane.state import Host
from controlplane.status import explained, fleet
from tests.controlplane.test_loop import FakeWorker, Plane, settle


@pytest.fixture
def plane() -> Plane:
    return Plane(FakeActuator({"w": Quota(1100)}))


async def calm(plane: Plane, **hello: str) -> FakeWorker:
    """A worker that has come to what little it needs."""
    worker = await FakeWorker.attach(plane, **hello)
    for _ in range(12):
        await worker.second(2)
    assert not worker.session.worker.resize.pending
    return worker


async def look(plane: Plane, worker: FakeWorker) -> None:
    await plane.loop.reconciliation.look(worker.session)
    await settle()


@pytest.mark.parametrize("found", [Quota(200), Quota(3000), Quota(None)])
async def test_a_quota_changed_by_hand_is_noticed_once_and_put_right(plane, found):
    worker = await calm(plane)
    right = plane.actuator.quotas["w"]
    plane.actuator.quotas["w"] = found
    with capture_logs() as logs:
        for _ in range(3):
            await look(plane, worker)
    assert plane.actuator.quotas["w"] == right
    [told] = [line for line in logs if line["event"] == "quota changed by somebody else"]
    assert (told["expected"], told["found"]) == (str(right), str(found))
    assert plane.metric("sponge_control_quotas_changed_total", service="vision") == 1


async def test_what_is_read_as_it_should_be_changes_nothing(plane):
    worker = await calm(plane)
    writes = list(plane.actuator.writes)
    with capture_logs() as logs:
        await look(plane, worker)
    assert (plane.actuator.writes, logs) == (writes, [])
    assert plane.metric("sponge_control_quotas_changed_total", service="vision") is None


async def test_a_look_waits_for_a_write_and_sees_what_it_has_made(plane):
    worker = await calm(plane)
    plane.actuator.hold()
    for _ in range(3):
        await worker.second(25)
    looking = asyncio.create_task(plane.loop.reconciliation.look(worker.session))
    await settle()
    assert not looking.done()
    plane.actuator.release()
    await looking
    assert plane.metric("sponge_control_quotas_changed_total", service="vision") is None
    assert plane.actuator.quotas["w"].cpu_millicores > 1100


async def test_while_paused_what_others_change_stays(plane):
    worker = await calm(plane)
    plane.fleet.paused = True
    plane.actuator.quotas["w"] = Quota(200)
    await look(plane, worker)
    assert plane.actuator.quotas["w"] == Quota(200)
    plane.fleet.paused = False
    await look(plane, worker)
    assert plane.actuator.quotas["w"].cpu_millicores >= 500


async def test_a_host_that_does_not_answer_is_told_once_and_its_workers_are_planned_on(plane):
    one = await calm(plane)
    plane.actuator.quotas["v"] = Quota(1100)
    other = await calm(plane, worker_id="v")
    plane.actuator.unreachable = "engine unreachable"
    with capture_logs() as logs:
        for _ in range(3):
            await look(plane, one)
            await look(plane, other)
            await one.second(25)
            await other.second(25)
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["host unreachable"]
    assert plane.metric("sponge_control_host_unreachable", host="") == 1
    assert one.session.worker.resize.target.cpu_millicores > 1100  # and is in force as soon as it can be
    plane.actuator.unreachable = ""
    await look(plane, one)
    assert plane.metric("sponge_control_host_unreachable", host="") == 0
    await one.second(25)
    assert plane.actuator.quotas["w"].cpu_millicores > 1100


async def test_a_host_that_answers_now_and_then_has_one_outage_and_the_next_is_another(plane):
    worker = await calm(plane)

    async def looked(*outcomes: str) -> list[str]:
        with capture_logs() as logs:
            for outcome in outcomes:
                plane.actuator.unreachable = outcome
                await look(plane, worker)
                plane.now += STEADY_S / 2
        return [line["event"] for line in logs]

    assert await looked("gone", "", "gone", "") == ["host unreachable"]
    assert await looked("") == ["host reachable again"]
    assert await looked("") == []
    assert await looked("gone") == ["host unreachable"]


async def test_a_write_that_its_host_does_not_answer_is_told_as_the_hosts_trouble(plane):
    worker = await calm(plane)
    plane.actuator.unreachable = "engine unreachable"
    with capture_logs() as logs:
        for _ in range(5):
            await worker.second(25)
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["host unreachable"]
    assert worker.session.worker.failure == "engine unreachable"
    plane.actuator.unreachable = ""
    plane.actuator.mute = True  # reads are answered, writes are not
    with capture_logs() as logs:
        for _ in range(5):
            await worker.second(25)
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["quota not written"]
    assert plane.metric("sponge_control_host_unreachable", host="") == 0


async def test_what_cannot_be_read_of_one_worker_is_its_own_matter(plane):
    worker = await calm(plane)
    plane.actuator.failure = "container 0123456789ab is gone"
    with capture_logs() as logs:
        await look(plane, worker)
        plane.actuator.failure = "container ba9876543210 is gone"
        await look(plane, worker)
    assert [(line["event"], line["worker"]) for line in logs] == [("quota not read", "w")]
    assert worker.session.worker.failure == ""
    assert plane.metric("sponge_control_host_unreachable", host="") == 0


async def test_a_mistake_ends_neither_looks_nor_writes(plane):
    worker = await calm(plane)
    plane.actuator.mistake = KeyError("HostConfig")
    running = asyncio.create_task(plane.loop.reconciliation.run())
    with capture_logs() as logs:
        await settle()  # the watch has failed
        plane.loop.reconciliation.changed("")
        await settle()
        for _ in range(3):
            await worker.second(25)
    assert {line["event"] for line in logs if line["log_level"] == "error"} == {
        "changes not followed",
        "look failed",
        "write failed",
    }
    assert worker.session.worker.failure == "'HostConfig'"
    assert not running.done()
    plane.actuator.mistake = None
    for _ in range(6):
        await worker.second(25)
    assert plane.actuator.quotas["w"].cpu_millicores > 1100
    running.cancel()


@pytest.mark.parametrize("told", ["c" * 64, ""])
async def test_who_watches_is_heard_at_once(plane, told):
    worker = await calm(plane, container_id="c" * 12)
    right, quotas = plane.actuator.quotas["w"], plane.actuator.quotas
    running = asyncio.create_task(plane.loop.reconciliation.run())
    await settle()
    quotas["w"] = Quota(200)
    plane.actuator.changed("d" * 64)  # another's
    await settle()
    assert quotas["w"] == Quota(200)
    running.cancel()
    running = asyncio.create_task(plane.loop.reconciliation.run())
    await settle()
    plane.actuator.changed(told)
    await settle()
    assert quotas["w"] == right
    assert not worker.session.worker.resize.pending
    running.cancel()


async def test_without_an_owner_of_quotas_nobody_looks():
    plane = Plane(FakeActuator(holds_quota=False))
    await plane.loop.reconciliation.run()


# Hosts


async def seconds(plane: Plane, workers: list[FakeWorker], rate: int, count: int) -> None:
    """So many seconds that pass for all of them at once."""
    for _ in range(count):
        for worker in workers:
            await worker.second(rate)
            plane.now -= 1.0
        plane.now += 1.0


async def test_workers_of_one_host_share_it_and_get_nothing_of_another():
    actuator = FakeActuator({name: Quota(1100) for name in "abc"})
    actuator.hosts = {"a": "small", "b": "small", "c": "large"}
    plane = Plane(actuator, hosts=[Host(2000, 0, "small"), Host(8000, 0, "large")])
    workers = [await FakeWorker.attach(plane, worker_id=name) for name in "abc"]
    await seconds(plane, workers, 20, 20)
    held = {name: actuator.quotas[name].cpu_millicores for name in "abc"}
    assert held["a"] + held["b"] <= 2000
    assert held["c"] > 2000
    assert plane.metric("sponge_control_host_cores", host="large") == 8.0
    assert plane.metric("sponge_control_host_full", host="small") == 1
    assert plane.metric("sponge_control_host_full", host="large") == 0
    told = fleet(plane.fleet, "fake", 3.0, plane.now)
    assert told.host_millicores == 10_000
    assert {host.name: host.millicores for host in told.hosts} == {"small": 2000, "large": 8000}
    assert [host.planned_millicores for host in told.hosts] == [held["a"] + held["b"], held["c"]]
    assert [worker.host for worker in told.workers] == ["small", "small", "large"]


async def test_a_plan_that_fails_on_one_host_is_made_on_the_other():
    def decide(services, millicores, *rest):
        if millicores == 2000:
            raise ValueError("no plan")
        return planner.plan(services, millicores, *rest)

    actuator = FakeActuator({"a": Quota(1100), "b": Quota(1100)})
    actuator.hosts = {"a": "small", "b": "large"}
    plane = Plane(actuator, hosts=[Host(2000, 0, "small"), Host(8000, 0, "large")], decide=decide)
    workers = [await FakeWorker.attach(plane, worker_id=name) for name in "ab"]
    await seconds(plane, workers, 2, 8)
    assert actuator.quotas["a"] == Quota(1100)
    assert actuator.quotas["b"].cpu_millicores < 1100
    assert plane.metric("sponge_control_plan_failures_total") == 16


async def test_a_worker_whose_host_is_not_known_keeps_what_it_has_until_it_is():
    actuator = FakeActuator({"w": Quota(1100)})
    actuator.hosts = {"w": "large"}
    actuator.unreachable = "engine unreachable"
    plane = Plane(actuator, hosts=[Host(2000, 0, "small"), Host(8000, 0, "large")])
    worker = await FakeWorker.attach(plane)
    for _ in range(8):
        await worker.second(25)
    assert worker.allocation.cpu_millicores == 1100
    why = explained(
        worker.session.worker, plane.loop.round_of(worker.session.worker), None, False, 3.0, plane.now
    )
    assert (why.state, why.standing.host) == ("homeless", "")
    actuator.unreachable = ""
    await look(plane, worker)
    for _ in range(3):
        await worker.second(25)
    assert actuator.quotas["w"].cpu_millicores > 1100
    assert worker.session.worker.host.name == "large"
