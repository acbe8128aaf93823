"""One attached worker: what is decided of it, carried out."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from controlplane import status
from controlplane.actuators import ActuationError, Actuator, Pending, WorkerRef
from controlplane.metrics import Metrics
from controlplane.resize import PENDING_S, Action, Allocation, Quota, SendDirective, SetQuota
from controlplane.state import Worker
from protos import control_pb2

log = structlog.get_logger()


@dataclass(slots=True)
class Owner:
    """What a quota belongs to: a container or a group, which outlives the worker processes in it.

    Only who holds `lock` reads or writes the quota. `found` is what was there first, to be put back.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    found: tuple[Allocation, Quota] | None = None


class Session:
    """One stream: performs the actions of its worker's resize until it is closed, and none after that.

    `outbox` holds directives on their way to the worker; None ends the stream. `on_progress` is called after
    everything that may have changed the resize.
    """

    def __init__(
        self,
        worker: Worker,
        owner: Owner,
        actuator: Actuator,
        metrics: Metrics,
        period_s: float,
        clock: Callable[[], float],
        on_progress: Callable[[], None],
        *,
        whole_cores: bool = False,
    ) -> None:
        self.worker = worker
        self.outbox: asyncio.Queue[control_pb2.Directive | None] = asyncio.Queue()
        self.closed = False
        self._owner = owner
        self._actuator = actuator
        self._metrics = metrics
        self._period_s = period_s
        self._clock = clock
        self._on_progress = on_progress
        self._whole_cores = whole_cores
        self._writing: asyncio.Task[None] | None = None
        self._pending_since: float | None = None  # as time.perf_counter
        self._complaints: set[tuple[str, str]] = set()

    def close(self) -> None:
        """Act no more, and end the stream."""
        self.closed = True
        self.outbox.put_nowait(None)

    def perform(self, actions: Iterable[Action]) -> None:
        """Carry out what the resize asks for; the rest of a write happens in a task."""
        if self.closed:
            return
        for action in actions:
            match action:
                case SendDirective():
                    pace = not self._actuator.holds_quota
                    self.outbox.put_nowait(status.directive(self.worker, action, self._period_s, pace=pace))
                case SetQuota(cpu_millicores, memory_bytes):
                    # A resize has one write out at most.
                    self._writing = asyncio.create_task(self._write(Quota(cpu_millicores, memory_bytes)))
        self._on_progress()

    def complain(self, event: str, text: str) -> None:
        """Log a cause once; numbers in its text do not make it another."""
        cause = event, re.sub(r"\d+", "#", text)
        if cause not in self._complaints:
            self._complaints.add(cause)
            log.warning(event, worker=self.worker.worker_id, service=self.worker.service, error=text)

    async def _write(self, quota: Quota) -> None:
        resize = self.worker.resize
        try:
            async with self._owner.lock:
                if self.closed:
                    return
                began = self._pending_since or time.perf_counter()
                self._pending_since = None
                await self._actuator.write(worker_ref(self.worker.hello, self._whole_cores), quota)
        except Pending:
            self._pending_since = began
            self.perform(resize.quota_pending(self._clock()))
            # Not left to the loop's next round: what grows waits for its directive.
            await asyncio.sleep(PENDING_S)
            self.perform(resize.poll(self._clock()))
        except ActuationError as error:
            self._metrics.actuation_failures.labels(self._actuator.kind).inc()
            self.worker.failure = str(error)
            self.complain("quota not written", str(error))
            self.perform(resize.quota_failed(self._clock()))
        else:
            self._metrics.actuation_seconds.observe(time.perf_counter() - began)
            self.worker.failure = ""
            self._complaints = {cause for cause in self._complaints if cause[0] != "quota not written"}
            self.perform(resize.quota_written(quota.cpu_millicores, quota.memory_bytes, self._clock()))


def worker_ref(hello: control_pb2.Hello, whole_cores: bool) -> WorkerRef:
    """The worker as actuators know it."""
    return WorkerRef(hello.worker_id, hello.container_id, hello.cgroup_path, hello.pid, whole_cores)
