"""Control groups on this machine, of worker processes that registered one."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from controlplane.actuators import ActuationError, Quota, WorkerRef
from controlplane.actuators.limits import Held, floored
from controlplane.actuators.memory import MemoryLimits
from core.cgroup import Cgroup, CgroupError


class LocalActuator:
    """Writes the group a worker registered, if it lies below `cgroup_root`, symbolic links resolved.

    Memory is left alone, and read as unlimited, unless `resize_memory`. `proc_root` is where /proc is found.
    """

    kind = "local"
    holds_quota = True

    def __init__(
        self, cgroup_root: Path, period_us: int, resize_memory: bool = False, proc_root: Path = Path("/")
    ) -> None:
        self._cgroup_root = cgroup_root
        self._period_us = period_us
        self._resize_memory = resize_memory
        self._proc_root = proc_root
        self._memory = MemoryLimits(self._put_memory)  # of groups by their paths

    async def read(self, worker: WorkerRef) -> Quota | None:
        path, quota = await asyncio.to_thread(self._read, worker)
        return replace(quota, memory_bytes=self._memory.read(path, quota.memory_bytes))

    async def write(self, worker: WorkerRef, quota: Quota) -> None:
        # CPU by itself and first: it waits for no memory, and is not refused with it.
        path = await asyncio.to_thread(self._write_cpu, worker, quota.cpu_millicores)
        if self._resize_memory:
            await self._memory.write(path, quota.memory_bytes)

    async def host(self, worker: WorkerRef) -> str:
        return ""

    async def watch(self, changed: Callable[[str], None]) -> None:
        pass

    def forget(self, worker: WorkerRef) -> None:
        self._memory.forget(str(Path(worker.cgroup_path).resolve()).__eq__)

    async def settle(self) -> None:
        """Wait until memory limits are as low as was asked for, or as may be."""
        await self._memory.settle()

    async def close(self) -> None:
        await self._memory.settle()

    def _read(self, worker: WorkerRef) -> tuple[str, Quota]:
        group = self._group(worker)
        try:
            memory = group.memory_limit_bytes() if self._resize_memory else None
            return str(group.cpu), Quota(group.quota_millicores(), memory or 0)
        except CgroupError as error:
            raise ActuationError(str(error)) from error

    def _write_cpu(self, worker: WorkerRef, millicores: int | None) -> str:
        group = self._group(worker)
        try:
            group.set_quota(millicores, self._period_us)
            group.set_weight(1000 if millicores is None else millicores)
        except CgroupError as error:
            raise ActuationError(str(error)) from error
        return str(group.cpu)

    async def _put_memory(self, path: str, limit_bytes: int, may_lower: bool) -> int | None:
        try:
            # In a thread: lowering a memory limit makes the kernel reclaim pages first.
            return await asyncio.to_thread(self._set_memory, Path(path), limit_bytes, may_lower)
        except CgroupError as error:
            raise ActuationError(str(error)) from error

    def _set_memory(self, path: Path, limit_bytes: int, may_lower: bool) -> int | None:
        """Change a memory limit, 0 for none, and give what it is now; None if that would lower it, and it may not.

        It is lowered to no less than what is in use allows. Raises CgroupError for one that is raised.
        """
        group = Cgroup.at(path, self._proc_root)
        held = Held(group.memory_limit_bytes() or 0, 0)
        if limit_bytes == held.limit_bytes:
            return limit_bytes
        if not held.lowered_by(limit_bytes):
            group.set_memory_limit(limit_bytes or None)
        elif not may_lower:
            return None
        elif held.lowered_by(limit_bytes := floored(limit_bytes, group.working_set_bytes())):
            try:
                group.set_memory_limit(limit_bytes)
            except CgroupError:  # version 1: what is in use cannot be taken away
                if not group.cpu.is_dir():
                    raise
        return group.memory_limit_bytes() or 0

    def _group(self, worker: WorkerRef) -> Cgroup:
        if not worker.cgroup_path:
            raise ActuationError(f"worker {worker.worker_id}: registered no control group to resize")
        if not self._cgroup_root.is_absolute():
            raise ActuationError(
                "actuator.cgroup_root: expected the directory below which workers' groups lie"
            )
        path, allowed = Path(worker.cgroup_path).resolve(), self._cgroup_root.resolve()
        if allowed not in path.parents:
            raise ActuationError(
                f"worker {worker.worker_id}: {path}: expected a control group below {allowed}"
            )
        try:
            return Cgroup.at(path, self._proc_root)
        except CgroupError as error:
            raise ActuationError(f"worker {worker.worker_id}: {error}") from error
