"""Control groups for CPU and memory, version 1 and 2: what the kernel says and what it accepts.

Version 1 has one hierarchy per controller, in which a process may live at different paths; version 2 has one
for all. Below, a group is the directories that matter, whichever version they are of.
"""

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from core import hierarchy
from core.hierarchy import V2

MIN_QUOTA_US = 1000  # the kernel refuses less
LEAF = "leaf"  # where `usable_parent` puts its own process

_UNLIMITED_V1 = 1 << 62  # "no limit" reads as the largest multiple of a page below 2**63
_WITHOUT_PROCESSES = "its processes must live in a child group for it to have children of its own"


class CgroupError(Exception):
    """A control group that cannot be read or changed as asked; the text names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Throttling:
    """Since the group was made: periods in which it ran, in which its quota stopped it, and for how long."""

    periods: int
    throttled_periods: int
    throttled_s: float


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One control group; every method that touches the kernel raises CgroupError.

    `cpu` stands for the group to others: it is what a worker registers and `at` understands. In version 2 all
    directories are the same. `memory` is None where no memory controller is in reach.
    """

    version: Literal[1, 2]
    cpu: Path
    cpuacct: Path
    memory: Path | None

    @classmethod
    def of_process(cls, pid: int | Literal["self"] = "self", root: Path = Path("/")) -> "Cgroup | None":
        """Find the group of a process through the caller's mounts; None where its CPU group is out of reach.

        Works in a container whose own group is mounted as the root of the hierarchy. `root` is where /proc
        and the mount points are looked for.
        """
        paths = hierarchy.parse_paths(_read(root / f"proc/{pid}/cgroup"))
        mounts = _mounts(root)

        def directory(controller: str) -> Path | None:
            if controller not in paths:
                return None
            candidates = (
                mount.locate(paths[controller]) for mount in mounts if controller in mount.controllers
            )
            return next((path for path in candidates if path is not None and path.is_dir()), None)

        cpu, cpuacct = directory("cpu"), directory("cpuacct")
        if cpu is not None and cpuacct is not None:
            return cls(1, cpu, cpuacct, directory("memory"))
        unified = directory(V2)
        return None if unified is None else cls(2, unified, unified, unified)

    @classmethod
    def at(cls, path: Path, root: Path = Path("/")) -> "Cgroup":
        """Open the group whose CPU directory is `path`; version 1: its others have the same relative path."""
        if not path.is_dir():
            raise CgroupError(f"{path}: no such control group")
        mounts = _mounts(root)
        above = [mount for mount in mounts if path.is_relative_to(mount.point)]
        mount = max(above, key=lambda mount: len(mount.point.parts), default=None)
        if mount is None or not mount.controllers & {V2, "cpu"}:
            raise CgroupError(
                f"{path}: expected a directory of a control group hierarchy with the cpu controller"
            )
        if V2 in mount.controllers:
            return cls(2, path, path, path)
        inner = path.relative_to(mount.point)
        same = {name: other.point / inner for other in mounts for name in other.controllers}
        memory = same.get("memory")
        return cls(1, path, same.get("cpuacct", path), memory if memory and memory.is_dir() else None)

    @classmethod
    def create(cls, name: str, parent: "Cgroup") -> "Cgroup":
        """Make the group `name` below `parent` in each of its hierarchies, with a CPU controller."""
        if parent.version == 2:
            parent.enable_controllers()
        below = parent.memory / name if parent.memory else None
        made = cls(parent.version, parent.cpu / name, parent.cpuacct / name, below)
        for path in made._directories:
            try:
                path.mkdir()
            except OSError as error:
                made.remove()
                raise CgroupError(f"{path}: cannot be made: {error.strerror}") from error
        return made

    @property
    def is_root(self) -> bool:
        """Whether this is the top of the kernel's hierarchy: it has no quota, and must not be written."""
        if self.version == 1:
            return (self.cpu / "cgroup.sane_behavior").exists()
        return not (self.cpu / "cgroup.events").exists()

    def remove(self) -> None:
        """Remove the group, which must hold no process; directories that are gone already are no error."""
        for path in self._directories:
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise CgroupError(f"{path}: cannot be removed: {error.strerror}") from error

    def move(self, pid: int) -> None:
        """Move a process, all threads of it, into this group."""
        for path in self._directories:
            _write(path / "cgroup.procs", str(pid))

    def quota_millicores(self) -> int | None:
        """CPU time allowed per period, in thousandths of a CPU; None where the group has no own quota."""
        quota, period = self._quota_and_period_us()
        return None if quota is None else quota * 1000 // period

    @property
    def period_us(self) -> int:
        """Length of the period for which a quota holds; the kernel's default where there is none."""
        return self._quota_and_period_us()[1]

    def cpu_seconds(self) -> float:
        """CPU time used by the group since it was made."""
        if self.version == 1:
            return int(_read(self.cpuacct / "cpuacct.usage")) / 1e9
        return _counters(self.cpu / "cpu.stat").get("usage_usec", 0) / 1e6

    def throttling(self) -> Throttling:
        """How often and how long the quota stopped the group."""
        stat = _counters(self.cpu / "cpu.stat")
        seconds = (
            stat.get("throttled_time", 0) / 1e9 if self.version == 1 else stat.get("throttled_usec", 0) / 1e6
        )
        return Throttling(stat.get("nr_periods", 0), stat.get("nr_throttled", 0), seconds)

    def memory_bytes(self) -> int:
        """Memory charged to the group, page cache included; 0 where the kernel does not tell."""
        return self._memory_value("memory.usage_in_bytes", "memory.current") or 0

    def working_set_bytes(self) -> int:
        """Memory in use, without the page cache that the kernel gives back first."""
        if not (used := self.memory_bytes()) or self.memory is None:
            return 0
        name = "total_inactive_file" if self.version == 1 else "inactive_file"
        return max(0, used - _counters(self.memory / "memory.stat").get(name, 0))

    def oom_kills(self) -> int:
        """Processes of the group that the kernel has killed for want of memory."""
        if self.memory is None:
            return 0
        counters = self.memory / ("memory.oom_control" if self.version == 1 else "memory.events")
        return _counters(counters).get("oom_kill", 0)

    def memory_limit_bytes(self) -> int | None:
        """The group's own limit; None for none."""
        limit = self._memory_value("memory.limit_in_bytes", "memory.max")
        return None if limit is None or limit >= _UNLIMITED_V1 else limit

    def set_quota(self, millicores: int | None, period_us: int) -> None:
        """Allow `millicores` in every period; None lifts the limit."""
        self._refuse_root()
        quota = -1 if millicores is None else quota_us(millicores, period_us)
        if self.version == 2:
            _write(self.cpu / "cpu.max", f"{'max' if quota < 0 else quota} {period_us}")
            return
        in_force, old_period_us = self._quota_and_period_us()
        if period_us != old_period_us:
            # Two files that only together mean something: lifted, the group is neither starved by the old
            # quota over the new period nor refused because it exceeds its parent's share for a moment.
            if in_force is not None:
                _write(self.cpu / "cpu.cfs_quota_us", "-1")
            _write(self.cpu / "cpu.cfs_period_us", str(period_us))
        _write(self.cpu / "cpu.cfs_quota_us", str(quota))

    def set_weight(self, millicores: int) -> None:
        """Weigh the group against its siblings when CPUs are short; about 1000 is the kernel's default."""
        self._refuse_root()
        if self.version == 1:
            _write(self.cpu / "cpu.shares", str(cpu_shares(millicores)))
        else:
            # The kernel's own scale: weight 100 is 1024 shares.
            _write(self.cpu / "cpu.weight", str(min(max(round(millicores / 10.24), 1), 10_000)))

    def set_memory_limit(self, limit_bytes: int | None) -> None:
        """Limit the group's memory; None lifts the limit. Swap keeps its size.

        Refuses less than is in use: version 2 would kill for it.
        """
        self._refuse_root()
        if self.memory is None:
            raise CgroupError(f"{self.cpu}: no memory controller in reach")
        if limit_bytes is not None and limit_bytes < (used := self.working_set_bytes()):
            raise CgroupError(f"{self.memory}: memory limit: expected at least the {used} bytes in use")
        if self.version == 2:  # whose limit of swap is one of its own
            _write(self.memory / "memory.max", "max" if limit_bytes is None else str(limit_bytes))
            return
        limit = self.memory / "memory.limit_in_bytes"
        # Version 1 limits memory and swap together, where it counts swap, and keeps that no less than memory alone.
        together = self.memory / "memory.memsw.limit_in_bytes"
        writes = [(limit, -1 if limit_bytes is None else limit_bytes)]
        if together.exists():
            before, both = int(_read(limit)), int(_read(together))
            if limit_bytes is None or both < _UNLIMITED_V1:
                writes.append((together, -1 if limit_bytes is None else limit_bytes + both - before))
            if limit_bytes is None or limit_bytes > before:
                writes.reverse()
        for path, value in writes:
            _write(path, str(value))

    def enable_controllers(self) -> None:
        """Give children of a version 2 group the CPU controller, and that for memory where there is one."""
        control = self.cpu / "cgroup.subtree_control"
        enabled, available = _read(control).split(), _read(self.cpu / "cgroup.controllers").split()
        if "cpu" not in available:
            raise CgroupError(f"{self.cpu}: the cpu controller is not delegated to this group")
        missing = [name for name in ("cpu", "memory") if name in available and name not in enabled]
        if missing and not self.is_root and _read(self.cpu / "cgroup.procs"):
            raise CgroupError(f"{self.cpu}: {_WITHOUT_PROCESSES}")
        if missing:
            _write(control, " ".join(f"+{name}" for name in missing))

    @property
    def _directories(self) -> list[Path]:
        return list(dict.fromkeys(path for path in (self.cpu, self.cpuacct, self.memory) if path is not None))

    def _refuse_root(self) -> None:
        if self.is_root:
            raise CgroupError(f"{self.cpu}: the root group has no limits and is not to be written")

    def _quota_and_period_us(self) -> tuple[int | None, int]:
        """Read the quota, None for none, and the period."""
        if self.version == 1:
            quota = int(_read(self.cpu / "cpu.cfs_quota_us"))
            return (None if quota < 0 else quota), int(_read(self.cpu / "cpu.cfs_period_us"))
        path = self.cpu / "cpu.max"  # not in the root, nor where the controller is not enabled
        if not path.exists():
            if not self.cpu.is_dir():
                raise CgroupError(f"{self.cpu}: no such control group")
            return None, 100_000
        limit, period = _read(path).split()
        return (None if limit == "max" else int(limit)), int(period)

    def _memory_value(self, name_v1: str, name_v2: str) -> int | None:
        """Read a number of bytes; None where there is no such file or it says «max»."""
        if self.memory is None:
            return None
        path = self.memory / (name_v1 if self.version == 1 else name_v2)
        text = _read(path) if path.exists() else "max"
        return None if text == "max" else int(text)


