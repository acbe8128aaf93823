"""An owner of quotas in memory, for tests: remembers what was written, fails or waits when told to."""

import asyncio
from collections.abc import Callable

from controlplane.actuators import ActuationError, Pending, Quota, Unreachable, WorkerRef


class FakeActuator:
    """`quotas` by worker id is what is in force, `writes` all that ever was, in order, `asked` of whom.

    `failure`, while not empty, is the text of the error that every call raises, `unreachable` that of an owner that is
    gone. More than `most_millicores` is refused. While `slow`, writes are accepted and not in force;
    while `mute`, they are not answered.
    `hosts` by worker id says who runs where, and `changed` tells whoever watches.
    """

    kind = "fake"

    def __init__(self, quotas: dict[str, Quota] | None = None, *, holds_quota: bool = True) -> None:
        self.holds_quota = holds_quota
        self.quotas = quotas or {}
        self.writes: list[tuple[str, Quota]] = []
        self.asked: set[WorkerRef] = set()
        self.failure = ""
        self.unreachable = ""
        self.most_millicores: int | None = None
        self.slow = False
        self.mute = False
        self.hosts: dict[str, str] = {}
        self.changed: Callable[[str], None] | None = None
        self._open = asyncio.Event()
        self._open.set()

    def __repr__(self) -> str:
        return (
            f"FakeActuator(quotas={self.quotas}, writes={len(self.writes)}, held={not self._open.is_set()})"
        )

    def hold(self) -> None:
        """Let writes wait until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def read(self, worker: WorkerRef) -> Quota | None:
        self.asked.add(worker)
        self._fail()
        return self.quotas.get(worker.worker_id)

    async def write(self, worker: WorkerRef, quota: Quota) -> None:
        self.asked.add(worker)
        await self._open.wait()
        self._fail()
        if self.mute:
            raise Unreachable("no answer")
        if self.most_millicores is not None and (quota.cpu_millicores or 0) > self.most_millicores:
            raise ActuationError(f"at most {self.most_millicores} millicores")
        if self.slow:
            raise Pending(f"{quota} is not in force yet")
        self.quotas[worker.worker_id] = quota
        self.writes.append((worker.worker_id, quota))

    async def host(self, worker: WorkerRef) -> str:
        self._fail()
        return self.hosts.get(worker.worker_id, "")

    async def watch(self, changed: Callable[[str], None]) -> None:
        self.changed = changed
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass

    def _fail(self) -> None:
        if self.unreachable:
            raise Unreachable(self.unreachable)
        if self.failure:
            raise ActuationError(self.failure)
