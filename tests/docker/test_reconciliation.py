"""What others do to containers on a real engine: noticed by its events, and put right."""

import asyncio
import os

import pytest
from docker.models.containers import Container
from structlog.testing import capture_logs

from controlplane import config as settings
from controlplane.actuators import Actuator, Quota, make
from controlplane.state import Host
from protos import control_pb2 as pb
from tests.controlplane.test_loop import FakeWorker, Plane
from tests.processes import LOOPBACK, PATIENCE_S, eventually, free_port

LIMITS = {"cpu_period": 20_000, "cpu_quota": 22_000}


@pytest.fixture
async def actuator(project: str):
    actuator = make(settings.Actuator(compose_project=project))
    yield actuator
    await actuator.close()


def millicores(container: Container) -> int:
    container.reload()
    limits = container.attrs["HostConfig"]
    return limits["CpuQuota"] * 1000 // limits["CpuPeriod"]


async def settled(worker: FakeWorker, container: Container) -> int:
    """The quota of a worker that needs little, once that is in force."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await worker.second(2)
            await asyncio.sleep(0.05)
            target = worker.session.worker.resize.target
            if target and not worker.session.worker.resize.pending and target.cpu_millicores < 1100:
                assert millicores(container) == target.cpu_millicores
                return target.cpu_millicores


def memory(container: Container) -> int:
    container.reload()
    return container.attrs["HostConfig"]["Memory"]


def told(logs: list, event: str) -> list:
    return [line for line in logs if line["event"] == event]


@pytest.mark.parametrize("by_hand", [{"cpu_quota": 4_000}, {"cpu_quota": 60_000}, {"cpu_quota": -1}])
async def test_a_quota_changed_by_hand_is_noticed_and_put_right(run, actuator: Actuator, by_hand):
    container = run(**LIMITS)
    # Only the engine's word can make it look.
    plane = Plane(actuator, config=settings.Config(actuator=settings.Actuator(reconcile_interval_s=3600.0)))
    worker = await FakeWorker.attach(plane, container_id=container.id[:12])
    with capture_logs() as logs:
        looking = asyncio.create_task(plane.loop.reconciliation.run())
        right = await settled(worker, container)
        assert not told(logs, "quota changed by somebody else")  # its own are none
        await asyncio.to_thread(container.update, **by_hand)
        await asyncio.to_thread(eventually, lambda: millicores(container), lambda now: now == right)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    assert len(told(logs, "quota changed by somebody else")) == 1
    assert not told(logs, "events not followed")
    assert plane.metric("sponge_control_quotas_changed_total", service="vision") == 1


@pytest.mark.parametrize("mib", [192, 1024])
async def test_a_memory_limit_changed_by_hand_is_noticed_and_put_right(run, project, mib):
    container = run(**LIMITS, mem_limit=512 << 20, memswap_limit=512 << 20)
    config = settings.Actuator(compose_project=project, resize_memory=True, reconcile_interval_s=3600.0)
    actuator = make(config)
    plane = Plane(actuator, config=settings.Config(actuator=config))
    worker = await FakeWorker.attach(plane, container_id=container.id[:12])
    worker.usage = pb.Usage(memory_bytes=200 << 20)
    with capture_logs() as logs:
        looking = asyncio.create_task(plane.loop.reconciliation.run())
        await settled(worker, container)
        await actuator.settle()
        right = memory(container)
        assert 192 << 20 < right < 512 << 20
        assert not told(logs, "quota changed by somebody else")
        by_hand = {"mem_limit": mib << 20, "memswap_limit": mib << 20}
        await asyncio.to_thread(container.update, **by_hand)
        await asyncio.to_thread(eventually, lambda: memory(container), lambda now: now == right)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    await actuator.close()
    assert len(told(logs, "quota changed by somebody else")) == 1


async def test_what_claims_ever_more_memory_raises_its_limit_to_its_ceiling_and_no_further(run, project):
    container = run(**LIMITS, mem_limit=256 << 20, memswap_limit=256 << 20)
    resizing = settings.Actuator(compose_project=project, resize_memory=True)
    services = {"vision": settings.ServicePolicy(max_memory_mib=500)}
    actuator = make(resizing)
    plane = Plane(actuator, settings.Config(actuator=resizing, services=services))
    worker = await FakeWorker.attach(plane, container_id=container.id[:12])
    worker.usage = pb.Usage(memory_bytes=1 << 40)  # of which as much is believed as its limit allows
    limits = []
    async with asyncio.timeout(PATIENCE_S):
        while len(limits) < 10 or worker.session.worker.resize.pending:
            await worker.second(2)
            await asyncio.sleep(0.05)
            limits.append(memory(container))
    await actuator.close()
    assert limits == sorted(limits)
    assert limits[-1] == 448 << 20  # seven steps


async def test_a_container_recreated_with_other_limits_is_adopted_and_resized(run, actuator: Actuator):
    plane = Plane(actuator)
    before = run(**LIMITS)
    worker = await FakeWorker.attach(plane, container_id=before.id[:12])
    right = await settled(worker, before)
    before.remove(force=True)
    plane.loop.detach(worker.session)
    for limits in ({"cpu_period": 100_000, "cpu_quota": 30_000}, {"cpu_quota": 250_000}, {}):
        after = run(**limits)
        worker = await FakeWorker.attach(plane, worker_id=after.id, container_id=after.id[:12])
        assert abs(await settled(worker, after) - right) <= 100
        after.reload()
        assert after.attrs["HostConfig"]["CpuPeriod"] == settings.Actuator().period_us
        plane.loop.detach(worker.session)


async def test_the_engine_that_is_there_is_resized_beside_one_that_is_not(run, project):
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://"):
        pytest.skip(f"the engine is not at a local socket but at {address}")
    engines = {
        "here": settings.Engine(host=address, millicores=4000),
        "gone": settings.Engine(host=f"tcp://{LOOPBACK}:{free_port()}", millicores=8000),
    }
    actuator = make(settings.Actuator(compose_project=project, engines=engines))
    plane = Plane(actuator, hosts=[Host(one.millicores, 0, name) for name, one in engines.items()])
    container = run(**LIMITS)
    worker = await FakeWorker.attach(plane, container_id=container.id[:12])
    assert worker.session.worker.host.name == "here"
    assert worker.session.worker.resize.in_force == Quota(1100)
    await settled(worker, container)
    lost = await FakeWorker.attach(plane, worker_id="x", container_id="0" * 12)
    assert lost.session.worker.host is None
    await actuator.close()
