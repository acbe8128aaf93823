"""Ours: the planner and the governor of the control plane, with their default settings."""

from collections.abc import Sequence

from controlplane import planner, status
from controlplane.allocation import Allocation
from controlplane.config import Config
from controlplane.exploration import Exploration
from controlplane.governor import crowded, urgent
from controlplane.state import Fleet
from evaluation.simulation.policies import Seen, Target, whole
from evaluation.simulation.profile import cheapest_batch
from evaluation.simulation.scenario import Scenario


class Sponge:
    """As `controlplane.loop` does it: plan for all workers heard of, let each one's governor decide.

    Head-room of a quota above its threads is for the event loop of a worker, which is not simulated; no policy is
    charged for it. A quota below its threads is charged as it is.
    """

    listens = True

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        self._exploration = Exploration(self._config.planner)

    def interval_s(self, scenario: Scenario) -> float | None:
        return scenario.interval_s

    def start(self, scenario: Scenario) -> list[Target]:
        targets = []
        for service in scenario.services:
            instances = min(service.start_cores, service.max_instances or service.start_cores)
            batch = cheapest_batch(service.profile, service.max_batch)
            targets.append(whole(instances, service.start_cores // instances, batch))
        return targets

    def decide(self, fleet: Fleet, seen: Sequence[Seen], now: float) -> list[Target | None]:
        config = self._config
        workers = fleet.fresh(now, config.governor.stale_s)
        states = [status.service_state(w, fleet.policy(w.service), config) for w in workers]
        believed = [state.latency for state in states]
        states = self._exploration.hoped(states, now)
        [host] = fleet.hosts.values()
        plan = planner.plan(states, host.millicores, host.memory_bytes, config.planner)
        for worker, latency in zip(workers, believed, strict=True):
            worker.believed = latency
        self._exploration.planned(states, plan, host.millicores, now)
        host.full = plan.host_full
        targets: dict[str, Target] = {}
        plans = [assignment.configuration for assignment in plan.assignments]
        full = crowded(
            ((worker.allocation, planned) for worker, planned in zip(workers, plans, strict=True)),
            host.millicores,
        )
        for worker, planned, assignment in zip(workers, plans, plan.assignments, strict=True):
            cannot_stay = urgent(assignment.reasons.spared, worker.demand.estimate().rate)
            settled = not worker.resize.pending
            verdict = worker.governor.decide(
                worker.allocation, planned, now, settled=settled, crowded=full, urgent=cannot_stay
            )
            if verdict is not None:
                targets[worker.worker_id] = Target(verdict.allocation, _reserved_cores(verdict.allocation))
        return [targets.get(one.worker.worker_id) for one in seen]


def _reserved_cores(allocation: Allocation) -> float:
    return min(allocation.cpu_millicores / 1000, allocation.instances * allocation.threads)
