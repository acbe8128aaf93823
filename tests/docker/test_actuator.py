"""The Docker actuator against a real engine: what it changes, and what it leaves alone."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest
from docker.models.containers import Container

from controlplane import config as settings
from controlplane.actuators import ActuationError, Quota, WorkerRef
from controlplane.actuators.docker import PROJECT, DockerActuator
from controlplane.actuators.limits import MARGIN_BYTES
from core.cgroup import Cgroup
from evaluation.faults.relay import Relay
from tests.processes import LOOPBACK, free_port

MIB = 1 << 20
LABEL = settings.Actuator().docker_label


@pytest.fixture
async def actuator(project: str):
    actuator = DockerActuator(settings.Actuator(compose_project=project))
    yield actuator
    await actuator.close()


def ref(container: Container) -> WorkerRef:
    return WorkerRef("w", container_id=container.id[:12])  # as a worker knows it, from its hostname


def limits(container: Container) -> tuple[int, int, int]:
    container.reload()
    config = container.attrs["HostConfig"]
    return config["CpuPeriod"], config["CpuQuota"], config["CpuShares"]


async def test_quotas_are_in_force_in_engine_and_kernel(run, actuator):
    container = run(cpu_period=100_000, cpu_quota=50_000)
    began = container.attrs["State"]
    group = Cgroup.of_process(began["Pid"])
    assert await actuator.read(ref(container)) == Quota(500)
    for millicores in (500, 1500, 800, 64_000):
        await actuator.write(ref(container), Quota(millicores))
        assert limits(container) == (20_000, millicores * 20, millicores)
        assert (group.quota_millicores(), group.period_us) == (millicores, 20_000)
        assert await actuator.read(ref(container)) == Quota(millicores)
    await actuator.write(ref(container), Quota(None))
    assert group.quota_millicores() is None
    assert await actuator.read(ref(container)) == Quota(None)
    container.reload()
    assert (container.attrs["State"]["StartedAt"], container.attrs["RestartCount"]) == (began["StartedAt"], 0)


@pytest.mark.parametrize("found", [{}, {"mem_limit": 64 * MIB}])
async def test_memory_follows_where_configured(run, project, found):
    container = run(cpu_period=20_000, cpu_quota=20_000, **found)
    group = Cgroup.of_process(container.attrs["State"]["Pid"])
    actuator = DockerActuator(settings.Actuator(compose_project=project, resize_memory=True))
    try:
        for mib in (512, 96, 128):
            await actuator.write(ref(container), Quota(1000, mib * MIB))
            await actuator.settle()  # what is lowered is so later
            assert await actuator.read(ref(container)) == Quota(1000, mib * MIB)
            assert group.memory_limit_bytes() == mib * MIB
        await actuator.write(ref(container), Quota(800, 1))
        await actuator.settle()
        lowest = group.memory_limit_bytes()
        assert (
            MARGIN_BYTES <= lowest < MARGIN_BYTES + 8 * MIB
        )  # the margin above what a program that waits has
        assert await actuator.read(ref(container)) == Quota(800, 1)  # as low as may be is as asked for
        await actuator.write(ref(container), Quota(1000))
        assert await actuator.read(ref(container)) == Quota(1000)
        assert group.memory_limit_bytes() is None
    finally:
        await actuator.close()


@pytest.mark.parametrize(
    ("found", "swap_mib"),
    [
        ({"mem_limit": 128 * MIB, "memswap_limit": 192 * MIB}, 64),
        ({"mem_limit": 128 * MIB, "memswap_limit": 128 * MIB}, 0),
        ({"mem_limit": 128 * MIB, "memswap_limit": -1}, None),
    ],
)
async def test_swap_keeps_its_size_whatever_becomes_of_memory(run, project, found, swap_mib):
    container = run(cpu_period=20_000, cpu_quota=20_000, **found)
    actuator = DockerActuator(settings.Actuator(compose_project=project, resize_memory=True))
    try:
        for mib in (512, 0, 96, 256, 128):
            await actuator.write(ref(container), Quota(1000, mib * MIB))
            await actuator.settle()
            container.reload()
            held = container.attrs["HostConfig"]
            swap = None if held["MemorySwap"] < 0 else (held["MemorySwap"] - held["Memory"]) // MIB
            assert swap == swap_mib
        assert {name: held[name] for name in ("Memory", "MemorySwap")} == {
            "Memory": found["mem_limit"],
            "MemorySwap": found["memswap_limit"],
        }
    finally:
        await actuator.close()


async def test_memory_that_cannot_grow_does_not_keep_the_cpu(run, project):
    container = run(cpu_period=20_000, cpu_quota=20_000, mem_limit=128 * MIB)
    actuator = DockerActuator(settings.Actuator(compose_project=project, resize_memory=True))
    try:
        with pytest.raises(ActuationError, match="Docker refused"):
            await actuator.write(ref(container), Quota(1500, (1 << 63) - 1))
        assert await actuator.read(ref(container)) == Quota(1500, 128 * MIB)
    finally:
        await actuator.close()


@pytest.mark.parametrize("resize_memory", [False, True])
async def test_a_quota_is_written_to_the_group_and_the_record_follows(run, project, resize_memory):
    container = run(cpu_period=100_000, cpu_quota=50_000, mem_limit=128 * MIB)
    group = seen(container)
    config = settings.Actuator(compose_project=project, resize_memory=resize_memory, cgroup_write=True)
    actuator = DockerActuator(config)
    try:
        memory = 256 * MIB if resize_memory else 0
        for millicores in (1500, 500, None, 2000, 800):
            await actuator.write(ref(container), Quota(millicores, memory))
            assert group.quota_millicores() == millicores
            assert await actuator.read(ref(container)) == Quota(millicores, memory)
    finally:
        await actuator.close()
    assert limits(container) == (20_000, 16_000, 800)
    assert group.quota_millicores() == 800
    assert container.attrs["HostConfig"]["Memory"] == (memory or 128 * MIB)


async def test_a_container_that_starts_again_is_written_again(run, project):
    container = run(cpu_period=20_000, cpu_quota=20_000)
    seen(container)
    actuator = DockerActuator(settings.Actuator(compose_project=project, cgroup_write=True))
    try:
        await actuator.write(ref(container), Quota(1500))
        await asyncio.to_thread(container.restart, timeout=0)
        assert (await actuator.read(ref(container))).cpu_millicores in (1000, 1500)
        for millicores in (700, 900):
            await actuator.write(ref(container), Quota(millicores))
            assert seen(container).quota_millicores() == millicores
    finally:
        await actuator.close()
    assert limits(container) == (20_000, 18_000, 900)


def seen(container: Container) -> Cgroup:
    """The control group of a container, or a skipped test where the engine's are not seen from here."""
    container.reload()
    group = Cgroup.of_process(container.attrs["State"]["Pid"])
    if group is None or not os.access(group.cpu / "cgroup.procs", os.W_OK):
        pytest.skip("the containers' control groups are not to be written from here")
    return group


