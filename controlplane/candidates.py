"""Every configuration a service may have, priced, and those of them that no other beats."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from controlplane import config
from controlplane.allocation import Allocation
from controlplane.curve import Floats, Integers
from controlplane.lateness import late
from controlplane.operation import Operations, Queue, ServiceState, operations
from controlplane.shape import MEMORY_STEP_BYTES
from core import edf

# Of the mean time of one row on one thread: who arrives with less is tight.
_TIGHT_FACTOR = 1.5
_ROUNDING = 1e-9  # more than sums and products of a few floats are off by


@dataclass(frozen=True, slots=True)
class Option:
    """A configuration with its cost in millicores, and the misses per second it is made of."""

    configuration: Allocation
    cost: float
    utilisation: float
    shed: float
    late: float
    queued: float = 0.0
    rows: int = 1  # that executions grow to

    @property
    def misses(self) -> float:
        return self.shed + self.late + self.queued


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """All configurations that a service may have, one entry of every array for each; positions are in those.

    `costs` are all but what the queue adds: that takes a check of each, which most are spared. Of the queue only
    what is missed beyond `lost`, which even the largest would miss, counts. `order` is by rising CPU, then cost.
    """

    found: Operations
    millicores: Integers
    instances: Integers
    threads: Integers
    memory: Integers
    shape: Integers
    costs: Floats
    order: Integers
    late_rates: Floats  # of each operation
    check: Callable[[int], edf.Check]
    lost: float
    miss_cost: float  # in millicores, of one a second
    current: int | None  # position of the configuration that is in force

    def priced(self, position: int) -> Option:
        """A configuration, its queue checked."""
        missed = self.check(int(self.shape[position])).missed(int(self.found.batch[position]))
        return self.option(position, max(0.0, missed - self.lost))

    def option(self, position: int, queued: float) -> Option:
        """A configuration that misses `queued` of the queue."""
        configuration = Allocation(
            int(self.millicores[position]),
            int(self.instances[position]),
            int(self.threads[position]),
            int(self.found.batch[position]),
            int(self.memory[position]),
        )
        of = self.found.of[position]
        load, shed, late_rate = (
            float(column[of]) for column in (self.found.load, self.found.shed, self.late_rates)
        )
        cost = float(self.costs[position]) + self.miss_cost * queued
        rows = int(self.found.rows[of])
        return Option(configuration, cost, load, shed, late_rate, queued, rows)


def candidates(service: ServiceState, host_millicores: int, settings: config.Planner) -> Candidates:
    """Price all configurations, but for what the queue adds."""
    found = operations(
        service, host_millicores, settings.max_utilisation, settings.saturated, settings.unserved
    )
    # Of a rare request a miss is a larger share: what counts is attainment, not whose requests are many.
    demand = service.planned_demand
    miss_cost = settings.miss_cost_millicores * service.weight / max(demand.rate, 1.0)
    tight_s = _TIGHT_FACTOR * service.latency.mean(1, 1)

    def worth(budget_s: float) -> float:
        return settings.tight_weight if budget_s < tight_s else 1.0

    backlog_rows = sum(waiting.rows for waiting in service.queue)
    late_rates = late(demand, found, backlog_rows, settings.interval_s, worth)
    found, memory = _within_memory(service, found)
    of, batches, shapes = found.of, found.batch, found.shapes
    shape = found.shape[of]
    millicores, instances, threads = shapes.millicores[shape], shapes.instances[shape], shapes.threads[shape]
    stays = np.zeros(len(of), dtype=bool)
    if service.current is not None:
        stays = found.places(service.current)
    costs = millicores + settings.batch_cost_millicores * batches
    costs = costs + np.where(stays, 0.0, settings.switch_cost_millicores)
    costs += miss_cost * (found.shed + late_rates)[of]  # all but what the queue adds
    order = np.lexsort((threads, costs, millicores))
    check = Queue.of(service, worth).checks(shapes)
    # What even the largest would miss is not held against the others.
    lost = math.inf
    for index in order[millicores[order] == millicores.max()].tolist():
        lost = min(lost, check(int(shape[index])).missed(int(batches[index]), lost))
    return Candidates(
        found=found,
        millicores=millicores,
        instances=instances,
        threads=threads,
        memory=memory,
        shape=shape,
        costs=costs,
        order=order,
        late_rates=late_rates,
        check=check,
        lost=lost,
        miss_cost=miss_cost,
        current=int(stays.argmax()) if stays.any() else None,
    )


def _within_memory(service: ServiceState, found: Operations) -> tuple[Operations, Integers]:
    """The configurations that need no more memory than the service may have, and the limit of each, in whole steps.

    What is in use holds what the rows so far took: while that fits, as many rows at once as now do. Where each needs
    more than there may be, those that need least, with as much as that.
    """
    step, most = MEMORY_STEP_BYTES, service.limits.max_memory_bytes
    rows = found.shapes.instances[found.shape[found.of]] * found.batch
    needed = service.memory_base_bytes + service.memory_per_row_bytes * rows
    if most is not None:
        allowed = needed <= max(most // step * step, needed.min())
        if service.current is not None and service.memory_base_bytes <= most:
            allowed |= rows <= service.current.instances * service.current.max_batch
        found, needed = replace(found, of=found.of[allowed], batch=found.batch[allowed]), needed[allowed]
    memory = -(-np.maximum(needed, service.memory_peak_bytes) // step) * step
    return found, memory if most is None else np.minimum(memory, most // step * step)


def menu(of: Candidates) -> tuple[list[Option], float | None]:
    """All configurations that no other beats in CPU, memory and cost at once, by rising CPU.

    And what the current one would miss, if it is still one of them all.
    """
    found: list[Option] = []
    frontier = _Frontier()
    check, lost, miss_cost, order = of.check, of.lost, of.miss_cost, of.order
    columns = order, of.costs[order], of.memory[order], of.shape[order], of.found.batch[order]
    for index, cost, needed, place, batch in zip(*(column.tolist() for column in columns), strict=True):
        beaten_at = frontier.least(needed)
        if cost >= beaten_at:  # even if it missed nothing of the queue: spares most of the checks
            continue
        enough = (lost + (beaten_at - cost) / miss_cost) * (1 + _ROUNDING)
        queued = max(0.0, check(place).missed(batch, enough) - lost)
        cost += miss_cost * queued
        if cost >= beaten_at:
            continue
        frontier.add(cost, needed)
        found.append(of.option(index, queued))
    if of.current is None:
        return found, None
    return found, of.priced(of.current).misses


class _Frontier:
    """The least cost within so much memory, of what was added."""

    def __init__(self) -> None:
        self._memory: list[int] = []  # rising
        self._cost: list[float] = []  # falling

    def least(self, memory_bytes: int) -> float:
        """Infinite where nothing is as small."""
        index = bisect_right(self._memory, memory_bytes)
        return self._cost[index - 1] if index else math.inf

    def add(self, cost: float, memory_bytes: int) -> None:
        """Add what costs less than all that is as small."""
        first = last = bisect_left(self._memory, memory_bytes)
        while last < len(self._cost) and self._cost[last] >= cost:
            last += 1
        self._memory[first:last] = [memory_bytes]
        self._cost[first:last] = [cost]
