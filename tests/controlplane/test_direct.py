"""Quotas written to control groups, of plain files here, and the engine's record that follows."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from controlplane.actuators import ActuationError
from controlplane.actuators.direct import Direct, find

ID, OTHER = "a" * 64, "b" * 64
PERIOD_US = 20_000


def group(path: Path) -> Path:
    """A group of version 2 with a CPU controller."""
    path.mkdir(parents=True)
    for name, text in {"cgroup.events": "populated 1", "cpu.max": "max 100000", "cpu.weight": "100"}.items():
        (path / name).write_text(text)
    return path


def mounted(root: Path, *lines: str) -> None:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/mountinfo").write_text("\n".join(lines))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host whose hierarchy is mounted, as in a container of it that has its own besides."""
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    mounted(tmp_path, "25 24 0:23 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw")
    return tmp_path


class Record:
    """The engine's record of one container, which fails or waits when told to.

    As an engine does, an update also writes the quota to the group, when it is carried out.
    """

    def __init__(self, path: Path) -> None:
        self.said: list[int | None] = []
        self.failures = 0
        self.began = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.written = asyncio.Event()
        self._path = path

    async def __call__(self, container_id: str, millicores: int | None) -> None:
        assert container_id == ID
        self.began.set()
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            if self._path.exists():
                self._path.write_text(f"10000 {PERIOD_US}")  # as an engine that goes back to what it knew
            raise ActuationError("Docker engine unreachable: connection refused")
        self.said.append(millicores)
        self._path.write_text(f"{'max' if millicores is None else millicores * 20} {PERIOD_US}")
        self.written.set()


def in_force(path: Path) -> str:
    return (path / "cpu.max").read_text()


@pytest.mark.parametrize("name", ["docker/{id}", "system.slice/docker-{id}.scope", "mine/deep/{id}"])
def test_a_container_is_found_by_its_id_wherever_the_engine_puts_it(root, name):
    group(root / "sys/fs/cgroup" / name.format(id=OTHER))
    path = group(root / "sys/fs/cgroup" / name.format(id=ID))
    assert find(ID, root).cpu == path
    assert find("c" * 64, root) is None


def test_what_a_container_makes_below_its_own_group_is_not_taken_for_another(root):
    group(root / "sys/fs/cgroup/docker" / OTHER / ID)
    path = group(root / "sys/fs/cgroup/docker" / ID)
    assert find(ID, root).cpu == path


def test_in_version_1_the_hierarchy_with_the_cpu_controller_counts(root):
    mounted(
        root,
        "34 30 0:5 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw",
        "31 30 0:2 / /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct",
    )
    for hierarchy in ("unified", "cpu,cpuacct"):
        (root / "sys/fs/cgroup" / hierarchy / "docker" / ID).mkdir(parents=True)
    found = find(ID, root)
    assert (found.version, found.cpu) == (1, root / "sys/fs/cgroup/cpu,cpuacct/docker" / ID)


