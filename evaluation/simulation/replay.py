"""A recorded run again, in virtual time: the same requests, and service times drawn from the measured ones."""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.allocation import Allocation
from controlplane.config import ServicePolicy
from controlplane.state import Fleet
from controlplane.stretch import work_of
from dataplane.request import Outcome
from dataplane.servicetime import warmed
from dataplane.worker import warm_batches
from evaluation.bandwidth import BandwidthTrace
from evaluation.journal import Executed, Journal, Served
from evaluation.recording import Held, Recording
from evaluation.simulation.offered import Mix, Offered
from evaluation.simulation.plane import Plane
from evaluation.simulation.policies import Seen, Target
from evaluation.simulation.policies.sponge import Sponge
from evaluation.simulation.profile import Truth
from evaluation.simulation.run import play
from evaluation.simulation.scenario import Scenario, Service
from evaluation.simulation.score import Tally
from evaluation.simulation.series import Span

# Service times are drawn from so many executions around the time: machines drift.
_NEAREST = 16
# A write to a control group takes 0.2 to 0.4 ms.
_ACTUATION_S = 0.0003


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to, real or replayed, as the worker and its control plane saw it.

    Shares are of all requests that reached the worker; latencies run from the queue to the answer, over all of
    them, unanswered ones as ∞ (numpy's "higher").
    """

    requests: int
    mean_cores: float
    on_time: float
    late: float
    refused: float  # or given up in any other way
    p50_ms: float
    p95_ms: float
    p99_ms: float
    resizes: int
    mean_batch: float
    quota: Sequence[Span]

    @property
    def missed(self) -> float:
        """Share late or refused."""
        return self.late + self.refused


def measured(recording: Recording) -> Run:
    """Sum up what was recorded."""
    until_s = [held.at_s for held in recording.held[1:]] + [recording.seconds]
    spans = [
        Span(until, (held.cpu_millicores / 1000,))
        for until, held in zip(until_s, recording.held, strict=True)
    ]
    return _run(recording.served, recording.executions, recording.mean_cores, recording.resizes, spans)


def replay(recording: Recording, seed: int) -> Run:
    """Run the recording again from the same start.

    Planner, governor, resizing rule, queue and batcher are those of the servers. Raises ValueError for a
    recording with requests of several rows, which the simulator does not know.
    """
    if any(one.rows != 1 for one in recording.served):
        raise ValueError("recording: expected requests of one row each")
    times = ServiceTimesAgain(recording, seed)
    scenario = _scenario(recording, times)
    tally = Tally(scenario.services[0])
    plane = Plane(scenario, _Again(recording.held[0]), [tally])
    plane.host.millicores = recording.host_millicores
    limits = recording.limits
    plane.fleet.policies[recording.service] = ServicePolicy(
        min_millicores=limits.min_millicores, max_millicores=limits.max_millicores, max_batch=limits.max_batch
    )
    seat = plane.seats[0]
    # What a worker that has just warmed up knows, and tells: each batch size once, on its first threads.
    threads = recording.held[0].threads
    warm = {rows: times(rows, threads, 0.0) for rows in warm_batches(limits.max_batch)}
    for rows, work_s in warm.items():
        seat.worker.latency.record(rows, threads, work_s, 1.0, 0.0)
    seat.virtual.batcher.times.adopt(warmed(warm))
    journal = Journal()
    seat.virtual.observers.append(journal)
    play(plane, [tally], scenario.seconds)
    mean_cores = plane.core_seconds / scenario.seconds
    return _run(journal.served, journal.executions, mean_cores, plane.resizes, plane.reserved)


class ServiceTimesAgain:
    """Draws the work of an execution of (rows, threads) from those measured of that cell around the same time.

    Work is what the control plane takes it to be (`work_of`): neighbours on the host are left in, a quota below
    the runnable threads is taken out. The worker's own part of a slot's time, before and after the engine, comes
    on top. Executions that a resize fell into say nothing. A cell that was never seen costs a row what the
    nearest batch size does, on threads as near as there are.
    """

    def __init__(self, recording: Recording, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        starts = [held.at_s for held in recording.held]
        cells: defaultdict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
        for one in recording.executions:
            if not one.mixed:
                held = recording.held[max(0, bisect_right(starts, one.started_s) - 1)]
                work_s = work_of(one.wall_s, one.cpu_s, one.threads, one.busy, held.cpu_millicores)
                work_s += max(0.0, one.slot_s - one.wall_s)
                cells[one.rows, one.threads].append((one.started_s, work_s))
        self._cells = {
            cell: (np.array([at for at, _ in seen]), np.array([work for _, work in seen]))
            for cell, seen in cells.items()
        }

    def __call__(self, rows: int, threads: int, now: float) -> float:
        """Seconds of work of one that begins now."""
        near = min(self._cells, key=lambda cell: (abs(cell[1] - threads), abs(cell[0] - rows)))
        at_s, work_s = self._cells[near]
        first = int(np.searchsorted(at_s, now)) - _NEAREST // 2
        first = max(0, min(first, len(at_s) - _NEAREST))
        drawn = self._rng.integers(first, min(first + _NEAREST, len(at_s)))
        return float(work_s[drawn]) * rows / near[0]

    def medians(self) -> Mapping[tuple[int, int], float]:
        """The median work of each cell seen, in seconds."""
        return {cell: float(np.median(work_s)) for cell, (_, work_s) in self._cells.items()}


class _Again:
    """Ours, from the recorded start, charged for its whole quota as the real worker was."""

    listens = True

    def __init__(self, start: Held) -> None:
        self._start = start
        self._ours = Sponge()

    def interval_s(self, scenario: Scenario) -> float | None:
        return self._ours.interval_s(scenario)

    def start(self, scenario: Scenario) -> list[Target]:
        held = self._start
        return [_charged(Allocation(held.cpu_millicores, held.instances, held.threads, held.max_batch))]

    def decide(self, fleet: Fleet, seen: Sequence[Seen], now: float) -> list[Target | None]:
        targets = self._ours.decide(fleet, seen, now)
        return [None if target is None else _charged(target.allocation) for target in targets]


def _charged(allocation: Allocation) -> Target:
    return Target(allocation, allocation.cpu_millicores / 1000)


def _scenario(recording: Recording, times: ServiceTimesAgain) -> Scenario:
    served, limits = recording.served, recording.limits
    arrived_s = [one.arrived_s for one in served]
    offered = Offered(
        sent_s=[one.header_s for one in served],
        header_s=[one.header_s for one in served],
        arrived_s=arrived_s,
        deadline_s=[one.deadline_s for one in served],
        schedule_s=arrived_s,
    )
    medians = times.medians()
    fastest_s = min(work_s for (rows, _), work_s in medians.items() if rows == 1)
    service = Service(
        name=recording.service,
        profile=(),
        truth=Truth(((), (0.0, fastest_s))),
        link=BandwidthTrace.constant(1.0),
        payload_bytes=Mix((1.0,), (1.0,)),
        slo_s=Mix((1.0,), (1.0,)),
        offered=offered,
        max_cores=limits.max_threads,
        max_batch=limits.max_batch,
        start_cores=1,
        max_instances=limits.max_instances,
        work=times,
        request_cpu_s=recording.request_cpu_s,
    )
    return Scenario(
        services=(service,),
        host_cores=math.ceil(recording.host_millicores / 1000),
        seconds=recording.seconds,
        contention=0.0,
        actuation_s=_ACTUATION_S,
        grace_s=float(np.median([one.expires_s - one.deadline_s for one in served])),
    )


def _run(
    served: Sequence[Served],
    executions: Sequence[Executed],
    mean_cores: float,
    resizes: int,
    quota: Sequence[Span],
) -> Run:
    total = len(served)
    on_time = sum(one.outcome is Outcome.ON_TIME for one in served)
    late = sum(one.outcome is Outcome.LATE for one in served)
    answered = (Outcome.ON_TIME, Outcome.LATE)
    latencies_ms = [1000 * one.latency_s if one.outcome in answered else math.inf for one in served]
    p50, p95, p99 = np.quantile(latencies_ms, [0.5, 0.95, 0.99], method="higher").tolist()
    return Run(
        requests=total,
        mean_cores=mean_cores,
        on_time=on_time / total,
        late=late / total,
        refused=(total - on_time - late) / total,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        resizes=resizes,
        mean_batch=sum(one.rows for one in executions) / max(1, len(executions)),
        quota=quota,
    )
