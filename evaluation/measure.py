"""One policy over one workload: load through emulated links, with an eye on the fleet meanwhile."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation import load
from evaluation.admin import Admin
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


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a measurement is: `total` steps of `name`, of which `done` are done."""

    name: str
    done: int
    total: int


Progress = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class Offered:
    """What is offered over which network, for how long."""

    subjects: Sequence[Subject]
    schedule: Sequence[Arrival]
    trace: BandwidthTrace
    seconds: float


async def run(
    policy: str, admin: Admin, addresses: Mapping[str, str], offered: Offered, progress: Progress
) -> Run:
    """Offer everything to the workers at `addresses` (HOST:PORT by service), and give what came of it."""
    t0 = time.monotonic() + _LEAD_S
    done = 0

    def ended(_row: Row) -> None:
        nonlocal done
        done += 1
        progress(Stage(policy, done, len(offered.schedule)))

    before, busy_before = await admin.fleet(), _busy()
    async with _links(addresses, offered, t0) as services, _watch(admin, t0) as points:
        done_load = await load.run(offered.schedule, services, t0=t0, trace=offered.trace, progress=ended)
    after, busy_after = await admin.fleet(), _busy()
    return Run(
        policy=policy,
        rows=done_load.rows,
        points=points,
        changes=[_change(decision, t0) for decision in await admin.decisions()],
        cost=_cost(before, after),
        generator_cpu_s=done_load.cpu_s,
        host_busy_share=(busy_after[0] - busy_before[0]) / max(1e-9, busy_after[1] - busy_before[1]),
        seconds=offered.seconds,
    )


@contextlib.asynccontextmanager
async def _links(
    addresses: Mapping[str, str], offered: Offered, t0: float
) -> AsyncIterator[Mapping[str, load.Service]]:
    """Put an emulated network in front of every worker."""
    async with contextlib.AsyncExitStack() as stack:
        services = {}
        for subject in offered.subjects:
            host, _, port = addresses[subject.name].rpartition(":")
            links = await stack.enter_async_context(Links((host, int(port)), offered.trace, t0))
            services[subject.name] = _service(subject, links.address)
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


@contextlib.asynccontextmanager
async def _watch(admin: Admin, t0: float) -> AsyncIterator[list[Point]]:
    """Look at the fleet every so often while the block runs."""
    points: list[Point] = []

    async def look() -> None:
        while True:
            fleet = await admin.fleet()
            at_s = time.monotonic() - t0
            points.extend(_point(worker, at_s) for worker in fleet.workers)
            await asyncio.sleep(_POLL_S)

    looking = asyncio.create_task(look())
    try:
        yield points
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def _point(worker: pb.WorkerStatus, at_s: float) -> Point:
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
    )


def _change(decision: pb.Decision, t0: float) -> Change:
    return Change(
        at_s=time.monotonic() - decision.age_s - t0,
        service=decision.service,
        action=decision.action,
        reason=decision.reason,
        before_millicores=decision.before.cpu_millicores,
        after_millicores=decision.after.cpu_millicores,
    )


def _cost(before: pb.Fleet, after: pb.Fleet) -> dict[str, Cost]:
    spent = {w.worker_id: (w.core_seconds_reserved, w.core_seconds_used) for w in before.workers}
    cost = {}
    for worker in after.workers:
        reserved, used = spent.get(worker.worker_id, (0.0, 0.0))
        cost[worker.service] = Cost(worker.core_seconds_reserved - reserved, worker.core_seconds_used - used)
    return cost


def _busy() -> tuple[float, float]:
    """CPU time of all CPUs since the host started, busy and in all, in ticks."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, idle, iowait, irq, softirq, steal = map(float, fields)
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait
