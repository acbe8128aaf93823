"""How a worker would run under each configuration it may have: load, waits, and what becomes of its queue."""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from controlplane.demand import DemandEstimate
from controlplane.latency import LatencyModel, stretched_mean, stretched_upper
from core import edf

STEP_MILLICORES = 100
# A quota equal to the threads leaves nothing to the event loop, and the kernel then stops them all.
HEAD_ROOM_MILLICORES = 100
# Up to so many threads fractions of a core are worth having.
FRACTIONAL_THREADS = 2
RESIDUAL_SHARE = 0.1  # of its time an execution is expected to take on, however overdue


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a worker may run with."""

    cpu_millicores: int
    instances: int
    threads: int
    max_batch: int
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker can run with, and what its service may have."""

    min_millicores: int = 500
    max_millicores: int = 64_000
    max_instances: int = 8
    max_threads: int = 8
    max_batch: int = 8


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One worker as the planner sees it; durations in seconds."""

    name: str
    latency: LatencyModel  # a snapshot, where samples arrive while another thread plans
    demand: DemandEstimate
    limits: Limits = Limits()
    queue: Sequence[tuple[float, int]] = ()  # (remaining time, rows) of what waits, in deadline order
    running: Sequence[tuple[float, int]] = ()  # (elapsed time, rows) of what is executing
    current: Configuration | None = None
    weight: float = 1.0
    request_overhead_s: float = 0.0015  # CPU of a request outside the model
    period_s: float = 0.02  # of the CPU quota
    cores_used: float = 0.0  # in the mean over the last second
    memory_base_bytes: int = 0
    memory_per_row_bytes: int = 0  # of every row in execution
    memory_peak_bytes: int = 0  # seen so far: never planned below


@functools.lru_cache
def shapes(limits: Limits, host_millicores: int) -> tuple[tuple[int, int, int], ...]:
    """(millicores, instances, threads) of all that is worth a look; at least one, even below the floor.

    With r = n·t threads the quota is at most r cores and head-room, above which nothing throttles, and above
    r − 1 cores, since otherwise one thread less does as much. All steps of a core are looked at up to
    FRACTIONAL_THREADS; beyond, where they are a small part of the whole, halves, and what the ceiling leaves
    of the last core, if it is half of it or more. A host or a ceiling below the floor is the floor.
    """
    ceiling = min(limits.max_millicores, max(1, host_millicores))
    floor = min(limits.min_millicores, ceiling)
    return tuple(
        (quota, instances, 1 << power)
        for power in range(limits.max_threads.bit_length())
        for instances in range(1, limits.max_instances + 1)
        for quota in _quotas(instances << power, floor, ceiling)
    )


def _quotas(runnable: int, floor: int, ceiling: int) -> list[int]:
    least = floor if runnable == 1 else max(floor, 1000 * (runnable - 1) + HEAD_ROOM_MILLICORES)
    enough = max(least, 1000 * runnable + HEAD_ROOM_MILLICORES)
    most = min(enough, ceiling)
    if runnable > FRACTIONAL_THREADS:
        half = 1000 * runnable - 500
        return [quota for quota in dict.fromkeys((half, most)) if max(least, half) <= quota <= most]
    if least > ceiling:
        return []
    steps = range(-(-least // STEP_MILLICORES) * STEP_MILLICORES, most, STEP_MILLICORES)
    return [quota for quota in sorted({least, *steps}) if quota != 1000 * runnable and quota < most] + [most]


@functools.lru_cache
def ladder(limit: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, …, and the limit itself."""
    powers = range(limit.bit_length())
    steps = {limit, *(1 << power for power in powers), *(3 << power for power in powers)}
    return tuple(sorted(step for step in steps if step <= limit))


@dataclass(frozen=True, slots=True)
class Shape:
    """Slots under a quota."""

    millicores: int
    instances: int
    threads: int
    upper_s: list[float]  # wall time by rows, upper quantile, all slots busy


@dataclass(frozen=True, slots=True)
class Operation:
    """How a configuration runs under the demand."""

    shape: Shape
    batch: int  # the limit
    rows: int  # of an execution, as many as the demand makes necessary
    load: float
    served: float  # requests per second
    shed: float
    mean_s: float  # wall time of such an execution
    spread: float  # squared coefficient of variation of that
    request_rows: int

    def memory_bytes(self, service: ServiceState) -> int:
        """What it needs in `service`."""
        needed = service.memory_base_bytes + service.memory_per_row_bytes * self.shape.instances * self.batch
        return max(needed, service.memory_peak_bytes)

    def configuration(self, service: ServiceState) -> Configuration:
        """Give it with the memory that it needs in `service`."""
        shape = self.shape
        memory = self.memory_bytes(service)
        return Configuration(shape.millicores, shape.instances, shape.threads, self.batch, memory)