async def test_a_quota_is_in_force_on_return_and_the_record_follows(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    record = Record(path / "cpu.max")
    actuator = Direct(PERIOD_US, record, root, pause_s=0.0)
    assert await actuator.write(ID, 1500)
    assert in_force(path) == "30000 20000"
    assert record.said == []
    await actuator.close()
    assert record.said == [1500]


async def test_the_last_of_several_quotas_is_recorded(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    record = Record(path / "cpu.max")
    actuator = Direct(PERIOD_US, record, root)
    for millicores in (1500, 800, None, 700):
        assert await actuator.write(ID, millicores)
    await actuator.close()
    assert record.said == [700]
    assert in_force(path) == "14000 20000"


async def test_an_update_under_way_does_not_outlast_a_later_quota(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    record = Record(path / "cpu.max")
    actuator = Direct(PERIOD_US, record, root, pause_s=0.0)
    record.open.clear()
    await actuator.write(ID, 500)
    await record.began.wait()
    growing = asyncio.create_task(actuator.write(ID, 2000))
    done, _ = await asyncio.wait([growing], timeout=0.1)
    assert in_force(path) == "40000 20000"  # at once
    assert not done  # but nobody may count on it
    record.open.set()
    assert await growing
    assert in_force(path) == "40000 20000"
    await actuator.close()
    assert record.said == [500, 2000]


async def test_a_record_that_fails_is_tried_again_and_told_of_once(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    record = Record(path / "cpu.max")
    record.failures = 3
    actuator = Direct(PERIOD_US, record, root, pause_s=0.0)
    with capture_logs() as logs:
        assert await actuator.write(ID, 1500)
        await record.written.wait()
    assert record.said == [1500]
    assert in_force(path) == "30000 20000"
    assert [line["event"] for line in logs] == ["record not updated"]
    await actuator.close()


async def test_at_the_end_a_record_that_fails_is_left(root):
    record = Record(group(root / "sys/fs/cgroup/docker" / ID) / "cpu.max")
    record.failures = 1
    actuator = Direct(PERIOD_US, record, root)
    await actuator.write(ID, 1500)
    await actuator.close()
    assert (record.said, record.failures) == ([], 0)
    assert (root / "sys/fs/cgroup/docker" / ID / "cpu.max").read_text() == "30000 20000"


async def test_the_record_of_a_container_that_has_ended_is_left(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    record = Record(path / "cpu.max")
    record.open.clear()
    record.failures = 1
    actuator = Direct(PERIOD_US, record, root, pause_s=0.0)
    await actuator.write(ID, 1500)
    await record.began.wait()
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    record.open.set()
    await actuator.close()
    assert record.said == []


async def test_a_container_that_has_ended_does_not_read_as_unlimited(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    record = Record(path / "cpu.max")
    actuator = Direct(PERIOD_US, record, root)
    assert await actuator.read(ID, None) is None
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    assert await actuator.read(ID, 1500) == 1500
    await actuator.close()
    assert record.said == []


async def test_what_cannot_be_written_the_engine_writes_and_it_is_told_of_once(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    (path / "cpu.max").unlink()
    record = Record(path / "cpu.max")
    actuator = Direct(PERIOD_US, record, root)
    with capture_logs() as logs:
        for _ in range(2):
            assert not await actuator.write(ID, 1500)
            assert not await actuator.write(OTHER, 1500)
    await actuator.close()
    assert record.said == []
    events = [(line["event"], line["container"]) for line in logs]
    assert events == [("control group not written directly", each[:12]) for each in (ID, OTHER)]


async def test_what_is_forgotten_is_found_anew_but_not_before_its_record_follows(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    record = Record(path / "cpu.max")
    actuator = Direct(PERIOD_US, record, root, pause_s=0.0)
    assert await actuator.write(ID, 1500)
    actuator.forget(ID.__eq__)
    await record.written.wait()
    assert record.said == [1500]
    (path / "cpu.max").unlink()
    with capture_logs() as logs:
        for _ in range(2):
            assert not await actuator.write(ID, 800)
            actuator.forget(ID.__eq__)
    assert [line["event"] for line in logs] == ["control group not written directly"] * 2
    await actuator.close()


async def test_what_was_to_be_recorded_does_not_follow_what_the_engine_writes(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    record = Record(path / "cpu.max")
    actuator = Direct(PERIOD_US, record, root)
    assert await actuator.write(ID, 500)
    (path / "cpu.max").unlink()
    assert not await actuator.write(ID, 1500)
    await actuator.close()
    assert record.said == []


async def test_a_container_that_starts_again_is_found_again(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    record = Record(path / "cpu.max")
    actuator = Direct(PERIOD_US, record, root)
    assert await actuator.write(ID, 500)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    assert not await actuator.write(ID, 800)
    group(path)
    assert await actuator.write(ID, 1500)
    assert in_force(path) == "30000 20000"
    await actuator.close()
    assert record.said == [1500]


async def test_what_is_read_is_what_is_in_force_and_a_record_that_differs_is_mended(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    record = Record(path / "cpu.max")
    actuator = Direct(PERIOD_US, record, root, pause_s=0.0)
    (path / "cpu.max").write_text("16000 20000")
    assert await actuator.read(ID, 1500) == 800
    await actuator.close()
    assert record.said == [800]
    assert await actuator.read(OTHER, 1500) == 1500  # not seen from here


async def test_a_quota_is_held_against_whoever_puts_another_over_it(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    actuator = Direct(PERIOD_US, Record(path / "cpu.max"), root)
    await actuator.hold(ID)
    await actuator.write(ID, 1500)
    (path / "cpu.max").write_text("10000 20000")
    await actuator.hold(ID)
    assert in_force(path) == "30000 20000"
    await actuator.close()


async def test_what_a_container_uses_is_told_where_it_is_seen(root):
    path = group(root / "sys/fs/cgroup/docker" / ID)
    actuator = Direct(PERIOD_US, Record(path / "cpu.max"), root)
    assert actuator.used_bytes(ID) is None
    await actuator.write(ID, 1500)
    (path / "memory.current").write_text("1000")
    assert actuator.used_bytes(ID) is None
    (path / "memory.stat").write_text("inactive_file 300")
    assert actuator.used_bytes(ID) == 700
    await actuator.close()
