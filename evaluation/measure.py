"""One policy over one workload: load through emulated links, with an eye on the fleet meanwhile."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evaluation import load
from evaluation.admin import Admin, ControlPlaneError
from evaluation.bandwidth import BandwidthTrace
from evaluation.link import Links
from evaluation.result import Change, Cost, Point, Run
from evaluation.rows import Row
from evaluation.scenario import Subject
from evaluation.workload import Arrival
from protos import control_pb2 as pb

_POLL_S = 0.25
# Time for connections and the first plan before the first request is due.
_LEAD_S = 1.0
_NOTHING = Cost(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a measurement is: `total` steps of `name`, of which `done` are done."""

    name: str
    done: int
    total: int


Progress = Callable[[Stage], None]


class Front(Protocol):
    """What clients connect to in a worker's stead."""

    @property
    def address(self) -> tuple[str, int]: ...


# Given a worker's address, the trace, and its time 0 on time.monotonic's scale.
Network = Callable[[tuple[str, int], BandwidthTrace, float], AbstractAsyncContextManager[Front]]


@dataclass(frozen=True, slots=True)
class Offered:
    """What is offered over which network, for how long."""

    subjects: Sequence[Subject]
    schedule: Sequence[Arrival]
    trace: BandwidthTrace
    seconds: float


async def run(
    policy: str,
    admin: Admin,
    addresses: Mapping[str, str],
    offered: Offered,
    progress: Progress,
    network: Network = Links,
) -> Run:
    """Offer everything to the workers at `addresses` (HOST:PORT by service), and give what came of it.

    `network` puts an emulated one in front of each worker. Raises ControlPlaneError, OSError.
    """
    t0 = time.monotonic() + _LEAD_S
    done = 0

    def ended(_row: Row) -> None:
        nonlocal done
        done += 1
        progress(Stage(policy, done, len(offered.schedule)))

    busy_before = _busy()
    async with _fronts(network, addresses, offered, t0) as services, watch(admin, t0) as seen:
        done_load = await load.run(offered.schedule, services, t0=t0, trace=offered.trace, progress=ended)
    busy_after = _busy()
    return Run(
        policy=policy,
        rows=done_load.rows,
        points=seen.points,
        changes=seen.changes,
        cost=seen.cost,
        generator_cpu_s=done_load.cpu_s,
        host_busy_share=(busy_after[0] - busy_before[0]) / max(1e-9, busy_after[1] - busy_before[1]),
        seconds=offered.seconds,
    )


@contextlib.asynccontextmanager
async def _fronts(
    network: Network, addresses: Mapping[str, str], offered: Offered, t0: float
) -> AsyncIterator[Mapping[str, load.Service]]:
    async with contextlib.AsyncExitStack() as stack:
        services = {}
        for subject in offered.subjects:
            host, _, port = addresses[subject.name].rpartition(":")
            front = await stack.enter_async_context(network((host, int(port)), offered.trace, t0))
            services[subject.name] = _service(subject, front.address)
        yield services


def _service(subject: Subject, address: tuple[str, int]) -> load.Service:
    """`subject` as the load generator takes it."""
    return load.Service(
        name=subject.name,
        address=address,
        slo_ms=subject.slo_ms,
        payloads=subject.payloads,
        agrees=subject.agrees,
        minimum_service_ms=1000 * subject.row_cpu_s,
    )


@dataclass(slots=True)
class Seen:
    """What was seen of a fleet from its first observation on; `cost` by service."""

    points: list[Point] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    cost: dict[str, Cost] = field(default_factory=dict)
    _counted: dict[str, Cost] | None = None  # by worker, what its counters said last

    def observe(self, fleet: pb.Fleet, at_s: float) -> None:
        """Take down where every worker is, and what each service has cost since the last observation."""
        counted = {} if self._counted is None else self._counted
        for worker in fleet.workers:
            now = Cost(worker.core_seconds_reserved, worker.core_seconds_used, worker.core_seconds_executing)
            last = counted.get(worker.worker_id, now if self._counted is None else _NOTHING)
            if now.reserved < last.reserved:  # it has attached anew, and counts from there
                last = _NOTHING
            so_far = self.cost.get(worker.service, _NOTHING)
            self.cost[worker.service] = Cost(
                so_far.reserved + now.reserved - last.reserved,
                so_far.used + now.used - last.used,
                so_far.executing + now.executing - last.executing,
            )
            counted[worker.worker_id] = now
        self._counted = counted
        self.points += [_point(worker, at_s, self.cost[worker.service]) for worker in fleet.workers]


@contextlib.asynccontextmanager
async def watch(admin: Admin, t0: float) -> AsyncIterator[Seen]:
    """Look at the fleet every so often and follow its decisions while the block runs, and once at its end.

    Raises ControlPlaneError if there is no control plane at the beginning or at the end.
    """
    seen = Seen()

    async def look() -> None:
        seen.observe(await admin.fleet(), time.monotonic() - t0)

    async def keep_looking() -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            with contextlib.suppress(ControlPlaneError):  # one point less; the end tells if it is gone
                await look()

    async def listen() -> None:
        async for decision in admin.decisions():
            seen.changes.append(_change(decision, time.monotonic() - decision.age_s - t0))

    await look()
    watching = [asyncio.create_task(keep_looking()), asyncio.create_task(listen())]
    try:
        yield seen
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    await look()


def _point(worker: pb.WorkerStatus, at_s: float, cost: Cost) -> Point:
    return Point(
        at_s=at_s,
        service=worker.service,
        cpu_millicores=worker.in_force.cpu_millicores,
        instances=worker.in_force.instances,
        threads=worker.in_force.threads,
        max_batch=worker.in_force.max_batch,
        queue_depth=worker.queue_depth,
        arrival_rate=worker.arrival_rate,
        cores_used=worker.cpu_used,
        throttled_share=worker.throttled_share,
        reserved_so_far=cost.reserved,
        used_so_far=cost.used,
        executing_so_far=cost.executing,
    )


def _change(decision: pb.Decision, at_s: float) -> Change:
    return Change(
        at_s=at_s,
        service=decision.service,
        action=decision.action,
        reason=decision.reason,
        before_millicores=decision.before.cpu_millicores,
        after_millicores=decision.after.cpu_millicores,
    )


def _busy() -> tuple[float, float]:
    """CPU time of all CPUs since the host started, busy and in all, in ticks."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, idle, iowait, irq, softirq, steal = map(float, fields)
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait
