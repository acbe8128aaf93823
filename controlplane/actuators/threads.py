"""For where nothing may be resized: workers change instances and threads, and pace themselves."""

from collections.abc import Callable

from controlplane.actuators import Quota, WorkerRef


class ThreadsActuator:
    """Accepts every quota and holds none."""

    kind = "threads"
    holds_quota = False

    async def read(self, worker: WorkerRef) -> Quota | None:
        return None

    async def write(self, worker: WorkerRef, quota: Quota) -> None:
        pass

    async def host(self, worker: WorkerRef) -> str:
        return ""

    async def watch(self, changed: Callable[[str], None]) -> None:
        pass

    def forget(self, worker: WorkerRef) -> None:
        pass

    async def close(self) -> None:
        pass
