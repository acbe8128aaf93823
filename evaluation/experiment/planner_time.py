"""How long planning takes, from state to plan, and its solver alone, as fleets grow."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from controlplane import config, knapsack, planner
from controlplane.curve import Curve
from controlplane.demand import DemandEstimate
from controlplane.knapsack import Choice
from controlplane.latency import LatencyModel
from controlplane.operation import (
    HEAD_ROOM_MILLICORES,
    STEP_MILLICORES,
    Configuration,
    Limits,
    ServiceState,
    Waiting,
)

_HOST_MEMORY = 64 << 30
# Of the time of one row on one thread: per row and fixed, each divided by threads and not. As YOLOv5s has it in the
# paper's grid.
_COEFFICIENTS = (0.75, 0.10, 0.10, 0.05)
_PROFILED = [(rows, threads) for rows in (1, 2, 4, 8) for threads in (1, 2, 4)]
_SAMPLES = 16  # of each
# Demand as a share of the host: with room to spare, and more than there is.
ROOM, CROWDED = 0.4, 1.5
_SERVICES_PER_CORE = 4  # with more the host grows, so that all get their floor and something to choose


@dataclass(frozen=True, slots=True)
class Case:
    """A fleet: `waiting` requests in the queue of each service, on a host that is `crowded` or has room."""

    services: int
    waiting: int
    host_cores: int
    crowded: bool


@dataclass(frozen=True, slots=True)
class Timing:
    """What repetitions of a case took; `gap` is the largest proven distance to the optimum, `status` that of most."""

    case: Case
    repetitions: int
    median_ms: float
    p95_ms: float
    status: str
    gap: float


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a case is repeated: at least and at most so often, and in between for so long."""

    least: int = 3
    most: int = 20
    seconds: float = 2.0


