"""What Sponge's planner is measured against on real workers: the paper's rule, and a threshold of CPU use. Pure.

Each is a `controlplane.planner.Planner`: told of the same workers, models and demand, and carried out by the same
governor, resizing rule and actuators. Quotas come in the planner's steps and with its head-room, since of the whole
cores of the originals a small host has too few to choose from.
"""

import math
from collections.abc import Sequence

from controlplane.allocation import Allocation
from controlplane.config import Governor, Planner
from controlplane.knapsack import SolverStatus
from controlplane.planner import Assignment, Bound, Plan, Reasons, ServiceState
from controlplane.shape import HEAD_ROOM_MILLICORES, STEP_MILLICORES, ladder, shapes
from controlplane.stretch import walls_of

TARGET = 0.8
# The authors' code keeps the rest of the SLO back.
_SLO_SHARE = 0.9
# Requests of a second are served within the second: the paper's period, and its SLO.
_PERIOD_S = 1.0


def governor(name: str) -> Governor:
    """When a plan of the policy `name` is put in force: the paper's at once, others' as Sponge's."""
    return Governor(shrink_hold_s=0.0, dead_band_millicores=0) if name.startswith("paper") else Governor()


class Paper:
    """Fewest cores c, then the smallest batch b, with ⌈λ/b⌉·ℓ(b, c) ≤ 0.9·SLO − cl_max.

    Razavi et al., "Sponge: Inference Serving with Dynamic SLOs Using In-Place Vertical Scaling", EuroMLSys 2024,
    section 3: one execution at a time on c cores, the largest allocation where nothing is feasible. With
    `instances`, on n executions of one thread: ⌈⌈λ/b⌉/n⌉·ℓ(b, 1).

    λ is the rate that our planner believes in (the authors take it from their configuration), ℓ the 95 % quantile
    of its latency model under the quota, and SLO − cl_max the shortest budget on arrival of late. In its favour:
    budgets that no allocation can meet are left out, and a service whose SLO is below a second is held to the
    arrivals of one SLO: with those of a second nothing would ever be feasible.
    """

    def __init__(self, *, instances: bool = False) -> None:
        self._instances = instances

    def __call__(
        self,
        services: Sequence[ServiceState],
        host_millicores: int,
        _host_memory: int,
        _settings: Planner,
        /,
    ) -> Plan:
        wanted, bounds = [], []
        for service in services:
            found = self._smallest(service, host_millicores)
            wanted.append(found or self._largest(service, host_millicores))
            bounds.append(Bound.BUDGET if found else Bound.HOST)
        return _within(services, wanted, bounds, host_millicores)

    def _smallest(self, service: ServiceState, host_millicores: int) -> Allocation | None:
        """None if nothing is feasible."""
        allowed = self._allowed(service, host_millicores)
        fastest_s = min(_latency_s(service, *shape, 1) for shape in allowed)
        budgets = [budget_s for budget_s, _ in service.demand.budgets]
        within_s = _SLO_SHARE * min((b for b in budgets if b >= fastest_s), default=_PERIOD_S)
        burst = service.demand.rate * min(_PERIOD_S, max(budgets, default=_PERIOD_S))
        for millicores, instances, threads in allowed:
            for batch in range(1, service.limits.max_batch + 1):
                rounds = math.ceil(math.ceil(burst / batch) / instances)
                if rounds * _latency_s(service, millicores, instances, threads, batch) <= within_s:
                    return Allocation(millicores, instances, threads, batch)
        return None

    def _largest(self, service: ServiceState, host_millicores: int) -> Allocation:
        *_, (millicores, instances, threads) = self._allowed(service, host_millicores)
        return Allocation(millicores, instances, threads, service.limits.max_batch)

    def _allowed(self, service: ServiceState, host_millicores: int) -> list[tuple[int, int, int]]:
        """(millicores, instances, threads), fewest first."""
        found = shapes(service.limits, host_millicores)
        one_thread = [shape for shape in found if shape[2 if self._instances else 1] == 1]
        return sorted(one_thread or found)


class Usage:
    """CPU := CPU used / target, with as many instances of one thread as fit.

    The formula of Kubernetes' autoscalers ("Algorithm details" of the Horizontal Pod Autoscaler) on the quota, at
    Sponge's interval and with its governor: growth at once, a shrink to the largest of the last seconds. Batches
    only where they save a tenth of the CPU.
    """

    def __init__(self, target: float = TARGET) -> None:
        self._target = target

    def __call__(
        self,
        services: Sequence[ServiceState],
        host_millicores: int,
        _host_memory: int,
        _settings: Planner,
        /,
    ) -> Plan:
        wanted = [self._wanted(service, host_millicores) for service in services]
        return _within(services, wanted, [Bound.THROUGHPUT] * len(wanted), host_millicores)

    def _wanted(self, service: ServiceState, host_millicores: int) -> Allocation:
        limits = service.limits
        # Rounded first: what is used is a difference of counters, and a hair more is not a step more.
        steps = math.ceil(round(1000 * service.cores_used / self._target / STEP_MILLICORES, 3))
        most = min(limits.max_millicores, host_millicores)
        millicores = min(max(limits.min_millicores, steps * STEP_MILLICORES), most)
        return Allocation(millicores, _fitting(millicores, limits.max_instances), 1, _cheapest(service))


def _latency_s(service: ServiceState, millicores: int, instances: int, threads: int, rows: int) -> float:
    """95 % quantile of an execution under a quota, all slots busy."""
    most = service.limits.max_batch
    _, upper_s = walls_of(service.latency, most, millicores, instances, threads, service.period_s)
    return float(upper_s[rows - 1])


def _fitting(millicores: int, most: int) -> int:
    """Threads that a quota lets run, beside its head-room."""
    return min(most, max(1, -(-(millicores - HEAD_ROOM_MILLICORES) // 1000)))


def _cheapest(service: ServiceState) -> int:
    """The smallest batch whose time per row on one thread is within a tenth of the least."""
    mean = service.latency.table(1, service.limits.max_batch).mean
    per_row = {rows: mean[rows] / rows for rows in ladder(service.limits.max_batch)}
    return next(rows for rows, each in per_row.items() if each <= 1.1 * min(per_row.values()))


def _within(
    services: Sequence[ServiceState],
    wanted: Sequence[Allocation],
    bounds: Sequence[Bound],
    host_millicores: int,
) -> Plan:
    """Cut down to the host: everybody the floor, and of the rest in proportion to what is wanted beyond."""
    total = sum(configuration.cpu_millicores for configuration in wanted)
    full = total > host_millicores
    floors = [min(s.limits.min_millicores, w.cpu_millicores) for s, w in zip(services, wanted, strict=True)]
    spare, beyond = max(0, host_millicores - sum(floors)), total - sum(floors)
    assignments = []
    for service, configuration, floor, bound in zip(services, wanted, floors, bounds, strict=True):
        millicores = configuration.cpu_millicores
        if full and beyond:
            millicores = floor + (millicores - floor) * spare // beyond // STEP_MILLICORES * STEP_MILLICORES
        fitting = _fitting(millicores, configuration.instances * configuration.threads)
        cut = Allocation(
            millicores,
            min(configuration.instances, fitting),
            min(configuration.threads, 1 << (fitting.bit_length() - 1)),
            configuration.max_batch,
        )
        used = service.cores_used * 1000 / millicores
        assignments.append(Assignment(cut, Reasons(0.0, used, Bound.HOST if full else bound, None)))
    return Plan(tuple(assignments), full, SolverStatus.FEASIBLE, 1.0)
