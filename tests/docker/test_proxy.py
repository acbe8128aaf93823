"""The Docker actuator through the socket proxy on a real engine, and what that does not get through."""

import asyncio
import os
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from controlplane import config as settings
from controlplane.actuators import ActuationError, Quota, WorkerRef
from controlplane.actuators.docker import PROJECT, DockerActuator
from socketproxy.config import Config
from socketproxy.engine import Engine
from socketproxy.server import Proxy

MIB = 1 << 20


@pytest.fixture
async def socket(project: str, tmp_path: Path):
    """Where a proxy listens that lets this session's containers be resized."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://"):
        pytest.skip(f"the engine is not at a local socket but at {address}")
    path = tmp_path / "engine.sock"
    proxy = Proxy(
        Config(compose_project=project, resize_memory=True, events=True),
        Engine(address.removeprefix("unix://")),
    )
    server = await asyncio.start_unix_server(proxy.serve, path)
    yield f"unix://{path}"
    server.close()
    await server.wait_closed()


async def test_the_actuator_resizes_through_it(run, project, socket):
    container = run(cpu_period=100_000, cpu_quota=50_000)
    worker = WorkerRef("w", container_id=container.id[:12])
    actuator = DockerActuator(settings.Actuator(compose_project=project, resize_memory=True), base_url=socket)
    assert await actuator.read(worker) == Quota(500)
    for quota in (Quota(1500, 512 * MIB), Quota(800, 128 * MIB), Quota(None)):
        await actuator.write(worker, quota)
        await actuator.settle()
        assert await actuator.read(worker) == quota
        container.reload()
        held = container.attrs["HostConfig"]
        millicores = quota.cpu_millicores
        assert held["CpuQuota"] == (-1 if millicores is None else millicores * 20)
        assert held["Memory"] == quota.memory_bytes or millicores is None
    other = run(labels={PROJECT: project}, cpu_period=100_000, cpu_quota=50_000)
    with pytest.raises(ActuationError, match=f"container {other.name}: expected the label"):
        await actuator.write(WorkerRef("o", container_id=other.id[:12]), Quota(800))
    await actuator.close()


async def test_it_tells_who_was_updated_and_of_nobody_elses_containers(run, project, socket):
    container, other = run(), run(labels={PROJECT: project})
    actuator = DockerActuator(settings.Actuator(compose_project=project), base_url=socket)
    told: asyncio.Queue[str] = asyncio.Queue()
    watching = asyncio.create_task(actuator.watch(told.put_nowait))
    assert await told.get() == ""
    for each in (other, container):
        await asyncio.to_thread(each.update, cpu_quota=50_000)
    assert await told.get() == container.id
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await actuator.close()


async def test_it_lists_sponges_containers_and_refuses_the_rest(run, project, image, socket):
    container, other = run(), run(labels={PROJECT: project})
    client = await asyncio.to_thread(docker.APIClient, base_url=socket, version="auto")
    assert await asyncio.to_thread(client.ping)
    assert [found["Id"] for found in await asyncio.to_thread(client.containers)] == [container.id]
    for call in (
        lambda: client.create_container(image, "/wait"),
        lambda: client.exec_create(container.id, "/wait"),
        lambda: client.stop(container.id),
        lambda: client.kill(container.id),
        lambda: client.start(other.id),
        lambda: client.remove_container(container.id, force=True),
        lambda: client.top(container.id),
        lambda: client.diff(container.id),
        lambda: client.images(),
        lambda: client.volumes(),
        lambda: client.info(),
        lambda: client.update_container(container.id, cpu_quota=20_000, restart_policy={"Name": "always"}),
        lambda: client.update_container(other.id, cpu_quota=20_000),
    ):
        with pytest.raises(APIError, match="socket proxy: ") as refused:
            await asyncio.to_thread(call)
        assert refused.value.status_code == 403
    for left_alone in (container, other):
        left_alone.reload()
        assert (left_alone.status, left_alone.attrs["HostConfig"]["CpuQuota"]) == ("running", 0)
    client.close()
