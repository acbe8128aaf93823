"""How services that are only described would fare on a host: the planner's own answer, and how many more would fit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from controlplane import config
from controlplane.allocation import Allocation
from controlplane.knapsack import SolverStatus
from controlplane.lateness import late
from controlplane.operation import ServiceState, operations
from controlplane.planner import Assignment, Bound, plan


@dataclass(frozen=True, slots=True)
class Host:
    """What there is to give. Without `memory_bytes` services must need none: memory is not planned."""

    millicores: int
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Prospect:
    """How one service would fare: requests per second, seconds of wall time."""

    name: str
    configuration: Allocation
    bound: Bound
    utilisation: float  # share of the slots or of the quota, whichever is higher; above 1: overload
    rate: float
    batch_rows: int  # of an execution, as many as the demand makes necessary
    mean_s: float  # of such an execution with all slots busy
    upper_s: float  # the same, upper quantile
    misses: float  # all of them; the planner's own number counts tight requests less, and hopeless ones not at all
    hopeless: float  # of those, the ones whose budget no configuration could meet

    @property
    def miss_share(self) -> float:
        """Of the requests; 0 where none arrive."""
        return self.misses / self.rate if self.rate > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """How all of them would, in the order given."""

    host: Host
    prospects: tuple[Prospect, ...]
    crowded: bool  # some service would have got more alone
    status: SolverStatus
    gap: float  # see planner.Plan

    @property
    def left_millicores(self) -> int:
        """Below 0 where not even the floors fit."""
        return self.host.millicores - sum(p.configuration.cpu_millicores for p in self.prospects)

    @property
    def left_memory_bytes(self) -> int:
        """Below 0 where not even the least fits."""
        return self.host.memory_bytes - sum(p.configuration.memory_bytes for p in self.prospects)

    @property
    def fits(self) -> bool:
        """Whether the host has what is given."""
        return self.left_millicores >= 0 and self.left_memory_bytes >= 0

    @property
    def host_full(self) -> bool:
        """Whether a larger host would give some service more."""
        return self.crowded or not self.fits

    def missing(self, share: float) -> tuple[Prospect, ...]:
        """Give the services of which more than this share of requests would miss."""
        return tuple(p for p in self.prospects if p.miss_share > share)


@dataclass(frozen=True, slots=True)
class Fit:
    """So many copies fit; what it would be like with one more."""

    copies: int
    beyond: Outlook


def foresee(services: Sequence[ServiceState], host: Host, settings: config.Planner) -> Outlook:
    """Plan for services of which nothing waits or runs, as the control plane would."""
    made = plan(services, host.millicores, host.memory_bytes, settings)
    prospects = tuple(
        _prospect(service, assignment, host, settings)
        for service, assignment in zip(services, made.assignments, strict=True)
    )
    return Outlook(host, prospects, made.host_full, made.status, made.gap)


def fit(
    service: ServiceState, others: Sequence[ServiceState], host: Host, settings: config.Planner, share: float
) -> Fit:
    """How many equal copies of a service fit beside the others, while of none more than `share` of requests miss.

    By bisection over whole plans: those with one copy more are no fit. 0 copies need not be one, where others miss.
    """

    def beside(copies: int) -> Outlook:
        return foresee([*others, *[service] * copies], host, settings)

    # None gets less than its floor, so that this many are too many.
    floor = min(service.limits.min_millicores, host.millicores)
    enough, too_many = 0, host.millicores // floor + 1
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        outlook = beside(middle)
        if outlook.fits and not outlook.missing(share):
            enough = middle
        else:
            too_many = middle
    return Fit(enough, beside(too_many))


def _prospect(
    service: ServiceState, assignment: Assignment, host: Host, settings: config.Planner
) -> Prospect:
    """Read off what the planner went by."""
    # The reserve is a reason to have more, and no demand: what is foreseen is what would be missed without it.
    service = replace(service, reserve=0.0)
    demand, chosen = service.demand, assignment.configuration
    found = operations(
        service, host.millicores, settings.max_utilisation, settings.saturated, settings.unserved
    )
    place = int(found.of[found.places(chosen).argmax()])
    hopeless_share = sum(share for budget_s, share in demand.budgets if budget_s < found.least_s)
    hopeless = float(found.served[place]) * hopeless_share
    late_rate = float(late(demand, found, horizon_s=settings.interval_s)[place])
    rows = int(found.rows[place])
    return Prospect(
        name=service.name,
        configuration=chosen,
        bound=assignment.reasons.bound,
        utilisation=float(found.load[place]),
        rate=demand.rate,
        batch_rows=rows,
        mean_s=float(found.mean_s[place]),
        upper_s=float(found.shapes.upper_s[found.shape[place], rows - 1]),
        misses=float(found.shed[place]) + late_rate + hopeless,
        hopeless=hopeless,
    )
