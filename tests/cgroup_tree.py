"""Control groups of either version as plain files, for what writes those of workers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from controlplane.actuators import Quota, WorkerRef

_MOUNTS = {
    1: "31 30 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 30 0:4 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
    2: "25 24 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}
_UNLIMITED_V1 = "9223372036854771712"  # what version 1 reads where there is no limit of memory
_FILES = {
    1: {
        "cpu.cfs_quota_us": "-1",
        "cpu.cfs_period_us": "100000",
        "cpu.shares": "1024",
        "memory.usage_in_bytes": "1000",
        "memory.stat": "total_inactive_file 0",
        "memory.limit_in_bytes": _UNLIMITED_V1,
    },
    2: {
        "cgroup.events": "populated 1",
        "cpu.max": "max 100000",
        "cpu.weight": "100",
        "memory.current": "1000",
        "memory.stat": "inactive_file 0",
        "memory.max": "max",
    },
}


@dataclass(frozen=True, slots=True)
class CgroupTree:
    """Below `top`, where /proc is too, the groups `w1` and `w2` of workers, and of a stranger beside their root.

    No group has a limit. `held` reads what a kernel would hold a worker to; the rest is what others than its owner do.
    """

    version: Literal[1, 2]
    top: Path

    def __post_init__(self) -> None:
        proc = self.top / "proc/self"
        proc.mkdir(parents=True)
        (proc / "mountinfo").write_text(_MOUNTS[self.version])
        for worker in (self.worker("w1"), self.worker("w2"), self.stranger):
            for name, text in _FILES[self.version].items():
                self._file(worker, name).parent.mkdir(parents=True, exist_ok=True)
                self._file(worker, name).write_text(text)

    @property
    def root(self) -> Path:
        """Below which the groups of workers lie."""
        mounted = self.top / "sys/fs/cgroup"
        return (mounted / "cpu,cpuacct" if self.version == 1 else mounted) / "sponge.scope"

    @property
    def stranger(self) -> WorkerRef:
        return WorkerRef("w", cgroup_path=str(self.root.parent / "other"))

    def worker(self, group: str) -> WorkerRef:
        return WorkerRef("w", cgroup_path=str(self.root / group))

    def held(self, worker: WorkerRef) -> Quota:
        if self.version == 1:
            quota, period, limit = (
                self._file(worker, name).read_text()
                for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.limit_in_bytes")
            )
        else:
            quota, period = self._file(worker, "cpu.max").read_text().split()
            limit = self._file(worker, "memory.max").read_text()
        return Quota(
            None if quota in ("max", "-1") else int(quota) * 1000 // int(period),
            0 if limit in ("max", _UNLIMITED_V1) else int(limit),
        )

    def weight(self, worker: WorkerRef) -> int:
        return int(self._file(worker, "cpu.shares" if self.version == 1 else "cpu.weight").read_text())

    def put(self, worker: WorkerRef, millicores: int) -> None:
        """Change the quota, and the period with it."""
        if self.version == 1:
            self._file(worker, "cpu.cfs_period_us").write_text("50000")
            self._file(worker, "cpu.cfs_quota_us").write_text(str(50 * millicores))
        else:
            self._file(worker, "cpu.max").write_text(f"{50 * millicores} 50000")

    def put_memory(self, worker: WorkerRef, limit_bytes: int) -> None:
        """Change the limit."""
        name = "memory.limit_in_bytes" if self.version == 1 else "memory.max"
        self._file(worker, name).write_text(str(limit_bytes))

    def use(self, worker: WorkerRef, used_bytes: int) -> None:
        """Take so much memory."""
        name = "memory.usage_in_bytes" if self.version == 1 else "memory.current"
        self._file(worker, name).write_text(str(used_bytes))

    def lift(self, worker: WorkerRef) -> None:
        """Answer a limit that was lifted as version 1 does: it takes −1 and reads as the largest there is."""
        if self.version == 1 and (limit := self._file(worker, "memory.limit_in_bytes")).read_text() == "-1":
            limit.write_text(_UNLIMITED_V1)

    def _file(self, worker: WorkerRef, name: str) -> Path:
        """Where a group has it: of memory in a hierarchy of its own in version 1."""
        group = Path(worker.cgroup_path)
        if self.version == 1 and name.startswith("memory."):
            return self.top / "sys/fs/cgroup/memory" / group.relative_to(self.root.parent) / name
        return group / name