def whole(container: Container) -> WorkerRef:
    return replace(ref(container), whole_cores=True)


async def test_whole_cores_are_cpus_that_no_other_has(run, project):
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("a machine of one CPU")
    first, second, third = (run(cpu_period=20_000, cpu_quota=22_000) for _ in range(3))
    config = settings.Actuator(compose_project=project, whole_cores_cpus="0-1")
    actuator = DockerActuator(config)
    assert await actuator.read(whole(first)) == Quota(1100)
    await actuator.write(whole(first), Quota(1000))
    assert cpus(first) == ("1", -1, 1000)
    await actuator.write(whole(second), Quota(1000))
    assert cpus(second) == ("0", -1, 1000)
    for container in (first, third):  # growth finds none
        with pytest.raises(ActuationError, match=r"whole cores: expected [12] CPUs, [01] of 0-1 are free"):
            await actuator.write(whole(container), Quota(2000 if container is first else 1000))
    assert await actuator.read(whole(third)) == Quota(1100)
    # Freed when its container goes; who grows keeps what it has.
    second.remove(force=True)
    await actuator.write(whole(first), Quota(2000))
    assert cpus(first) == ("0-1", -1, 2000)
    assert await actuator.read(whole(first)) == Quota(2000)

    # Another control plane finds the same.
    successor = DockerActuator(config)
    assert await successor.read(whole(first)) == Quota(2000)
    with pytest.raises(ActuationError, match="0 of 0-1 are free"):
        await successor.write(whole(third), Quota(1000))
    await successor.write(whole(first), Quota(1000))
    assert cpus(first) == ("1", -1, 1000)
    await successor.write(whole(third), Quota(1000))
    # In the end, quotas in their place, and all CPUs.
    await successor.write(whole(third), Quota(1100))
    assert cpus(third) == ("0-1", 22_000, 1100)
    await successor.close()
    assert cpus(first) == ("0-1", 20_000, 1000)
    await actuator.close()


