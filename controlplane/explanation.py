"""Why a worker has what it has: what bound the newest plan, and what the next smaller and larger were worth.

Nothing of it is worked out before somebody asks: a round keeps what the planner was given, and the planner's own
candidates are priced again from that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from controlplane import config
from controlplane.allocation import Allocation
from controlplane.planner import (
    Bound,
    Candidates,
    Option,
    Plan,
    ServiceState,
    candidates,
)
from controlplane.state import Worker

# More than any host has: with it nothing but its slots limits a worker.
_ANY_MILLICORES = 10_000_000


@dataclass(frozen=True, slots=True)
class Round:
    """One plan and all that it was made of; `plan` and `services` have an entry for each of the workers."""

    at: float  # seconds on the control plane's monotonic clock
    workers: tuple[Worker, ...]
    services: tuple[ServiceState, ...]
    host_millicores: int  # for these workers together
    host_memory: int  # bytes, likewise
    settings: config.Planner
    plan: Plan
    # By service, millicores and bytes that its workers keep that are not planned: what is said above is without them.
    kept: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def index(self, worker: Worker) -> int | None:
        """Where `worker` stands in it; None of one that it left out, or that has come again since."""
        return next((index for index, each in enumerate(self.workers) if each is worker), None)


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """What an execution takes, as large as the demand makes it, under the quota and with all slots busy; seconds."""

    rows: int
    threads: int
    mean_s: float
    upper_s: float
    trust: float  # share of it that executions of just these rows and threads tell, the curve the rest


@dataclass(frozen=True, slots=True)
class Misses:
    """The planner's misses per second, by what they come of."""

    throughput: float = 0.0
    queue: float = 0.0
    budget: float = 0.0

    @property
    def total(self) -> float:
        return self.throughput + self.queue + self.budget


@dataclass(frozen=True, slots=True)
class Cost:
    """What the planner compares, in millicores: CPU, batch limit, change of shape, and misses at their price."""

    cpu: float
    batch: float
    change: float
    misses: float

    @property
    def total(self) -> float:
        return self.cpu + self.batch + self.change + self.misses


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A candidate that was not chosen; `misses` and `cost` are its own less those of the one that was."""

    configuration: Allocation
    utilisation: float
    service_time: ServiceTime
    misses: Misses
    cost: Cost


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a configuration was chosen. Of another planner's, which is not among the candidates, little is known.

    `smaller` and `larger` are, of all with less and with more CPU, those that cost least. Smaller ones count if there
    is memory for them. A larger one that a ceiling or the host keeps out is told with the misses it would have saved.
    """

    configuration: Allocation
    bound: Bound
    utilisation: float
    candidates: int = 0
    misses: Misses | None = None
    lost: float = (
        0.0  # misses of the queue that nothing which is allowed would save, and that count for nothing
    )
    service_time: ServiceTime | None = None
    smaller: Neighbour | None = None
    larger: Neighbour | None = None


def explain(of: Round, index: int) -> Explanation:
    """Explain what the worker at `index` was given; as long as planning for it alone."""
    service, assignment = of.services[index], of.plan.assignments[index]
    configuration, reasons = assignment.configuration, assignment.reasons
    table = candidates(service, of.host_millicores, of.settings)
    position = _position(table, configuration)
    if position is None:
        return Explanation(configuration, reasons.bound, reasons.utilisation)
    chosen = table.priced(position)
    cpu = configuration.cpu_millicores
    taken = sum(each.configuration.memory_bytes for each in of.plan.assignments) - configuration.memory_bytes
    room = max(of.host_memory - taken, configuration.memory_bytes)
    smaller = _best(table, (table.millicores < cpu) & (table.memory <= room))
    beyond = _best(table, table.millicores > cpu)
    larger = None if beyond is None else _neighbour(of, service, table, beyond, chosen)
    bound = reasons.bound
    if beyond is None and bound is not Bound.HOST:
        bound, larger = _limit(of, service, chosen) or (bound, None)
    return Explanation(
        configuration=configuration,
        bound=bound,
        utilisation=chosen.utilisation,
        candidates=len(table.costs),
        misses=Misses(chosen.shed, chosen.queued, chosen.late),
        lost=table.lost,
        service_time=_service_time(service, table, configuration),
        smaller=None if smaller is None else _neighbour(of, service, table, smaller, chosen),
        larger=larger,
    )


def _limit(of: Round, service: ServiceState, chosen: Option) -> tuple[Bound, Neighbour | None] | None:
    """What keeps the largest of a service from being larger, and what that would be; None if nothing does.

    The planner is asked what it would choose without the limit that is met first: the ceiling, or the host.
    """
    limits, host = service.limits, of.host_millicores
    met, more = (Bound.CEILING, host) if limits.max_millicores < host else (Bound.HOST, _ANY_MILLICORES)
    freed = replace(service, limits=replace(limits, max_millicores=more))
    table = candidates(freed, more, of.settings)
    larger = table.millicores > chosen.configuration.cpu_millicores
    beyond = _best(table, larger)
    if beyond is None:  # its instances and threads could use no more
        return (Bound.CEILING, None) if chosen.shed > 0 else None
    # Among these candidates: which budgets and what of the queue can be met depends on what is allowed.
    within = _best(table, ~larger) or chosen
    return (met, _neighbour(of, freed, table, beyond, within)) if beyond.cost < within.cost else None


def _best(table: Candidates, among: NDArray[np.bool_]) -> Option | None:
    """The one of the marked that costs least, and of equals the one with the least CPU; None of none."""
    marked = np.flatnonzero(among)
    best: Option | None = None
    for position in marked[np.lexsort((table.millicores[marked], table.costs[marked]))].tolist():
        if best is not None and table.costs[position] >= best.cost:
            break  # even if it missed nothing of the queue
        option = table.priced(position)
        if best is None or option.cost < best.cost:
            best = option
    return best


def _position(table: Candidates, of: Allocation) -> int | None:
    """Where a configuration stands; None if it is no candidate."""
    slots = (table.instances == of.instances) & (table.threads == of.threads)
    found = np.flatnonzero(
        slots & (table.millicores == of.cpu_millicores) & (table.found.batch == of.max_batch)
    )
    return int(found[0]) if found.size else None


def _neighbour(
    of: Round, service: ServiceState, table: Candidates, option: Option, chosen: Option
) -> Neighbour:
    one, other = option.configuration, chosen.configuration
    cpu = float(one.cpu_millicores - other.cpu_millicores)
    batch = of.settings.batch_cost_millicores * (one.max_batch - other.max_batch)
    misses = table.miss_cost * (option.misses - chosen.misses)
    # A change costs as much whatever it is of: what is left is that of one of the two, or nothing.
    change = option.cost - chosen.cost - cpu - batch - misses
    return Neighbour(
        configuration=option.configuration,
        utilisation=option.utilisation,
        service_time=_service_time(service, table, option.configuration),
        misses=Misses(option.shed - chosen.shed, option.queued - chosen.queued, option.late - chosen.late),
        cost=Cost(cpu, batch, change, misses),
    )


def _service_time(service: ServiceState, table: Candidates, of: Allocation) -> ServiceTime:
    position = _position(table, of)
    assert position is not None  # as of all that is an option
    found = table.found
    operation = found.of[position]
    rows = int(found.rows[operation])
    return ServiceTime(
        rows=rows,
        threads=of.threads,
        mean_s=float(found.mean_s[operation]),
        upper_s=float(found.shapes.upper_s[table.shape[position], rows - 1]),
        trust=service.latency.trust(rows, of.threads),
    )
