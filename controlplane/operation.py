"""How a worker would run under each configuration it may have: its load, and what becomes of its queue."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from controlplane.allocation import Allocation
from controlplane.curve import Floats, Integers
from controlplane.demand import DemandEstimate
from controlplane.latency import LatencyModel
from controlplane.shape import Limits, ladder, shapes
from controlplane.stretch import walls
from core import edf

RESIDUAL_SHARE = 0.1  # of its time an execution is expected to take on, however overdue


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in the queue; seconds until its deadline, now and when it was queued."""

    remaining_s: float
    rows: int = 1
    budget_s: float = math.inf


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One worker as the planner sees it; durations in seconds."""

    name: str
    latency: LatencyModel  # a snapshot, where samples arrive while another thread plans
    demand: DemandEstimate
    limits: Limits = field(default_factory=Limits)
    queue: Sequence[Waiting] = ()  # in deadline order
    running: Sequence[tuple[float, int]] = ()  # (elapsed time, rows) of what is executing
    current: Allocation | None = None
    weight: float = 1.0
    reserve: float = 0.0  # share of the demand that is planned for beyond it
    request_overhead_s: float = 0.0015  # CPU of a request outside the model
    period_s: float = 0.02  # of the CPU quota
    cores_used: float = 0.0  # in the mean over the last second
    memory_base_bytes: int = 0
    memory_per_row_bytes: int = 0  # of every row in execution
    memory_peak_bytes: int = 0  # seen so far: never planned below
    slower: float = 1.0  # what work takes of late, over what the model believes in the mean
    wider: float = 1.0  # and over its upper estimate
    on_time: float = 0.0  # share of what has finished of late

    @property
    def planned_demand(self) -> DemandEstimate:
        """What is believed to arrive, and the reserve."""
        if not self.reserve:
            return self.demand
        more = 1 + self.reserve
        return replace(self.demand, rate=more * self.demand.rate, rate_error=more * self.demand.rate_error)

    def saturated(self, share: float) -> bool:
        """Whether something waits while so much of the CPU is used, or more."""
        if not self.queue or self.current is None:
            return False
        current = self.current
        most = min(current.cpu_millicores / 1000, current.instances * current.threads)
        return self.cores_used >= share * most


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """Slots under quotas, one entry of every array for each."""

    millicores: Integers
    instances: Integers
    threads: Integers
    upper_s: Floats  # [shape, rows - 1]: wall time, upper quantile, all slots busy


@dataclass(frozen=True, slots=True, eq=False)
class Operations:
    """How a worker would run under the demand: arrays, since of each plan there are hundreds of entries.

    One entry for each shape and number of rows that executions grow to in it. Batch limits under which they grow
    alike share it: each configuration has its operation in `of`, the position of an entry, and its limit in `batch`.
    """

    shapes: Shapes
    shape: Integers  # position among those
    rows: Integers  # of an execution, as many as the demand makes necessary
    load: Floats
    served: Floats  # requests per second
    shed: Floats
    mean_s: Floats  # wall time of such an execution
    spread: Floats  # squared coefficient of variation of that
    request_rows: int
    of: Integers
    batch: Integers

    @property
    def least_s(self) -> float:
        """Wall time of one request where it is shortest, upper quantile: no budget below that can be met."""
        return float(self.shapes.upper_s[:, self.request_rows - 1].min())

    def places(self, configuration: Allocation) -> NDArray[np.bool_]:
        """Tell which of the configurations this one is, but for its memory: one at most."""
        shape = self.shape[self.of]
        quadruples = np.stack(
            [
                self.shapes.millicores[shape],
                self.shapes.instances[shape],
                self.shapes.threads[shape],
                self.batch,
            ],
            axis=1,
        )
        sought = (
            configuration.cpu_millicores,
            configuration.instances,
            configuration.threads,
            configuration.max_batch,
        )
        found: NDArray[np.bool_] = (quadruples == sought).all(axis=1)
        return found


def operations(
    service: ServiceState,
    host_millicores: int,
    max_utilisation: float,
    saturated: float = 0.95,
    unserved: float = 1.1,
) -> Operations:
    """All configurations, but for batch limits beyond the rows that are cheapest each.

    Executions of k rows load n slots to λ·ℓ(k)/(k·n), with λ in rows per second and ℓ the mean under the
    quota beside n − 1 others; and they load the quota to λ·(CPU per row + overhead per row). The smallest k
    within the batch limit that keeps the higher of both within `max_utilisation`, with λ a standard deviation
    of its estimate higher, and `unserved` times that where the worker is `saturated`, is what batches grow to,
    else the k that loads least; k is the rows of whole requests. Arrivals beyond that utilisation are shed.
    """
    demand, model = service.planned_demand, service.latency
    request_rows = max(1, math.ceil(demand.rows_per_request - 1e-9))
    row_rate = demand.rate * demand.rows_per_request
    most = max_utilisation / (1 + demand.rate_error / max(demand.rate, 1e-9))
    if service.saturated(saturated):
        most /= unserved
    overhead_s = service.request_overhead_s / demand.rows_per_request
    longest = max(service.limits.max_batch, request_rows)
    rows = np.arange(1.0, longest + 1)
    # No two requests of 4 rows are an execution of 6, however cheap a row of that would be.
    requests = np.maximum(1.0, np.floor(rows / demand.rows_per_request + 1e-9))
    whole = rows == np.ceil(requests * demand.rows_per_request - 1e-9)
    millicores, instances, threads = _columns(service.limits, host_millicores)
    grid = model.grid(service.limits.max_threads, longest)
    drift = service.slower, service.wider
    mean_s, upper_s = walls(model, grid, millicores, instances, threads, service.period_s, *drift)
    means, uppers = grid[0] * service.slower, grid[1] * service.wider
    mean, upper = (work[threads[:, 0] - 1] for work in (means, uppers))
    # Threads divide the work and add none, but for what they wait for each other.
    cpu_s = np.minimum(means[0], threads * mean) * (1 + model.kappa * (instances - 1)) / rows + overhead_s
    load = np.maximum(row_rate * mean_s / (rows * instances), row_rate * cpu_s * 1000 / millicores)
    load = np.where(whole, load, np.inf)
    sigmas = NormalDist().inv_cdf(model.quantile)  # from the mean to the upper quantile
    spread = ((upper / mean - 1) / sigmas) ** 2

    batches = np.array(ladder(service.limits.max_batch))
    cheapest = np.argmin(np.where(whole, mean / rows, np.inf), axis=1) + 1
    useful = np.arange(len(batches)) <= np.searchsorted(batches, cheapest)[:, None]
    chosen = _rows(load, request_rows, np.maximum(batches, request_rows), most)
    # Rows rise with the limit: limits of the same rows are neighbours.
    begins = (np.diff(chosen, axis=1, prepend=0) > 0)[useful]
    shape, limit = np.nonzero(useful)
    of = np.cumsum(begins) - 1
    grown = chosen[useful][begins]
    at = shape[begins], grown - 1
    served = demand.rate * np.minimum(1.0, most / np.maximum(load[at], 1e-9))
    return Operations(
        shapes=Shapes(millicores[:, 0], instances[:, 0], threads[:, 0], upper_s),
        shape=shape[begins],
        rows=grown,
        load=load[at],
        served=served,
        shed=demand.rate - served,
        mean_s=mean_s[at],
        spread=spread[at],
        request_rows=request_rows,
        of=of,
        batch=batches[limit],
    )


@functools.lru_cache
def _columns(limits: Limits, host_millicores: int) -> Integers:
    """Give `shapes` as columns of millicores, instances and threads."""
    return np.array(shapes(limits, host_millicores)).T[:, :, None]


def _rows(load: Floats, request_rows: int, limits: Integers, most: float) -> Integers:
    """Rows of an execution [shape, limit], with the `load` [shape, rows - 1] of those."""
    load = load[:, request_rows - 1 :]
    within = load <= most
    enough = np.where(within.any(axis=1), within.argmax(axis=1), load.shape[1])[:, None]
    falls = np.diff(np.minimum.accumulate(load, axis=1), axis=1, prepend=np.inf) < 0
    least = np.maximum.accumulate(np.where(falls, np.arange(load.shape[1]), 0), axis=1)
    last = limits - request_rows
    return request_rows + np.where(enough <= last, enough, least[:, last])


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits, in deadline order, and what it waits for."""

    remaining_s: Sequence[float]
    rows: Sequence[int]
    weights: Sequence[float]
    running: Sequence[tuple[float, int]]

    @classmethod
    def of(cls, service: ServiceState, worth: Callable[[float], float]) -> Self:
        """Give the queue of `service`, of which a miss weighs what its budget was `worth`."""
        waiting = service.queue
        return cls(
            [w.remaining_s for w in waiting],
            [w.rows for w in waiting],
            [worth(w.budget_s) for w in waiting],
            service.running,
        )

    def checks(self, shapes: Shapes) -> Callable[[int], edf.Check]:
        """Give what tells the weight of those that miss their deadlines in the shape at a position, by batch limit."""
        elapsed, rows = np.array(self.running, dtype=float).reshape(-1, 2).T
        predicted = shapes.upper_s[:, np.minimum(rows, shapes.upper_s.shape[1]).astype(int) - 1]
        free_at = np.sort(np.maximum(predicted - elapsed, RESIDUAL_SHARE * predicted), axis=1).tolist()
        instances = shapes.instances.tolist()

        @functools.cache
        def check(shape: int) -> edf.Check:
            # Of more executions than slots the first to end free none.
            busy = free_at[shape][max(0, len(rows) - instances[shape]) :]
            slots = busy + [0.0] * (instances[shape] - len(busy))
            upper_s = [0.0, *shapes.upper_s[shape].tolist()]
            return edf.Check(slots, self.rows, self.remaining_s, self.weights, upper_s)

        return check
