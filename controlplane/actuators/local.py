"""Control groups on this machine, of worker processes that registered one."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from controlplane.actuators import ActuationError, Quota, WorkerRef
from controlplane.actuators.limits import floored
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

    async def read(self, worker: WorkerRef) -> Quota | None:
        return await asyncio.to_thread(self._read, worker)

    async def write(self, worker: WorkerRef, quota: Quota) -> None:
        # In a thread: lowering a memory limit makes the kernel reclaim pages first.
        await asyncio.to_thread(self._write, worker, quota)

    async def host(self, worker: WorkerRef) -> str:
        return ""

    async def watch(self, changed: Callable[[str], None]) -> None:
        pass

    async def close(self) -> None:
        pass

    def _read(self, worker: WorkerRef) -> Quota:
        group = self._group(worker)
        try:
            memory = group.memory_limit_bytes() if self._resize_memory else None
            return Quota(group.quota_millicores(), memory or 0)
        except CgroupError as error:
            raise ActuationError(str(error)) from error

    def _write(self, worker: WorkerRef, quota: Quota) -> None:
        group = self._group(worker)
        try:
            # By itself and first: CPU waits for no memory, and is not refused with it.
            group.set_quota(quota.cpu_millicores, self._period_us)
            group.set_weight(1000 if quota.cpu_millicores is None else quota.cpu_millicores)
            if self._resize_memory:
                _set_memory(group, quota.memory_bytes or None)
        except CgroupError as error:
            raise ActuationError(str(error)) from error

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


def _set_memory(group: Cgroup, limit_bytes: int | None) -> None:
    """Change a memory limit, down to no less than what is in use allows. Raises CgroupError for one that is raised."""
    held = group.memory_limit_bytes()
    lowered = limit_bytes is not None and (held is None or limit_bytes < held)
    if not lowered or limit_bytes is None:
        group.set_memory_limit(limit_bytes)
        return
    limit_bytes = floored(limit_bytes, group.working_set_bytes())
    if held is None or limit_bytes < held:
        with contextlib.suppress(CgroupError):  # version 1: what is in use cannot be taken away
            group.set_memory_limit(limit_bytes)
