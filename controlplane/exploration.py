"""Deliberate tries of thread counts that nobody knows, for one service at a time, while there is slack."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from controlplane import config
from controlplane.allocation import Allocation
from controlplane.config import Explore
from controlplane.operation import ServiceState
from controlplane.planner import Assignment, Bound, Plan
from controlplane.surface import SURE

# A service is looked at once in so long, and tries if there is something to try; each try that has shown nothing of
# what was tried doubles that.
EVERY_S, LONGEST_S = 10.0, 3600.0
# So long it is planned for: another number of threads is another session, and then some executions are to be seen.
LASTS_S = 3.0


@dataclass(frozen=True, slots=True)
class _Look:
    """The last time that a service was looked at, what it tried, and when the next time is due."""

    at: float
    threads: int | None
    wait_s: float

    @property
    def due_at(self) -> float:
        return self.at + self.wait_s


class Exploration:
    """Of one host: one service in turn is planned for in hope.

    What was never run is planned for cautiously, and so may never be run: of deadlines that no configuration seems to
    meet the planner cares for none, or for little. In hope threads divide as much of the work as they may, and nothing
    is doubted, on the CPU that the service has and nobody else wants. Executions of a thread count end the hope of it,
    and with it tries.
    """

    def __init__(self, settings: config.Planner) -> None:
        self._when = settings.explore
        self._looks: dict[str, _Look] = {}
        self._turn = ""
        self._trying = False  # whether whose turn it was has something to try
        # Services that may try, and with how many millicores, by the newest plan.
        self._may: dict[str, int] = {}

    def hoped(self, services: Sequence[ServiceState], now: float) -> list[ServiceState]:
        """Give what is to be planned for: all as they are but one at most, in hope."""
        index = self._index([service.name for service in services], now)
        return [self._in_hope(service) if at == index else service for at, service in enumerate(services)]

    def planned(
        self, services: Sequence[ServiceState], plan: Plan, host_millicores: int, now: float
    ) -> tuple[str, Allocation] | None:
        """Note what came of that; gives service and configuration where a try begins."""
        pairs = list(zip(services, plan.assignments, strict=True))
        left = host_millicores - sum(given.configuration.cpu_millicores for given in plan.assignments)
        may = {}
        for service, given in pairs:
            in_hope = service.latency.hopeful and service.name in self._may
            if in_hope or (not plan.host_full and self._wanted(service, given)):
                may[service.name] = given.configuration.cpu_millicores + max(0, left)
        self._may = may
        self._looks = {name: look for name, look in self._looks.items() if now < look.due_at + LONGEST_S}
        for service, given in pairs:
            if service.latency.hopeful and self._due(service.name, now):
                threads = given.configuration.threads
                self._trying = not _known(service, threads)
                wait_s = self._wait_s(service)
                self._looks[service.name] = _Look(now, threads if self._trying else None, wait_s)
                return (service.name, given.configuration) if self._trying else None
        return None

    def _index(self, names: Sequence[str], now: float) -> int | None:
        may = self._may.keys() & set(names)
        if self._trying and self._turn in may and now - self._looks[self._turn].at < LASTS_S:
            return names.index(self._turn)
        self._trying = False
        due = sorted(name for name in may if self._due(name, now))
        # In turn, so that one without anything to try keeps nobody else from it.
        self._turn = next((name for name in due if name > self._turn), due[0] if due else "")
        return names.index(self._turn) if due else None

    def _in_hope(self, service: ServiceState) -> ServiceState:
        most = min(service.limits.max_millicores, self._may[service.name])
        limits = replace(service.limits, max_millicores=most)
        return replace(service, latency=service.latency.snapshot(hopeful=True), limits=limits)

    def _wanted(self, service: ServiceState, given: Assignment) -> bool:
        if given.reasons.bound is Bound.QUEUE:
            return False  # what waits needs it as it is
        match self._when:
            case Explore.NEVER:
                return False
            case Explore.IMPOSSIBLE:
                return service.latency.known and _impossible(service, given.configuration.threads)
            case Explore.ALWAYS:
                return service.latency.known

    def _due(self, name: str, now: float) -> bool:
        return name not in self._looks or self._looks[name].due_at <= now

    def _wait_s(self, service: ServiceState) -> float:
        """Until the next look: longer where the try before this one has shown nothing."""
        before = self._looks.get(service.name)
        if before is None or before.threads is None or _known(service, before.threads):
            return EVERY_S
        return min(2 * before.wait_s, LONGEST_S)


def _impossible(service: ServiceState, threads: int) -> bool:
    """Whether most requests have less time than one takes when nothing else is there, and are late indeed."""
    demand = service.planned_demand
    takes_s = service.latency.mean(max(1, round(demand.rows_per_request)), threads)
    hopeless = sum(share for budget_s, share in demand.budgets if budget_s < takes_s)
    return hopeless > 0.5 and service.on_time < 0.5


def _known(service: ServiceState, threads: int) -> bool:
    rows = range(1, service.limits.max_batch + 1)
    return any(service.latency.trust(each, threads) >= SURE for each in rows)
