import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.cgroup import Cgroup, CgroupError, Throttling, usable_parent

PERIOD_US = 20_000


def write(directory: Path, files: dict[str, object]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(f"{text}\n")
    return directory


def proc(root: Path, cgroup: str, mountinfo: str) -> None:
    write(root / "proc/self", {"cgroup": cgroup, "mountinfo": mountinfo})


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """A container's view in version 1: each controller apart, memory at another path than the rest."""
    proc(
        tmp_path,
        "4:memory:/docker/m\n2:cpu:/docker/c\n3:cpuacct:/docker/c\n1:name=systemd:/docker/c\n0::/docker/c",
        "30 20 0:1 / /sys rw - sysfs sysfs rw\n"
        "31 30 0:2 /docker/c /sys/fs/cgroup/cpu ro shared:9 - cgroup cgroup rw,cpu\n"
        "32 30 0:3 /docker/c /sys/fs/cgroup/cpuacct ro - cgroup cgroup rw,cpuacct\n"
        "33 30 0:4 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
        "34 30 0:5 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw",
    )
    top = tmp_path / "sys/fs/cgroup"
    write(
        top / "cpu",
        {
            "cgroup.procs": "",
            "cpu.cfs_quota_us": 10_000,
            "cpu.cfs_period_us": PERIOD_US,
            "cpu.shares": 1024,
            "cpu.stat": "nr_periods 7\nnr_throttled 3\nthrottled_time 1500000000",
        },
    )
    write(top / "cpuacct", {"cgroup.procs": "", "cpuacct.usage": 2_500_000_000})
    write(
        top / "memory/docker/m",
        {
            "cgroup.procs": "",
            "memory.usage_in_bytes": 1000,
            "memory.stat": "inactive_file 1\ntotal_inactive_file 200",
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
            "memory.limit_in_bytes": 9223372036854771712,
            "memory.memsw.limit_in_bytes": 9223372036854771712,
        },
    )
    return tmp_path


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """A delegated scope in version 2, alone with this process."""
    proc(
        tmp_path,
        "0::/user.slice/s.scope",
        "25 24 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate",
    )
    write(
        tmp_path / "sys/fs/cgroup/user.slice/s.scope",
        {
            "cgroup.procs": "",
            "cgroup.events": "populated 1\nfrozen 0",
            "cgroup.controllers": "cpu memory pids",
            "cgroup.subtree_control": "",
            "cpu.max": "max 100000",
            "cpu.weight": 100,
            "cpu.stat": "usage_usec 2500000\nnr_periods 7\nnr_throttled 3\nthrottled_usec 1500000",
            "memory.current": 1000,
            "memory.stat": "anon 700\ninactive_file 200",
            "memory.events": "low 0\nmax 5\noom 3\noom_kill 2\noom_group_kill 0",
            "memory.max": "max",
        },
    )
    return tmp_path


def own(root: Path) -> Cgroup:
    group = Cgroup.of_process("self", root)
    assert group is not None
    return group


def test_v1_finds_each_controller_at_its_own_path(v1):
    top = v1 / "sys/fs/cgroup"
    assert own(v1) == Cgroup(1, top / "cpu", top / "cpuacct", top / "memory/docker/m")
    assert Cgroup.at(top / "cpu", v1) == Cgroup(1, top / "cpu", top / "cpuacct", top / "memory")


def test_v2_finds_one_directory(v2):
    path = v2 / "sys/fs/cgroup/user.slice/s.scope"
    assert own(v2) == Cgroup.at(path, v2) == Cgroup(2, path, path, path)


def test_a_group_out_of_reach_is_none(tmp_path):
    proc(tmp_path, "0::/elsewhere", "25 24 0:23 /here /sys/fs/cgroup rw - cgroup2 cgroup2 rw")
    assert Cgroup.of_process("self", tmp_path) is None
    assert usable_parent(tmp_path) is None


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_reads_usage_in_seconds_and_bytes(version, request):
    group = own(request.getfixturevalue(version))
    assert group.cpu_seconds() == 2.5
    assert group.throttling() == Throttling(7, 3, 1.5)
    assert (group.memory_bytes(), group.working_set_bytes(), group.memory_limit_bytes()) == (1000, 800, None)
    assert group.oom_kills() == 2
    assert not group.is_root


def test_v1_writes_and_reads_back(v1):
    group = own(v1)
    assert (group.quota_millicores(), group.period_us) == (500, PERIOD_US)
    group.set_quota(1500, 10_000)
    assert (group.cpu / "cpu.cfs_quota_us").read_text() == "15000"
    assert (group.quota_millicores(), group.period_us) == (1500, 10_000)
    group.set_quota(None, 10_000)
    assert group.quota_millicores() is None
    group.set_weight(1500)
    assert (group.cpu / "cpu.shares").read_text() == "1500"
    group.set_weight(1)
    assert (group.cpu / "cpu.shares").read_text() == "2"
    together = group.memory / "memory.memsw.limit_in_bytes"
    group.set_memory_limit(8000)
    assert group.memory_limit_bytes() == 8000
    assert together.read_text().strip() == "9223372036854771712"
    together.write_text("9000")
    for limit in (20_000, 900):  # swap keeps its size
        group.set_memory_limit(limit)
        assert (group.memory_limit_bytes(), together.read_text()) == (limit, str(limit + 1000))
    group.set_memory_limit(None)
    assert (group.memory / "memory.limit_in_bytes").read_text() == together.read_text() == "-1"
    together.unlink()  # where swap is not counted
    group.set_memory_limit(8000)
    assert group.memory_limit_bytes() == 8000


def test_v2_writes_and_reads_back(v2):
    group = own(v2)
    assert (group.quota_millicores(), group.period_us) == (None, 100_000)
    group.set_quota(1500, PERIOD_US)
    assert (group.cpu / "cpu.max").read_text() == "30000 20000"
    assert (group.quota_millicores(), group.period_us) == (1500, PERIOD_US)
    group.set_quota(None, PERIOD_US)
    assert group.quota_millicores() is None
    group.set_weight(1024)
    assert (group.cpu / "cpu.weight").read_text() == "100"
    group.set_memory_limit(8000)
    assert group.memory_limit_bytes() == 8000


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_quota_reads_back_as_written(version, request):
    group = own(request.getfixturevalue(version))
    for period_us in (1_001, 7_919, 20_000, 100_000):
        for millicores in (1000, 1001, 1333, 4567):
            group.set_quota(millicores, period_us)
            assert group.quota_millicores() == millicores


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_refusals_say_what_was_expected(version, request):
    group = own(request.getfixturevalue(version))
    with pytest.raises(
        CgroupError, match="40 millicores are 800 µs in a period of 20000 µs, expected at least 1000"
    ):
        group.set_quota(40, PERIOD_US)
    with pytest.raises(CgroupError, match="expected at least the 800 bytes in use"):
        group.set_memory_limit(799)


def test_the_root_is_never_written(v2):
    own(v2).cpu.joinpath("cgroup.events").unlink()
    assert own(v2).is_root
    with pytest.raises(CgroupError, match="root group"):
        own(v2).set_quota(1000, PERIOD_US)
    with pytest.raises(CgroupError, match="root group"):
        own(v2).set_weight(1000)


def test_what_the_kernel_lacks_is_not_made(v2):
    group = own(v2)
    (group.cpu / "cpu.max").unlink()
    assert group.quota_millicores() is None
    with pytest.raises(CgroupError, match=r"cpu\.max: cannot write '20000 20000': No such file"):
        group.set_quota(1000, PERIOD_US)


def test_other_directories_are_no_groups(v2, tmp_path):
    with pytest.raises(CgroupError, match="no such control group"):
        Cgroup.at(tmp_path / "missing", v2)
    with pytest.raises(CgroupError, match="expected a directory of a control group hierarchy"):
        Cgroup.at(tmp_path / "proc", v2)


def test_children_are_made_in_every_hierarchy(v1):
    parent = usable_parent(v1)
    child = Cgroup.create("w1", parent)
    assert child == Cgroup(1, parent.cpu / "w1", parent.cpuacct / "w1", parent.memory / "w1")
    assert all(path.is_dir() for path in (child.cpu, child.cpuacct, child.memory))
    with pytest.raises(CgroupError, match="w1: cannot be made: File exists"):
        Cgroup.create("w1", parent)
    child.remove()
    assert not child.cpu.exists()
    child.remove()


def test_v2_parent_moves_this_process_to_a_leaf_first(v2):
    scope = own(v2).cpu
    # What mkdir brings about in the kernel's file system.
    write(scope / "leaf", {"cgroup.procs": ""})
    assert usable_parent(v2) == own(v2)
    assert (scope / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert Cgroup.create("w1", own(v2)).cpu == scope / "w1"


def test_v2_parent_moves_a_process_that_is_in_the_way(v2):
    scope = own(v2).cpu
    write(scope / "leaf", {"cgroup.procs": ""})
    write(scope, {"cgroup.procs": os.getpid()})
    # A plain file does not empty itself when the process leaves, as the kernel's does: it looks as if
    # somebody else had stayed behind.
    assert usable_parent(v2) is None
    assert (scope / "leaf/cgroup.procs").read_text() == str(os.getpid())
    assert (scope / "cgroup.procs").read_text() == str(os.getpid())
    assert (scope / "cgroup.subtree_control").read_text() == "\n"


def test_v2_without_the_cpu_controller_is_no_parent(v2):
    write(own(v2).cpu, {"cgroup.controllers": "memory pids"})
    assert usable_parent(v2) is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_that_is_gone_is_not_one_without_a_quota(tmp_path, version):
    gone = tmp_path / "gone"
    group = Cgroup(version, gone, gone, gone)
    for read in (group.quota_millicores, lambda: group.period_us):
        with pytest.raises(CgroupError, match=f"^{gone}.*: [Nn]o such "):
            read()
    gone.mkdir()
    if version == 2:  # its controller is not enabled
        assert (group.quota_millicores(), group.period_us) == (None, 100_000)


@pytest.fixture
def real():
    """A new group of this machine, removed afterwards."""
    parent = usable_parent()
    if parent is None:
        pytest.skip("no control group below which this user may create others")
    group = Cgroup.create(f"sponge-test-{os.getpid()}", parent)
    yield group
    group.remove()


def test_the_kernel_holds_a_busy_process_at_its_quota(real):
    assert not real.is_root
    assert real.quota_millicores() is None
    real.set_quota(100, PERIOD_US)
    real.set_weight(2000)
    assert (real.quota_millicores(), real.period_us) == (100, PERIOD_US)
    # Stops by itself after CPU time, not wall time: 0.2 s of it take 100 periods at this quota.
    busy = "import sys, time; sys.stdin.read(1)\nwhile time.process_time() < 0.2: pass"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE) as process:
        real.move(process.pid)
        assert Cgroup.of_process(process.pid).cpu == real.cpu
        process.communicate(b"x", timeout=60)
    throttling = real.throttling()
    assert throttling.throttled_periods > 0
    assert throttling.throttled_s > 0
    # A CPU that runs out of its slice (5 ms) may overdraw by a tick: some slack, far from what a free CPU gives.
    allowed_s = (throttling.periods + 2) * 100 / 1000 * PERIOD_US / 1e6
    assert 0.1 < real.cpu_seconds() <= 1.2 * allowed_s + 0.02


def test_the_kernel_takes_every_change_of_period_and_quota(real):
    for millicores, period_us in (
        (500, 100_000),
        (100, 10_000),
        (1500, 1_000_000),
        (1000, 1_000),
        (None, 20_000),
    ):
        real.set_quota(millicores, period_us)
        assert (real.quota_millicores(), real.period_us) == (millicores, period_us)
    # Nested: no child may exceed its parent, not even between two writes.
    real.set_quota(500, 100_000)
    child = Cgroup.create("child", real)
    try:
        child.set_quota(400, 100_000)
        for period_us in (10_000, 100_000):
            child.set_quota(500, period_us)
            assert (child.quota_millicores(), child.period_us) == (500, period_us)
    finally:
        child.remove()


def test_the_kernel_root_is_recognised():
    if not os.path.exists("/sys/fs/cgroup/cpu/cgroup.sane_behavior"):
        pytest.skip("the root of a version 1 hierarchy is not visible here")
    assert Cgroup.at(Path("/sys/fs/cgroup/cpu")).is_root