def host_millicores(services: int, cores: int) -> int:
    """Millicores of a host of `cores`, or of a larger one where those are too few for so many services."""
    return 1000 * max(cores, services // _SERVICES_PER_CORE)


def plans(
    counts: Sequence[int], waiting: Sequence[int], cores: int, fill: float, patience: Patience, seed: int
) -> Iterator[Timing]:
    """Time `planner.plan` on fleets of so many services with so long queues each.

    `fill` is the demand as a share of the host. Every repetition is another fleet, and fits its latency models
    anew, as after new samples.
    """
    for count in counts:
        host = host_millicores(count, cores)
        for length in waiting:
            case = Case(count, length, host // 1000, crowded=fill >= 1)
            yield _timed(case, partial(_planning, count, length, host, fill), patience, seed)


def solutions(
    counts: Sequence[int], cores: int, patience: Patience, seed: int, *, memory_short: bool
) -> Iterator[Timing]:
    """Time `knapsack.solve` alone, on menus of which the cheapest do not fit together.

    With `memory_short` memory is contended too, which leaves dynamic programming a bound and CP-SAT the rest.
    """
    for count in counts:
        host = host_millicores(count, cores)
        case = Case(count, 0, host // 1000, crowded=True)
        yield _timed(case, partial(_solving, count, host, memory_short), patience, seed)


def _planning(
    count: int, waiting: int, host: int, fill: float, random: np.random.Generator
) -> Callable[[], planner.Plan]:
    states = fleet(count, waiting, host, fill, random)
    return lambda: planner.plan(states, host, _HOST_MEMORY, config.Planner())


def _solving(
    count: int, host: int, memory_short: bool, random: np.random.Generator
) -> Callable[[], knapsack.Solution]:
    items = menus(count, host, random)
    memory = _contended(items, host) if memory_short else _plenty(items)
    return lambda: knapsack.solve(items, host, memory, config.Planner().solver_time_s)


def fleet(
    count: int, waiting: int, host: int, fill: float, random: np.random.Generator
) -> list[ServiceState]:
    """Make services of different models, demands and deadlines that together want `fill` of the host.

    Rows take 20 ms in the median on one thread, from 3 to 100; budgets at arrival are 20 to 97 % of an SLO of 8 to
    20 times that. `waiting` requests are spread evenly over the SLO.
    """
    shares = random.dirichlet(np.full(count, 2.0))
    return [
        _service(f"service-{i}", float(share) * fill * host, waiting, random)
        for i, share in enumerate(shares)
    ]


def _service(name: str, millicores: float, waiting: int, random: np.random.Generator) -> ServiceState:
    work_s = float(np.clip(random.lognormal(math.log(0.02), 0.6), 0.003, 0.1))
    slo_s = work_s * float(random.uniform(8, 20))
    rate = millicores / 1000 / work_s
    instances = min(16, 1 + int(millicores / 1000))
    return ServiceState(
        name=name,
        latency=_profiled(work_s, random),
        demand=DemandEstimate(
            rate=rate,
            rate_error=0.1 * rate,
            rows_per_request=1.0,
            budgets=tuple((float(budget), 0.05) for budget in np.linspace(0.2, 0.97, 20) * slo_s),
            dispersion=float(random.uniform(1, 2)),
        ),
        limits=Limits(
            min_millicores=100, max_millicores=16_000, max_instances=16, max_threads=16, max_batch=8
        ),
        queue=[Waiting(slo_s * (place + 1) / waiting) for place in range(waiting)],
        running=[(float(random.uniform(0, work_s)), 1) for _ in range(instances)] if waiting else (),
        current=Configuration(1000 * instances + HEAD_ROOM_MILLICORES, instances, 1, 1),
    )


def _profiled(work_s: float, random: np.random.Generator) -> LatencyModel:
    curve = Curve(*(share * work_s for share in _COEFFICIENTS))
    model = LatencyModel()
    for rows, threads in _PROFILED:
        for noise in random.lognormal(0.0, 0.08, _SAMPLES):
            model.record(rows, threads, curve.work(float(rows), float(threads)) * float(noise), 1.0, 0.0)
    return model


def menus(count: int, host: int, random: np.random.Generator) -> list[list[Choice]]:
    """Make menus as the planner does, up to 40 choices each, for services that want half as much again as there is.

    Below its need a service sheds what does not fit, above it ever fewer requests are late; a choice that costs more
    than a smaller one is left out.
    """
    price = config.Planner().miss_cost_millicores
    made = []
    for share in random.dirichlet(np.full(count, 2.0)):
        need = max(200.0, float(share) * CROWDED * host)
        weight, steepness = float(random.lognormal(0.0, 0.5)), float(random.uniform(3, 12))
        menu: list[Choice] = []
        # Fine steps up to the need, whole cores beyond.
        fine = np.arange(STEP_MILLICORES, need, max(STEP_MILLICORES, need // 25 // 100 * 100))
        for cpu in (*fine.astype(int).tolist(), *range(math.ceil(need / 1000) * 1000 + 100, 16_101, 1000)):
            short, beyond = max(0.0, 1 - cpu / need), max(0.0, cpu / need - 1)
            misses = short + 0.2 * (1 - short) * math.exp(-steepness * beyond)
            cost = cpu + price * weight * misses * float(random.uniform(0.98, 1.02))
            if not menu or cost < menu[-1].cost:
                memory = (300 << 20) + (cpu // 1000 + 1) * (int(random.integers(1, 9)) << 25)
                menu.append(Choice(cpu, memory, cost))
        made.append(menu)
    return made


def _plenty(items: Sequence[Sequence[Choice]]) -> int:
    return sum(max(choice.memory for choice in menu) for menu in items)


def _contended(items: Sequence[Sequence[Choice]], host: int) -> int:
    """Memory halfway from what the smallest choices take to what those take that are best for CPU alone."""
    least = sum(min(choice.memory for choice in menu) for menu in items)
    best = knapsack.solve(items, host, _plenty(items)).chosen
    wanted = sum(menu[index].memory for menu, index in zip(items, best, strict=True))
    return (least + wanted) // 2


def _timed(
    case: Case,
    prepare: Callable[[np.random.Generator], Callable[[], planner.Plan | knapsack.Solution]],
    patience: Patience,
    seed: int,
) -> Timing:
    """Time what `prepare` makes, each time of another random state; the preparation does not count."""
    took: list[float] = []
    statuses: Counter[str] = Counter()
    gap = 0.0
    while len(took) < patience.least or (len(took) < patience.most and sum(took) < patience.seconds):
        decide = prepare(np.random.default_rng([seed, len(took)]))
        began = time.perf_counter()
        decided = decide()
        took.append(time.perf_counter() - began)
        statuses[decided.status.value] += 1
        gap = max(gap, decided.gap)
    median, p95 = np.percentile(took, [50, 95])
    ((status, _),) = statuses.most_common(1)
    return Timing(case, len(took), 1000 * float(median), 1000 * float(p95), status, gap)
