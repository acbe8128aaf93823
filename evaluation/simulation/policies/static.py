"""An allocation that never changes, and the search for the best one."""

from collections.abc import Sequence

from controlplane.shape import ladder
from controlplane.state import Fleet
from evaluation.simulation import run as simulation
from evaluation.simulation.policies import Seen, Target, fit, whole
from evaluation.simulation.profile import cheapest_batch
from evaluation.simulation.run import Run
from evaluation.simulation.scenario import Scenario, Service

Shape = tuple[int, int, int]  # instances, threads, batch


class Static:
    """Every service keeps its instances × threads × batch."""

    listens = False

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self._shapes = shapes

    def interval_s(self, scenario: Scenario) -> float | None:
        return None

    def start(self, scenario: Scenario) -> list[Target]:
        return [whole(*shape) for shape in self._shapes]

    def decide(self, fleet: Fleet, seen: Sequence[Seen], now: float) -> list[Target | None]:
        return [None] * len(seen)


def shapes(service: Service, cores: int, contention: float = 0.0) -> list[Shape]:
    """Give all instances × threads × batch on so many cores; threads are powers of two, as in our planner.

    Batches beyond the one with the least time per row on those threads never form. What serves most rows per second
    with all instances busy comes first: a search that begins with a good one can leave bad ones early.
    """
    found: list[tuple[float, Shape]] = []
    for power in range(cores.bit_length()):
        threads = 1 << power
        instances = cores // threads
        line = service.truth.table[threads]
        cheapest = min(range(1, service.max_batch + 1), key=lambda rows: line[rows] / rows)
        crowd = 1 + contention * (instances - 1)
        for batch in ladder(service.max_batch):
            found.append((-instances * batch / (line[batch] * crowd), (instances, threads, batch)))
            if batch >= cheapest:
                break
    return [shape for _, shape in sorted(found)]


def best(scenario: Scenario, cores: int, name: str) -> Run:
    """The fixed shape with the fewest avoidable misses, then the fewest others, on `cores` for each service.

    Of several services each is searched alone; the host then cuts them down as it would others.
    """
    granted = fit([min(cores, s.max_cores) for s in scenario.services], scenario.host_cores)
    chosen = [_best_alone(scenario.alone(i), granted[i])[0] for i in range(len(granted))]
    return simulation.run(scenario, Static(chosen), name)


def smallest(scenario: Scenario, missed: int, name: str) -> Run:
    """The fewest cores whose best shape has no more avoidable misses than `missed`.

    Of several services each is searched alone, with what is missed split evenly; then the one that misses most gets a
    core more while the whole misses more than allowed. Where nothing reaches it: the most cores there are.
    """
    allowed = missed // len(scenario.services)
    chosen = [_smallest_alone(scenario.alone(i), allowed) for i in range(len(scenario.services))]
    while True:
        found = simulation.run(scenario, Static(chosen), name)
        used = sum(n * t for n, t, _ in chosen)
        if found.score.avoidable_missed <= missed or used >= scenario.host_cores or len(chosen) == 1:
            return found
        worst = max(range(len(chosen)), key=lambda i: found.tallies[i].avoidable_missed)
        cores = chosen[worst][0] * chosen[worst][1] + 1
        if cores > scenario.services[worst].max_cores:
            return found
        chosen[worst] = _best_alone(scenario.alone(worst), cores)[0]


def _best_alone(scenario: Scenario, cores: int, missed: int | None = None) -> tuple[Shape, Run]:
    """The best shape of the only service; `missed` ends the search where it does not matter how much worse."""
    service = scenario.services[0]
    found: tuple[Shape, Run] | None = None
    for shape in shapes(service, cores, scenario.contention):
        if found is not None and _unbeatable(found, shape):
            continue
        limit = missed if found is None else found[1].score.avoidable_missed
        tried = simulation.run(scenario, Static([shape]), "", limit)
        if found is None or _rank(tried, shape) < _rank(found[1], found[0]):
            found = shape, tried
    assert found is not None  # one thread is always possible
    return found


def _unbeatable(found: tuple[Shape, Run], shape: Shape) -> bool:
    """Whether nothing is missed already, so that only a smaller batch would rank before it."""
    best_shape, tried = found
    return tried.score.late + tried.score.refused == 0 and shape[2] >= best_shape[2]


def _rank(tried: Run, shape: Shape) -> tuple[bool, int, int, int]:
    score = tried.score
    return tried.hopeless, score.avoidable_missed, score.late + score.refused, shape[2]


def _smallest_alone(scenario: Scenario, missed: int) -> Shape:
    service = scenario.services[0]
    shape: Shape = (service.max_cores, 1, cheapest_batch(service.profile, service.max_batch))
    for cores in range(1, service.max_cores + 1):
        shape, tried = _best_alone(scenario, cores, missed)
        if not tried.hopeless:
            return shape
    return _best_alone(scenario, service.max_cores)[0]
