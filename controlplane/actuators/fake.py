"""Owners of quotas and replicas, and a Lease, in memory, for tests: they remember writes, and fail when told to."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from controlplane.actuators import ActuationError, Pending, Quota, Unreachable, WorkerRef
from controlplane.election import Claim
from controlplane.lease import LeaseConflictError, LeaseError
from controlplane.scales import Scale, ScaleConflictError, ScaleError


class FakeActuator:
    """`quotas` by worker id is what is in force, `writes` all that ever was, in order, `asked` of whom.

    `failure`, while not empty, is the text of the error that every call raises, `unreachable` that of an owner that is
    gone, and `mistake` is raised as it is. More than `most_millicores` is refused. While `slow`, writes
    are accepted and not in force; while `mute`, they are not answered.
    `hosts` by worker id says who runs where, `changed` tells whoever watches, and `forgotten` are those that were.
    """

    kind = "fake"

    def __init__(self, quotas: dict[str, Quota] | None = None, *, holds_quota: bool = True) -> None:
        self.holds_quota = holds_quota
        self.quotas = quotas or {}
        self.writes: list[tuple[str, Quota]] = []
        self.asked: set[WorkerRef] = set()
        self.failure = ""
        self.unreachable = ""
        self.mistake: Exception | None = None
        self.most_millicores: int | None = None
        self.slow = False
        self.mute = False
        self.hosts: dict[str, str] = {}
        self.forgotten: list[WorkerRef] = []
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
        if self.mistake is not None:
            raise self.mistake
        self.changed = changed
        await asyncio.Event().wait()

    def forget(self, worker: WorkerRef) -> None:
        self.forgotten.append(worker)

    async def close(self) -> None:
        pass

    def _fail(self) -> None:
        if self.mistake is not None:
            raise self.mistake
        if self.unreachable:
            raise Unreachable(self.unreachable)
        if self.failure:
            raise ActuationError(self.failure)


class FakeScales:
    """Replicas in memory by name; `writes` are all that were asked for, `failure` as of FakeActuator.

    While `contested`, somebody else is always faster.
    """

    def __init__(self, **replicas: int) -> None:
        self.replicas = {f"deployment/{name}": count for name, count in replicas.items()}
        self.writes: list[tuple[str, int]] = []
        self.reads = 0
        self.failure = ""
        self.contested = False
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Let reads wait until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def __repr__(self) -> str:
        return f"FakeScales(replicas={self.replicas}, writes={len(self.writes)})"

    async def read(self, name: str) -> Scale:
        self.reads += 1
        await self._open.wait()
        if self.failure:
            raise ScaleError(self.failure)
        return Scale(self.replicas[name], "1")

    async def write(self, name: str, replicas: int, version: str) -> None:
        if self.contested:
            raise ScaleConflictError("the object has been modified")
        self.replicas[name] = replicas
        self.writes.append((name, replicas))

    async def close(self) -> None:
        pass


class FakeLease:
    """A Lease in memory; `failure`, while not empty, is the text of the error that every call raises.

    The next `lost` writes are performed, and their answers lost. `calls` counts all.
    """

    def __init__(self) -> None:
        self.claim = Claim()
        self.version = 1
        self.failure = ""
        self.lost = 0
        self.calls = 0

    def __repr__(self) -> str:
        return f"FakeLease(claim={self.claim}, version={self.version})"

    async def read(self) -> tuple[Claim, str]:
        self._fail()
        return self.claim, str(self.version)

    async def write(self, claim: Claim, version: str) -> str:
        self._fail()
        if version != str(self.version):
            raise LeaseConflictError("the object has been modified")
        self.claim = claim
        self.version += 1
        if self.lost:
            self.lost -= 1
            raise LeaseError("no answer")
        return str(self.version)

    async def release(self, version: str) -> None:
        await self.write(replace(self.claim, holder=""), version)

    def close(self) -> None:
        pass

    def _fail(self) -> None:
        self.calls += 1
        if self.failure:
            raise LeaseError(self.failure)
