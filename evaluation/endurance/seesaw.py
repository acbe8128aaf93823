"""`python -m evaluation.endurance.seesaw --config control.toml`: a control plane that never leaves a worker alone."""

import itertools
import sys
from collections.abc import Sequence

from controlplane import __main__ as plane
from controlplane.allocation import Allocation
from controlplane.config import Planner
from controlplane.knapsack import SolverStatus
from controlplane.planner import Assignment, Bound, Plan, Reasons, ServiceState
from controlplane.shape import Limits

# In turn. Each differs from the next in quota and instances, and from one of its neighbours in threads.
CONFIGURATIONS = (
    Allocation(700, 1, 1, 1),
    Allocation(2000, 4, 1, 8),
    Allocation(1100, 1, 2, 4),
    Allocation(2000, 2, 2, 8),
    Allocation(800, 1, 1, 8),
    Allocation(1700, 2, 1, 2),
)
LIMITS = Limits(500, 2000, max_instances=4, max_threads=2, max_batch=8)


class Seesaw:
    """A `controlplane.planner.Planner` that gives every service the next of the configurations, whatever it needs."""

    def __init__(self, configurations: Sequence[Allocation] = CONFIGURATIONS) -> None:
        self._next = itertools.cycle(configurations)

    def __call__(
        self,
        services: Sequence[ServiceState],
        _host_millicores: int,
        _host_memory: int,
        _settings: Planner,
        /,
    ) -> Plan:
        if not services:
            return Plan((), False, SolverStatus.FEASIBLE, 1.0)
        given = Assignment(next(self._next), Reasons(0.0, 0.0, Bound.FLOOR, None))
        return Plan((given,) * len(services), False, SolverStatus.FEASIBLE, 1.0)


def main() -> int:
    """As that of `controlplane`."""
    return plane.main(sys.argv[1:], Seesaw())


if __name__ == "__main__":
    sys.exit(main())
