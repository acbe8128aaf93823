"""The integer program: CPU quota, instances, threads and batch limit for every worker of a host.

Inside, misses are missed deadlines per second; of what waits already, all fall into the next second. One of a tight
request counts as `tight_weight` says, but for those that exceed the throughput.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from controlplane import config
from controlplane.allocation import Allocation
from controlplane.candidates import Candidates, Option, candidates, menu
from controlplane.knapsack import COST_SCALE, Choice, SolverStatus, solve
from controlplane.operation import ServiceState
from controlplane.shape import Limits

__all__ = [
    "Assignment",
    "Bound",
    "Candidates",
    "Limits",
    "Option",
    "Plan",
    "Planner",
    "Reasons",
    "ServiceState",
    "candidates",
    "plan",
]


class Bound(enum.Enum):
    """Why a service did not get less."""

    FLOOR = "floor"  # nothing less is allowed
    THROUGHPUT = "throughput"  # less could not keep up
    QUEUE = "queue"  # less would miss deadlines of what waits
    BUDGET = "budget"  # less would be too slow for what arrives
    CEILING = (
        "ceiling"  # it got less than it would have had if it were allowed more; only `explain` finds that
    )
    HOST = "host"  # it got less than it would have had alone


@dataclass(frozen=True, slots=True)
class Reasons:
    """What led to a choice."""

    expected_misses: float  # per second; of tight requests each counts `planner.tight_weight`
    utilisation: float  # share of the slots or of the quota, whichever is higher; above 1: overload
    bound: Bound
    smaller: Allocation | None  # the best with less CPU
    spared: float = 0.0  # misses per second that staying as it is would add
    rows: int = 1  # that executions grow to


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one service gets."""

    configuration: Allocation
    reasons: Reasons


@dataclass(frozen=True, slots=True)
class Plan:
    """One assignment for each service, in the order given."""

    assignments: tuple[Assignment, ...]
    host_full: bool  # some service would have got more alone
    status: SolverStatus
    gap: float  # proven bound on (cost − optimum)/cost


class Planner(Protocol):
    """Whoever decides what each service gets; `plan` is one, and what is measured against it are others."""

    def __call__(
        self,
        services: Sequence[ServiceState],
        host_millicores: int,
        host_memory: int,
        settings: config.Planner,
        /,
    ) -> Plan:
        """Give a plan within CPU and memory (bytes). Called in a thread, of one call at a time."""


def plan(
    services: Sequence[ServiceState], host_millicores: int, host_memory: int, settings: config.Planner
) -> Plan:
    """Choose for each service so that the sum of CPU and missed deadlines costs least.

    All is soft but the host's CPU and memory (bytes). When the floors alone exceed its CPU, everybody gets the
    smallest configuration there is for it: quotas are ceilings, and CPU shares in proportion to them divide
    the host. When the least memory of all exceeds its memory, everybody is planned that, and CPU is divided as ever.
    """
    found = [menu(candidates(service, host_millicores, settings)) for service in services]
    menus = [options for options, _ in found]
    solution = solve(
        [
            [Choice(o.configuration.cpu_millicores, o.configuration.memory_bytes, o.cost) for o in options]
            for options in menus
        ],
        host_millicores,
        host_memory,
        settings.solver_time_s,
        settings.solver_gap,
    )
    assignments = []
    host_full = False
    for service, (options, staying), index in zip(services, found, solution.chosen, strict=True):
        option = options[index]
        crowded = option.cost > min(other.cost for other in options) + 1 / COST_SCALE
        # Menus end where the host does: what the largest still sheds only a larger host would serve.
        limited_by_host = service.limits.max_millicores >= host_millicores
        short = limited_by_host and option is options[-1] and option.shed > 0
        host_full = host_full or crowded or short
        assignments.append(_explain(option, options, crowded, staying))
    return Plan(tuple(assignments), host_full, solution.status, solution.gap)


def _explain(option: Option, options: Sequence[Option], crowded: bool, staying: float | None) -> Assignment:
    """Say what kept `option` from being smaller: what the best with less CPU misses more of."""
    millicores = option.configuration.cpu_millicores
    smaller = min(
        (o for o in options if o.configuration.cpu_millicores < millicores),
        key=lambda o: o.cost,
        default=None,
    )
    if crowded:
        bound = Bound.HOST
    elif smaller is None:
        bound = Bound.FLOOR
    else:
        more = {
            Bound.THROUGHPUT: smaller.shed - option.shed,
            Bound.QUEUE: smaller.queued - option.queued,
            Bound.BUDGET: smaller.late - option.late,
        }
        bound = max(more, key=lambda bound: more[bound])
    spared = 0.0 if staying is None else staying - option.misses
    smaller_one = smaller.configuration if smaller else None
    reasons = Reasons(option.misses, option.utilisation, bound, smaller_one, spared, option.rows)
    return Assignment(option.configuration, reasons)
