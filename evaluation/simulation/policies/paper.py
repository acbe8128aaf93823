"""The Sponge paper's rule: on one execution, and on instances of one thread."""

import math
from collections.abc import Sequence

from controlplane.state import Fleet
from evaluation import paper
from evaluation.paper import Curve, Size
from evaluation.simulation.policies import Seen, Target, fit, whole
from evaluation.simulation.scenario import Scenario, Service

_SLO_SHARE = 0.9  # of the SLO; the authors' code keeps the rest back


def budget_ms(service: Service, now: float) -> float:
    """What the slowest upload of this second leaves of 90 % of the shortest SLO.

    In the rule's favour it is told the upload of a request sent right now, and not what arrived of late.
    """
    slowest_s = service.link.finish(now, max(service.payload_bytes.values)) - now
    return 1000 * (_SLO_SHARE * min(service.slo_s.values) - slowest_s)


class Paper:
    """Fewest cores c, then the smallest batch b, with ⌈λ/b⌉·⌊l(b, c)⌋ ≤ 0.9·SLO − cl_max, each second.

    Razavi et al., "Sponge: Inference Serving with Dynamic SLOs Using In-Place Vertical Scaling", EuroMLSys 2024,
    section 3. One execution at a time, on c threads. Where nothing is feasible: the largest allocation, or with
    `hold` the old one, as in the authors' code. In its favour: λ is what clients send in the second to come (the
    authors take it from their configuration), the communication latency is this second's (see `budget_ms`),
    deadlines are served earliest first, and hopeless requests are refused. `sizes` records the choices of the
    first service, None where nothing was feasible.
    """

    listens = False

    def __init__(self, *, hold: bool = False) -> None:
        self._hold = hold
        self._curves: list[Curve] = []
        self._host_cores = 0
        self._services: Sequence[Service] = ()
        self._last: list[Size] = []
        self.sizes: list[Size | None] = []

    def interval_s(self, scenario: Scenario) -> float | None:
        return 1.0

    def start(self, scenario: Scenario) -> list[Target]:
        self._services = scenario.services
        self._host_cores = scenario.host_cores
        self._curves = [paper.fit(service.profile) for service in scenario.services]
        self._last = [Size(service.max_cores, 1) for service in scenario.services]
        return self._targets(0.0)

    def decide(self, fleet: Fleet, seen: Sequence[Seen], now: float) -> list[Target | None]:
        return [*self._targets(now)]

    def _targets(self, now: float) -> list[Target]:
        wanted = []
        for index, (service, curve) in enumerate(zip(self._services, self._curves, strict=True)):
            rate = service.offered.rate(now, now + 1)
            found = paper.smallest(curve, rate, budget_ms(service, now), service.max_cores, service.max_batch)
            if index == 0:
                self.sizes.append(found)
            largest = Size(service.max_cores, service.max_batch)
            wanted.append(found or (self._last[index] if self._hold else largest))
        self._last = wanted
        cores = fit([size.cores for size in wanted], self._host_cores)
        return [whole(1, c, size.batch) for c, size in zip(cores, wanted, strict=True)]


class PaperInstances:
    """The paper's rule on n instances of one thread: fewest n, then b, with ⌈⌈λ/b⌉/n⌉·⌊l(b, 1)⌋ ≤ the budget.

    Else as `Paper`. The largest allocation where nothing is feasible.
    """

    listens = False

    def __init__(self) -> None:
        self._curves: list[Curve] = []
        self._services: Sequence[Service] = ()
        self._host_cores = 0

    def interval_s(self, scenario: Scenario) -> float | None:
        return 1.0

    def start(self, scenario: Scenario) -> list[Target]:
        self._services = scenario.services
        self._host_cores = scenario.host_cores
        self._curves = [paper.fit(service.profile) for service in scenario.services]
        return self._targets(0.0)

    def decide(self, fleet: Fleet, seen: Sequence[Seen], now: float) -> list[Target | None]:
        return [*self._targets(now)]

    def _targets(self, now: float) -> list[Target]:
        wanted = [
            _fewest(curve, service.offered.rate(now, now + 1), budget_ms(service, now), service)
            for service, curve in zip(self._services, self._curves, strict=True)
        ]
        cores = fit([instances for instances, _ in wanted], self._host_cores)
        return [whole(n, 1, batch) for n, (_, batch) in zip(cores, wanted, strict=True)]


def _fewest(curve: Curve, rate: float, within_ms: float, service: Service) -> tuple[int, int]:
    """Instances and batch."""
    for instances in range(1, service.max_cores + 1):
        for batch in range(1, service.max_batch + 1):
            rounds = math.ceil(math.ceil(rate / batch) / instances)
            if rounds * math.floor(curve.latency_ms(batch, 1)) <= within_ms:
                return instances, batch
    return service.max_cores, 1