def usable_parent(root: Path = Path("/")) -> Cgroup | None:
    """Find a group below which this process may create groups with a CPU quota; None where there is none.

    Version 1: the process's own group if it is writable, which takes root. Version 2: its own group if it is
    delegated (systemd-run --user --scope -p Delegate=cpu) or the user is root, else the top if the user is
    root. There a group with limited children may hold no process, so this process moves into a child named
    LEAF; if it was not alone it moves back.
    """
    own = Cgroup.of_process("self", root)
    if own is None:
        return None
    if own.version == 1:
        if own.memory is not None and not _may_make(own.memory):
            own = replace(own, memory=None)
        return own if _may_make(own.cpu) and _may_make(own.cpuacct) else None
    top = next(mount.point for mount in _mounts(root) if V2 in mount.controllers)
    candidates = (own.cpu.parent if own.cpu.name == LEAF else own.cpu, top)
    return next((group for path in candidates if _takes_children(group := Cgroup(2, path, path, path))), None)


def quota_us(millicores: int, period_us: int) -> int:
    """CPU time per period, rounded up so that what is read back is no less.

    Raises CgroupError below 1000 µs.
    """
    quota = -(-millicores * period_us // 1000)
    if quota < MIN_QUOTA_US:
        raise CgroupError(
            f"CPU quota: {millicores} millicores are {quota} µs in a period of {period_us} µs, "
            f"expected at least {MIN_QUOTA_US} µs"
        )
    return quota


def cpu_shares(millicores: int) -> int:
    """Weight of a group in version 1 and in Docker, within what the kernel takes; its default is 1024."""
    return min(max(millicores, 2), 262_144)


def _takes_children(group: Cgroup) -> bool:
    """Make a version 2 group fit to have limited children, moving this process out of it if need be."""
    if not _may_make(group.cpu) or not os.access(group.cpu / "cgroup.subtree_control", os.W_OK):
        return False
    leaf = Cgroup(2, *[group.cpu / LEAF] * 3)
    pid = os.getpid()
    moved = False
    try:
        if not group.is_root and str(pid) in _read(group.cpu / "cgroup.procs").split():
            leaf.cpu.mkdir(exist_ok=True)
            leaf.move(pid)
            moved = True
        group.enable_controllers()
    except (OSError, CgroupError):
        if moved:
            with contextlib.suppress(CgroupError):
                group.move(pid)
                leaf.remove()
        return False
    return True


def _may_make(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK) and os.access(directory / "cgroup.procs", os.W_OK)


def _mounts(root: Path) -> list[hierarchy.Mount]:
    return hierarchy.parse_mounts(_read(root / "proc/self/mountinfo"), root)


def _counters(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, _read(path).splitlines())}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise CgroupError(f"{path}: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    try:
        # Not made if missing: the kernel makes these files, or the controller is not there.
        file = os.open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)
    except OSError as error:
        raise CgroupError(f"{path}: cannot write {text!r}: {error.strerror}") from error
