"""Deliberate tries of thread counts that nobody knows, for one service at a time, while there is slack."""

import math
from collections.abc import Sequence
from dataclasses import replace

from controlplane import config
from controlplane.allocation import Allocation
from controlplane.config import Explore
from controlplane.operation import ServiceState
from controlplane.planner import Assignment, Bound, Plan
from controlplane.surface import SURE

EVERY_S = 10.0  # once in so long a service is looked at, and tries if there is something to try
# So long it is planned for: another number of threads is another session, and then some executions are to be seen.
LASTS_S = 3.0


class Exploration:
    """Of one host: one service in turn is planned for in hope.

    What was never run is planned for cautiously, and so may never be run: of deadlines that no configuration seems to
    meet the planner cares for none, or for little. In hope threads divide as much of the work as they may, and nothing
    is doubted. Executions of a thread count end the hope of it, and with it tries.
    """

    def __init__(self, settings: config.Planner) -> None:
        self._when = settings.explore
        self._looked_at: dict[str, float] = {}
        self._turn = ""
        self._trying = False  # whether whose turn it was has something to try
        self._may: set[str] = set()  # services that may try, by the newest plan that was not made in hope

    def hoped(self, services: Sequence[ServiceState], now: float) -> list[ServiceState]:
        """Give what is to be planned for: all as they are but one at most, in hope."""
        index = self._index([service.name for service in services], now)
        return [
            replace(service, latency=service.latency.snapshot(hopeful=True)) if at == index else service
            for at, service in enumerate(services)
        ]

    def planned(
        self, services: Sequence[ServiceState], plan: Plan, now: float
    ) -> tuple[str, Allocation] | None:
        """Note what came of that; gives service and configuration where a try begins."""
        pairs = list(zip(services, plan.assignments, strict=True))
        self._may = {
            service.name
            for service, given in pairs
            if (service.name in self._may if service.latency.hopeful else self._wanted(service, given))
            # Only while CPU is left, and no queue in danger.
            and not plan.host_full
            and given.reasons.bound is not Bound.QUEUE
        }
        for service, given in pairs:
            if service.latency.hopeful and self._rested(service.name, now):
                self._looked_at[service.name] = now
                self._trying = not _known(service, given.configuration.threads)
                return (service.name, given.configuration) if self._trying else None
        return None

    def _index(self, names: Sequence[str], now: float) -> int | None:
        if self._trying and self._turn in names and now - self._looked_at[self._turn] < LASTS_S:
            return names.index(self._turn)
        self._trying = False
        due = sorted(name for name in self._may.intersection(names) if self._rested(name, now))
        # In turn, so that one without anything to try keeps nobody else from it.
        self._turn = next((name for name in due if name > self._turn), due[0] if due else "")
        return names.index(self._turn) if due else None

    def _wanted(self, service: ServiceState, given: Assignment) -> bool:
        match self._when:
            case Explore.NEVER:
                return False
            case Explore.IMPOSSIBLE:
                return service.latency.known and _impossible(service, given.configuration.threads)
            case Explore.ALWAYS:
                return service.latency.known

    def _rested(self, name: str, now: float) -> bool:
        return now - self._looked_at.get(name, -math.inf) >= EVERY_S


def _impossible(service: ServiceState, threads: int) -> bool:
    """Whether most requests have less time than one of them takes when nothing else is there."""
    demand = service.planned_demand
    takes_s = service.latency.mean(max(1, round(demand.rows_per_request)), threads)
    return sum(share for budget_s, share in demand.budgets if budget_s < takes_s) > 0.5


def _known(service: ServiceState, threads: int) -> bool:
    rows = range(1, service.limits.max_batch + 1)
    return any(service.latency.trust(each, threads) >= SURE for each in rows)