def operations(service: ServiceState, host_millicores: int, max_utilisation: float) -> list[Operation]:
    """All configurations, but for batch limits beyond the rows that are cheapest each.

    Executions of k rows load n slots to λ·ℓ(k)/(k·n), with λ in rows per second and ℓ the mean under the
    quota beside n − 1 others; and they load the quota to λ·(CPU per row + overhead per row). The smallest k
    within the batch limit that keeps the higher of both within `max_utilisation` is what batches grow to,
    else the k that loads least. Arrivals beyond that utilisation are shed.
    """
    demand, model = service.demand, service.latency
    request_rows = max(1, math.ceil(demand.rows_per_request - 1e-9))
    row_rate = demand.rate * demand.rows_per_request
    overhead_s = service.request_overhead_s / demand.rows_per_request
    longest = max(service.limits.max_batch, request_rows)
    rows = np.arange(1.0, longest + 1)
    model.table(service.limits.max_threads, longest)  # the largest first: one fit is enough for all
    kappa = model.kappa
    sigmas = NormalDist().inv_cdf(model.quantile)  # from the mean to the upper quantile
    single = np.array(model.table(1, longest).mean[1:])
    batches = ladder(service.limits.max_batch)
    sizes = range(request_rows, longest + 1)
    found = []
    # All shapes of as many threads at once: an array for each takes several times what a row of a larger one does.
    for threads, group in itertools.groupby(shapes(service.limits, host_millicores), lambda shape: shape[2]):
        same = list(group)
        table = model.table(threads, longest)
        mean, upper = np.array(table.mean[1:]), np.array(table.upper[1:])
        millicores, instances, _ = np.array(same).T[:, :, None]
        contention = 1 + kappa * (instances - 1)
        runnable = instances * threads
        mean_s = stretched_mean(mean * contention, runnable, millicores)
        upper_s = stretched_upper(upper * contention, runnable, millicores, service.period_s)
        # Threads divide the work and add none, but for what they wait for each other.
        cpu_s = np.minimum(single, threads * mean) * contention / rows + overhead_s
        load = np.maximum(row_rate * mean_s / (rows * instances), row_rate * cpu_s * 1000 / millicores)
        cheapest = int(np.argmin(mean / rows)) + 1
        spread = (((upper / mean - 1) / sigmas) ** 2).tolist()
        limits = batches[: next((i for i, b in enumerate(batches) if b >= cheapest), len(batches) - 1) + 1]
        for (quota, slots, _), means, uppers, loads in zip(
            same, mean_s.tolist(), upper_s.tolist(), load.tolist(), strict=True
        ):
            shape = Shape(quota, slots, threads, [0.0, *uppers])
            enough = next((k for k in sizes if loads[k - 1] <= max_utilisation), longest + 1)
            for batch in limits:
                limit = max(batch, request_rows)
                k = enough
                if enough > limit:
                    k = request_rows + _least(loads[request_rows - 1 : limit])
                served = demand.rate * min(1.0, max_utilisation / max(loads[k - 1], 1e-9))
                found.append(
                    Operation(
                        shape=shape,
                        batch=batch,
                        rows=k,
                        load=loads[k - 1],
                        served=served,
                        shed=demand.rate - served,
                        mean_s=means[k - 1],
                        spread=spread[k - 1],
                        request_rows=request_rows,
                    )
                )
    return found


def _least(values: Sequence[float]) -> int:
    """Index of the first of the least."""
    return min(range(len(values)), key=values.__getitem__)


