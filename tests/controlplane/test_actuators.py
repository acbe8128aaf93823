import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from controlplane import config as settings
from controlplane.actuators import ActuationError, Pending, Quota, WorkerRef, make
from controlplane.actuators.docker import DockerActuator
from controlplane.actuators.fake import FakeActuator
from controlplane.actuators.local import LocalActuator
from core.cgroup import Cgroup, usable_parent
from core.config import ConfigError

PERIOD_US = 20_000


def worker(cgroup: Path | str = "") -> WorkerRef:
    return WorkerRef("w", cgroup_path=str(cgroup))


@pytest.fixture
def scope(tmp_path: Path) -> Path:
    """A version 2 hierarchy of plain files, with groups of two workers and of somebody else."""
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    (proc / "mountinfo").write_text("25 24 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    scope = tmp_path / "sys/fs/cgroup/sponge.scope"
    for group in (scope / "w1", scope / "w2", scope.parent / "other"):
        group.mkdir(parents=True)
        for name, text in {
            "cgroup.events": "populated 1",
            "cpu.max": "max 100000",
            "cpu.weight": "100",
            "memory.current": "1000",
            "memory.stat": "inactive_file 0",
            "memory.max": "max",
        }.items():
            (group / name).write_text(text)
    return scope


def local(scope: Path, resize_memory: bool = False) -> LocalActuator:
    return LocalActuator(scope, PERIOD_US, resize_memory, proc_root=scope.parents[3])


async def test_local_writes_the_group_that_the_worker_registered(scope):
    actuator = local(scope)
    assert await actuator.read(worker(scope / "w1")) == Quota(None)
    await actuator.write(worker(scope / "w1"), Quota(1500, 5000))
    assert (scope / "w1/cpu.max").read_text() == "30000 20000"
    assert (scope / "w1/cpu.weight").read_text() == "146"
    assert (scope / "w1/memory.max").read_text() == "max"
    assert (scope / "w2/cpu.max").read_text() == "max 100000"
    assert await actuator.read(worker(scope / "w1")) == Quota(1500)
    await actuator.write(worker(scope / "w1"), Quota(None))
    assert await actuator.read(worker(scope / "w1")) == Quota(None)


async def test_local_writes_memory_where_configured(scope):
    actuator = local(scope, resize_memory=True)
    for mib in (200, 500, 300):
        await actuator.write(worker(scope / "w1"), Quota(1500, mib << 20))
        await actuator.settle()  # a plain file is empty for a moment while it is written
        assert await actuator.read(worker(scope / "w1")) == Quota(1500, mib << 20)
        assert (scope / "w1/memory.max").read_text() == str(mib << 20)
    # No lower than what is in use and a margin, and the CPU all the same.
    (scope / "w1/memory.current").write_text(str(200 << 20))
    await actuator.write(worker(scope / "w1"), Quota(800, 100 << 20))
    await actuator.settle()
    assert (scope / "w1/memory.max").read_text() == str(264 << 20)
    await actuator.write(worker(scope / "w1"), Quota(800))
    assert await actuator.read(worker(scope / "w1")) == Quota(800)
    assert (scope / "w1/memory.max").read_text() == "max"


async def test_local_memory_that_is_as_low_as_it_may_be_counts_as_what_was_asked_for(scope):
    actuator = local(scope, resize_memory=True)
    await actuator.write(worker(scope / "w1"), Quota(1500, 500 << 20))
    (scope / "w1/memory.current").write_text(str(200 << 20))
    await actuator.write(worker(scope / "w1"), Quota(1500, 100 << 20))
    await actuator.settle()
    assert await actuator.read(worker(scope / "w1")) == Quota(1500, 100 << 20)
    (scope / "w1/memory.max").write_text(str(300 << 20))  # by somebody else
    assert await actuator.read(worker(scope / "w1")) == Quota(1500, 300 << 20)
    # Nor is it below what is in use: no change at all is the same.
    (scope / "w1/memory.current").write_text(str(290 << 20))
    await actuator.write(worker(scope / "w1"), Quota(1500, 100 << 20))
    await actuator.settle()
    assert await actuator.read(worker(scope / "w1")) == Quota(1500, 100 << 20)
    assert (scope / "w1/memory.max").read_text() == str(300 << 20)
    await actuator.close()


async def test_local_memory_that_cannot_grow_does_not_keep_the_cpu(scope):
    actuator = local(scope, resize_memory=True)
    await actuator.write(worker(scope / "w1"), Quota(500, 200 << 20))
    await actuator.settle()
    (scope / "w1/memory.current").write_text(str(500 << 20))
    with pytest.raises(ActuationError, match=f"expected at least the {500 << 20} bytes in use"):
        await actuator.write(worker(scope / "w1"), Quota(1500, 300 << 20))
    assert await actuator.read(worker(scope / "w1")) == Quota(1500, 200 << 20)


async def test_local_stays_below_its_root(scope):
    (scope / "link").symlink_to(scope.parent / "other")
    for path in (scope.parent / "other", scope, scope / "w1/../../other", scope / "link", Path("/")):
        with pytest.raises(ActuationError, match=f"worker w: .*: expected a control group below {scope}"):
            await local(scope).write(worker(path), Quota(1000))
    assert (scope.parent / "other/cpu.max").read_text() == "max 100000"


async def test_local_refusals_say_what_is_missing(scope):
    with pytest.raises(ActuationError, match="worker w: registered no control group"):
        await local(scope).write(worker(), Quota(1000))
    with pytest.raises(ActuationError, match=r"worker w: .*/gone: no such control group"):
        await local(scope).read(worker(scope / "gone"))
    with pytest.raises(ActuationError, match=r"actuator\.cgroup_root: expected the directory"):
        await make(settings.Actuator(kind=settings.ActuatorKind.LOCAL)).read(worker(scope / "w1"))
    with pytest.raises(ActuationError, match="expected at least 1000 µs"):
        await local(scope).write(worker(scope / "w1"), Quota(20))


async def test_local_writes_the_kernel():
    parent = usable_parent()
    if parent is None:
        pytest.skip("no control group below which this user may create others")
    root = Cgroup.create(f"sponge-actuator-{os.getpid()}", parent)
    try:
        group = Cgroup.create("w1", root)
        try:
            actuator = make(settings.Actuator(kind=settings.ActuatorKind.LOCAL, cgroup_root=str(root.cpu)))
            for millicores in (500, 1500, 800, None):
                await actuator.write(worker(group.cpu), Quota(millicores))
                assert await actuator.read(worker(group.cpu)) == Quota(millicores)
                assert group.quota_millicores() == millicores
        finally:
            group.remove()
    finally:
        root.remove()


async def test_threads_accepts_everything_and_holds_nothing():
    actuator = make(settings.Actuator(kind=settings.ActuatorKind.THREADS))
    await actuator.write(worker(), Quota(1500))
    assert await actuator.read(worker()) is None
    assert (actuator.kind, actuator.holds_quota) == ("threads", False)
    await actuator.close()


async def test_without_the_client_of_kubernetes_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kubernetes", None)  # as if it were not there
    for name in ("kubernetes", "pod"):
        monkeypatch.delitem(sys.modules, f"controlplane.actuators.{name}", raising=False)
    with pytest.raises(ConfigError, match=r"actuator\.kind: .*pip install 'sponge-serving\[kubernetes\]'"):
        make(settings.Actuator(kind=settings.ActuatorKind.KUBERNETES))


async def test_fake_holds_and_fails_as_told():
    actuator = FakeActuator({"w": Quota(1000)})
    actuator.hold()
    write = asyncio.create_task(actuator.write(worker(), Quota(2000)))
    assert await actuator.read(worker()) == Quota(1000)
    assert repr(actuator).endswith("writes=0, held=True)")
    actuator.release()
    await write
    assert actuator.writes == [("w", Quota(2000))]
    actuator.failure = "engine unreachable"
    with pytest.raises(ActuationError, match="engine unreachable"):
        await actuator.write(worker(), Quota(500))
    assert actuator.quotas == {"w": Quota(2000)}
    actuator.failure, actuator.slow = "", True
    with pytest.raises(Pending):
        await actuator.write(worker(), Quota(500))
    assert actuator.quotas == {"w": Quota(2000)}


async def test_an_unreachable_engine_is_an_error_with_its_text():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        actuator = DockerActuator(settings.Actuator(), base_url=f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        for _ in range(2):
            with pytest.raises(ActuationError, match=r"Docker engine unreachable: .*Connection refused"):
                await actuator.write(WorkerRef("w", container_id="0123456789ab"), Quota(1000))
    with pytest.raises(ActuationError, match="expected 12 to 64 hexadecimal digits, got 'a-name'"):
        await actuator.read(WorkerRef("w", container_id="a-name"))
    await actuator.close()