async def test_cpus_that_two_have_are_not_counted_as_ones_own(run, project):
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("a machine of one CPU")
    first, second = (run(cpuset_cpus="1") for _ in range(2))
    actuator = DockerActuator(settings.Actuator(compose_project=project, whole_cores_cpus="0-1"))
    assert await actuator.read(whole(first)) == Quota(None)
    await actuator.write(whole(first), Quota(1000))
    assert cpus(first) == ("0", -1, 1000)
    assert await actuator.read(whole(second)) == Quota(1000)
    await actuator.close()


def cpus(container: Container) -> tuple[str, int, int]:
    container.reload()
    held = container.attrs["HostConfig"]
    return held["CpusetCpus"], held["CpuQuota"], held["CpuShares"]


async def test_memory_is_left_alone_by_default(run, actuator):
    container = run(cpu_period=20_000, cpu_quota=20_000, mem_limit=64 * MIB)
    await actuator.write(ref(container), Quota(1500, 512 * MIB))
    container.reload()
    assert container.attrs["HostConfig"]["Memory"] == 64 * MIB
    assert await actuator.read(ref(container)) == Quota(1500)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, f"expected the label {LABEL}"),
        ({PROJECT: "{project}"}, f"expected the label {LABEL}"),
        ({LABEL: ""}, rf"expected the label {PROJECT}=sponge-test-\w+, got None"),
        ({LABEL: "", PROJECT: "another"}, rf"expected the label {PROJECT}=sponge-test-\w+, got another"),
    ],
)
async def test_other_containers_are_not_touched(run, actuator, project, labels, message):
    labels = {name: value.format(project=project) for name, value in labels.items()}
    container = run(labels=labels, cpu_period=100_000, cpu_quota=50_000)
    for call in (actuator.write(ref(container), Quota(1000)), actuator.read(ref(container))):
        with pytest.raises(ActuationError, match=f"container {container.name}: {message}"):
            await call
    assert limits(container) == (100_000, 50_000, 0)


async def test_nano_cpus_are_refused_with_the_way_out(run, actuator):
    container = run(nano_cpus=500_000_000)
    with pytest.raises(
        ActuationError, match=r"created with NanoCpus .*: create it with cpu_period and cpu_quota"
    ):
        await actuator.write(ref(container), Quota(1000))


async def test_a_container_that_went_is_an_error_and_its_successor_is_checked_anew(run, actuator):
    container = run(cpu_period=20_000, cpu_quota=20_000)
    await actuator.write(ref(container), Quota(1500))
    container.remove(force=True)
    for _ in range(2):
        with pytest.raises(ActuationError, match=f"container {container.id[:12]} is gone: No such container"):
            await actuator.write(ref(container), Quota(500))
    with pytest.raises(ActuationError, match="expected the label"):
        await actuator.write(ref(run(labels={})), Quota(500))


async def test_without_a_project_nothing_is_touched(run):
    container = run(cpu_period=20_000, cpu_quota=20_000)
    actuator = DockerActuator(settings.Actuator())
    try:
        with pytest.raises(ActuationError, match=r"actuator\.compose_project: expected the project"):
            await actuator.write(ref(container), Quota(500))
    finally:
        await actuator.close()


async def test_writes_succeed_again_when_the_engine_comes_back(run, project):
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not address.startswith("unix://"):
        pytest.skip(f"the engine is not at a local socket but at {address}")
    listen = LOOPBACK, free_port()
    relay = Relay(listen, Path(address.removeprefix("unix://")))
    await relay.open()
    actuator = DockerActuator(
        settings.Actuator(compose_project=project), base_url=f"tcp://{listen[0]}:{listen[1]}"
    )
    container = run(cpu_period=20_000, cpu_quota=20_000)
    await actuator.write(ref(container), Quota(1500))
    await relay.cut()
    for _ in range(2):
        with pytest.raises(ActuationError, match="Docker engine unreachable"):
            await actuator.write(ref(container), Quota(800))
    await relay.open()
    await actuator.write(ref(container), Quota(800))
    assert limits(container) == (20_000, 16_000, 800)
    await actuator.close()
    await relay.cut()
