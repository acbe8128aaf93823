"""FA2: replicas of one core, which take their time to start."""

import math
from collections.abc import Sequence

from controlplane.allocation import Allocation
from controlplane.state import Fleet
from evaluation import paper
from evaluation.simulation.policies import Seen, Target, fit, whole
from evaluation.simulation.policies.paper import budget_ms
from evaluation.simulation.scenario import Scenario, Service

MAX_REPLICAS = 10  # as in the authors' run


class Fa2:
    """Fewest one-core replicas n with (⌈λ/n⌉ + 1)·⌊l(1, 1)⌋ ≤ 0.9·SLO − cl_max, each second.

    Razavi et al., "FA2: Fast, Accurate Autoscaling for Serving Deep Learning Inference with SLA Guarantees", RTAS
    2022, as the Sponge paper's authors ran it: a second's requests spread over the replicas, and one execution in
    front of them. On their logged budgets it chooses what their log holds in 511 of 552 seconds. Where nothing is
    feasible: the most replicas.

    A new replica is paid for at once and serves after the cold start. In its favour: one queue for all
    replicas, and what is told of λ and the link (see `Paper`).
    """

    listens = False

    def __init__(self) -> None:
        self._latency_ms: list[int] = []
        self._services: Sequence[Service] = ()
        self._host_cores = 0
        self._cold_start_s = 0.0
        self._live: list[int] = []
        self._ready_at: list[list[float]] = []

    def interval_s(self, scenario: Scenario) -> float | None:
        return 1.0

    def start(self, scenario: Scenario) -> list[Target]:
        self._services = scenario.services
        self._host_cores = scenario.host_cores
        self._cold_start_s = scenario.cold_start_s
        self._latency_ms = [math.floor(paper.fit(s.profile).latency_ms(1, 1)) for s in scenario.services]
        self._live = self._wanted(0.0)
        self._ready_at = [[] for _ in self._live]
        return [whole(n, 1, 1) for n in self._live]

    def decide(self, fleet: Fleet, seen: Sequence[Seen], now: float) -> list[Target | None]:
        targets: list[Target | None] = []
        for index, wanted in enumerate(self._wanted(now)):
            starting = self._ready_at[index]
            self._live[index] += sum(at <= now for at in starting)
            starting = [at for at in starting if at > now]
            # What is not there yet goes first.
            surplus = max(0, self._live[index] + len(starting) - wanted)
            starting = starting[: len(starting) - min(surplus, len(starting))]
            self._live[index] = min(self._live[index], max(1, wanted))
            starting += [now + self._cold_start_s] * (wanted - self._live[index] - len(starting))
            self._ready_at[index] = starting
            live, reserved = self._live[index], self._live[index] + len(starting)
            targets.append(Target(Allocation(1000 * reserved, live, 1, 1), reserved))
        return targets

    def _wanted(self, now: float) -> list[int]:
        wanted = []
        for service, latency_ms in zip(self._services, self._latency_ms, strict=True):
            rate, within_ms = service.offered.rate(now, now + 1), budget_ms(service, now)
            most = min(MAX_REPLICAS, service.max_cores)
            fewest = next(
                (n for n in range(1, most + 1) if (math.ceil(rate / n) + 1) * latency_ms <= within_ms), most
            )
            wanted.append(fewest)
        return fit(wanted, self._host_cores)
