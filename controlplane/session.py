"""One attached worker: what is decided of it, carried out."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import structlog

from controlplane import status
from controlplane.actuators import ActuationError, Actuator, Pending, PutOff, Unreachable, WorkerRef
from controlplane.allocation import Allocation, Quota, Version
from controlplane.metrics import Metrics
from controlplane.resize import Action, SendDirective, SetQuota
from controlplane.state import Worker
from protos import control_pb2

log = structlog.get_logger()


@dataclass(slots=True)
class Owner:
    """What a quota belongs to: a container or a group, which outlives the worker processes in it.

    Only who holds `lock` reads or writes the quota. `found` is what was there first, to be put back. `in_force` is what
    was read or written last; None while that is not certain. `worker` is who came last, as actuators know it.
    """

    worker: WorkerRef
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    found: tuple[Allocation, Quota] | None = None
    in_force: Quota | None = None

    def meet(self, quota: Quota | None, *, new: bool) -> None:
        """A worker has come, and this quota was read, if any was; `new`: it has not had a directive.

        Names of pods and groups come back. One with the quota that was left behind is the same, restarted: what was
        found first is still what to go back to. Under another quota it is another, or somebody has decided anew: what
        it has now counts as found.
        """
        if new and quota is not None and self.in_force is not None and not self.in_force.reads_as(quota):
            self.found = None
        if quota is not None:
            self.in_force = quota


class Session:
    """One stream: performs the actions of its worker's resize until it is closed, and none after that.

    `outbox` holds directives on their way to the worker; None ends the stream. `on_progress` is called after
    everything that may have changed the resize. `is_known` says of one whose owner did not answer a write whether that
    is the owner's trouble, and told as such.
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
        is_known: "Callable[[Session], Awaitable[bool]] | None" = None,
        *,
        whole_cores: bool = False,
    ) -> None:
        self.worker = worker
        self.outbox: asyncio.Queue[control_pb2.Directive | None] = asyncio.Queue()
        self.closed = False
        self.owner = owner
        self._actuator = actuator
        self._metrics = metrics
        self._period_s = period_s
        self._clock = clock
        self._on_progress = on_progress
        self._is_known = is_known
        self._whole_cores = whole_cores
        self._last_sent: Version | None = None
        self._writing: asyncio.Task[None] | None = None
        self._pending_since: float | None = None  # as time.perf_counter
        self._complaints: set[tuple[str, str]] = set()
        self._drifted_at: float | None = None  # when the drift that was told of began
        self._about_to_look = False

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
                    # Who reads nothing is not told it once more for every time-out.
                    if self.outbox.empty() or action.version != self._last_sent:
                        pace = not self._actuator.holds_quota
                        self.outbox.put_nowait(
                            status.directive(self.worker, action, self._period_s, pace=pace)
                        )
                    self._last_sent = action.version
                case SetQuota(cpu_millicores, memory_bytes):
                    # A resize has one write out at most.
                    self._writing = asyncio.create_task(self._write(Quota(cpu_millicores, memory_bytes)))
        self._on_progress()

    def runs_in(self, container: str) -> bool:
        """Whether the worker says that it runs in the container with this whole id; "" stands for all of them."""
        own = self.worker.hello.container_id
        return not container or (own != "" and container.startswith(own))

    async def reconcile(self) -> bool:
        """Read what is in force, and put right what somebody else has changed. Raises ActuationError.

        Returns whether it has been read: not if the stream has ended, or if somebody is about to read it anyway.
        """
        if self._about_to_look:
            return False
        self._about_to_look = True
        try:
            await self.owner.lock.acquire()
        finally:
            self._about_to_look = False
        try:
            if self.closed:
                return False
            quota = await self._actuator.read(worker_ref(self.worker.hello, self._whole_cores))
            if quota is not None:
                self._compare(quota)
            return True
        finally:
            self.owner.lock.release()

    def _compare(self, quota: Quota) -> None:
        worker, resize = self.worker, self.worker.resize
        if resize.contradicts(quota):
            self._metrics.quotas_changed.labels(self._metrics.label(worker.service)).inc()
            log.warning(
                "quota changed by somebody else",
                worker=worker.worker_id,
                service=worker.service,
                expected=str(resize.in_force),
                found=str(quota),
            )
        self.perform(resize.quota_seen(quota, self._clock()))

    def complain(self, event: str, text: str) -> None:
        """Log a cause once; neither numbers nor ids in its text make it another."""
        cause = event, re.sub(r"0x[0-9a-f]+|[0-9a-f]{12,}|\d+", "#", text)
        if cause not in self._complaints:
            self._complaints.add(cause)
            log.warning(event, worker=self.worker.worker_id, service=self.worker.service, error=text)

    def content(self, event: str) -> None:
        """What was complained of is over: its causes are logged again when they come back."""
        self._complaints = {cause for cause in self._complaints if cause[0] != event}

    def tell_drift(self) -> None:
        """Log that the worker has become slower or faster than its model says, or no longer is; once."""
        worker, drift = self.worker, self.worker.drift
        if drift.began_at == self._drifted_at:
            return
        self._drifted_at = drift.began_at
        names = {"worker": worker.worker_id, "service": worker.service}
        if drift.began_at is None:
            log.info("drift ended", **names)
        else:
            log.info("drift began", **names, ratio=round(drift.slower, 2), margin=round(drift.wider, 2))

    async def _write(self, quota: Quota) -> None:
        resize = self.worker.resize
        try:
            async with self.owner.lock:
                if self.closed:
                    return
                began = self._pending_since or time.perf_counter()
                self._pending_since = None
                self.owner.in_force = None
                await self._actuator.write(worker_ref(self.worker.hello, self._whole_cores), quota)
                self.owner.in_force = quota
        except Pending:
            self._pending_since = began
            self.perform(resize.quota_pending(self._clock()))
            await self._try_again()
        except Exception as error:
            # A mistake must neither end this worker's writes nor fill a log.
            mistake = not isinstance(error, ActuationError)
            put_off = mistake or isinstance(error, PutOff)
            if mistake:
                log.exception("write failed", worker=self.worker.worker_id, service=self.worker.service)
            self._metrics.actuation_failures.labels(self._actuator.kind).inc()
            self.worker.failure = str(error) or type(error).__name__
            self.perform(resize.quota_failed(self._clock(), put_off=put_off))
            if not (isinstance(error, Unreachable) and self._is_known and await self._is_known(self)):
                self.complain("quota not written", str(error))
            await self._try_again()
        else:
            self._metrics.actuation_seconds.observe(time.perf_counter() - began)
            self.worker.failure = ""
            self.content("quota not written")
            self.perform(resize.quota_written(quota.cpu_millicores, quota.memory_bytes, self._clock()))

    async def _try_again(self) -> None:
        """When its time has come, which is not left to the loop's next round: what grows waits for its directive."""
        resize = self.worker.resize
        await asyncio.sleep(max(0.0, resize.retry_at - self._clock()))
        self.perform(resize.poll(self._clock()))


def worker_ref(hello: control_pb2.Hello, whole_cores: bool = False) -> WorkerRef:
    """The worker as actuators know it."""
    return WorkerRef(hello.worker_id, hello.container_id, hello.cgroup_path, hello.pid, whole_cores)