def late(
    demand: DemandEstimate, candidates: Sequence[Operation], backlog_rows: int = 0, horizon_s: float = 1.0
) -> list[float]:
    """Requests per second that arrive to miss their deadline, for each operation, `horizon_s` from now.

    That is when the next plan can mend what this one has let happen: a queue that takes longer to build up
    does no harm. With slack = budget − ℓ, ℓ the upper quantile, and n slots loaded to ρ, a request misses if

    - its slack is negative;
    - or all slots are busy, P = C = ρ^(√(2(n+1)) − 1), with executions of which not even the first to end
      does so within the slack: (1 − slack/ℓ̄)ⁿ, their ages being uniform. C is Sakasegawa's approximation
      ("An approximation formula L_q ≃ α·ρ^β/(1 − ρ)", Ann. Inst. Stat. Math. 29, 1977);
    - or so much waits that even the best order does not save all, whichever is likelier. Earliest deadline
      first misses nothing until work exceeds the *mean* slack (Doytchinov, Lehoczky and Shreve, "Real-time
      queues in heavy traffic with earliest-deadline-first queue discipline", Ann. Appl. Probab. 11, 2001):
      that of all requests, or that of the most urgent among them, wherever one draws the line.

    The wait of those who wait is a Brownian motion from today's backlog x, with drift μ = ρ − 1 and variance
    σ² = ℓ̄·(c_a² + c_s²)/n, regulated at zero (Harrison, "Brownian Motion and Stochastic Flow Systems", 1985,
    §1.8): P(W_t > y) = Φ((x + μt − y)/σ√t) + C·exp(2μy/σ²)·Φ((−x − μt − y)/σ√t), where C, 1 in his, leaves out
    those who find an idle slot. In the long run that is Hopp and Spearman's mean wait ("Factory Physics",
    ch. 8) and an exponential tail. What is not known of the rate adds to σ².

    Executions of g requests each arrive with c_a²/g of the requests' c_a². Nobody waits for a batch to fill.
    Budgets that no configuration can meet count for none.
    """
    if not demand.budgets:
        return [0.0] * len(candidates)
    budgets, shares = (np.array(column) for column in zip(*demand.budgets, strict=True))
    fastest = min(candidate.shape.upper_s[candidate.request_rows] for candidate in candidates)
    feasible = budgets >= fastest
    budgets, shares = budgets[feasible], shares[feasible]
    if not budgets.size:
        return [0.0] * len(candidates)

    def column(values: Iterable[float]) -> NDArray[np.float64]:
        return np.fromiter(values, float, len(candidates))[:, None]

    slots = column(o.shape.instances for o in candidates)
    rows = column(o.rows for o in candidates)
    upper = column(o.shape.upper_s[o.rows] for o in candidates)
    mean = column(o.mean_s for o in candidates)
    load = column(o.load for o in candidates)
    variation = demand.dispersion * demand.rows_per_request / rows + column(o.spread for o in candidates)
    slack = budgets - upper
    hopeless = np.where(slack < 0, shares, 0.0)
    living = shares - hopeless
    slack = np.maximum(slack, 0.0)
    exponent = np.sqrt(2 * (slots + 1)) - 1
    all_busy = np.minimum(load, 1.0) ** exponent
    blocked = all_busy * np.maximum(1 - slack / mean, 0.0) ** slots * living

    # The most urgent, in all cuts of the demand; those too late anyway are in nobody's way.
    part = np.cumsum(living, axis=1)
    mean_slack = np.cumsum(living * slack, axis=1) / np.maximum(part, 1e-12)
    rho = load * part
    drift = rho - 1
    doubt = rho * demand.rate_error / max(demand.rate, 1e-9)
    variance = np.maximum(mean * variation / slots + doubt**2 * horizon_s, 1e-12)
    backlog = part * backlog_rows * mean / (rows * slots)
    deviation = np.sqrt(variance * horizon_s)
    straight = ndtr((backlog + drift * horizon_s - mean_slack) / deviation)
    regulated = np.exp(
        2 * drift * mean_slack / variance + log_ndtr((-backlog - drift * horizon_s - mean_slack) / deviation)
    )
    waits = np.minimum(straight + np.minimum(rho, 1.0) ** exponent * regulated, 1.0)
    overtaken = np.max(part * waits, axis=1)
    share = hopeless.sum(axis=1) + np.maximum(blocked.sum(axis=1), overtaken)
    served = np.fromiter((o.served for o in candidates), float, len(candidates))
    return list((served * share).tolist())


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits, in deadline order, and what it waits for."""

    remaining_s: Sequence[float]
    rows: Sequence[int]
    running: Sequence[tuple[float, int]]

    @classmethod
    def of(cls, service: ServiceState) -> Self:
        """Give the queue of `service`."""
        remaining, rows = zip(*service.queue, strict=True) if service.queue else ((), ())
        return cls(remaining, rows, service.running)

    def misses(self, shape: Shape, batch: int) -> float:
        """Requests that miss their deadlines if nothing else arrives."""
        if not self.rows:
            return 0.0
        upper = shape.upper_s
        free_at = []
        for elapsed, rows in self.running:
            predicted = upper[min(rows, len(upper) - 1)]
            free_at.append(max(predicted - elapsed, RESIDUAL_SHARE * predicted))
        # Of more executions than slots the first to end free none.
        free_at = sorted(free_at)[max(0, len(free_at) - shape.instances) :]
        free_at += [0.0] * (shape.instances - len(free_at))
        alike = [1.0] * len(self.rows)
        return edf.missed(free_at, self.rows, self.remaining_s, alike, upper, batch)
