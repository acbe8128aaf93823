"""Fleets and menus made up for the planner and its solver: seeded, and as large as asked for."""

import math
from collections.abc import Sequence

import numpy as np

from controlplane import config, knapsack
from controlplane.allocation import Allocation
from controlplane.curve import Curve
from controlplane.demand import DemandEstimate
from controlplane.knapsack import Choice
from controlplane.latency import LatencyModel
from controlplane.operation import ServiceState, Waiting
from controlplane.shape import HEAD_ROOM_MILLICORES, STEP_MILLICORES, Limits

# Of the time of one row on one thread: per row and fixed, each divided by threads and not. As YOLOv5s has it in the
# paper's grid.
_COEFFICIENTS = (0.75, 0.10, 0.10, 0.05)
_PROFILED = [(rows, threads) for rows in (1, 2, 4, 8) for threads in (1, 2, 4)]
_SAMPLES = 16  # of each
# Demand as a share of the host: with room to spare, and more than there is.
ROOM, CROWDED = 0.4, 1.5
_SERVICES_PER_CORE = 4  # with more the host grows, so that all get their floor and something to choose
_RANDOM_CHOICES = 20  # of each menu
_MIB = 1 << 20


def host_millicores(services: int, cores: int) -> int:
    """Millicores of a host of `cores`, or of a larger one where those are too few for so many services."""
    return 1000 * max(cores, services // _SERVICES_PER_CORE)


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
        current=Allocation(1000 * instances + HEAD_ROOM_MILLICORES, instances, 1, 1),
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


def random_menus(count: int, host: int, random: np.random.Generator) -> list[list[Choice]]:
    """Make menus of 20 choices whose CPU, memory and cost have nothing to do with each other.

    CPU is that of up to twice a fair share of the host.
    """
    steps = max(_RANDOM_CHOICES, 2 * host // count // STEP_MILLICORES)
    return [
        [
            Choice(STEP_MILLICORES * int(step), int(memory) * _MIB, float(cost))
            for step, memory, cost in zip(
                1 + np.sort(random.choice(steps, _RANDOM_CHOICES, replace=False)),
                random.integers(64, 2048, _RANDOM_CHOICES),
                random.uniform(0, 10_000, _RANDOM_CHOICES),
                strict=True,
            )
        ]
        for _ in range(count)
    ]


def plenty(items: Sequence[Sequence[Choice]]) -> int:
    """Memory for whatever is chosen."""
    return sum(max(choice.memory for choice in menu) for menu in items)


def contended(items: Sequence[Sequence[Choice]], host: int) -> int:
    """Memory halfway from what the smallest choices take to what those take that are best for CPU alone."""
    least = sum(min(choice.memory for choice in menu) for menu in items)
    best = knapsack.solve(items, host, plenty(items)).chosen
    wanted = sum(menu[index].memory for menu, index in zip(items, best, strict=True))
    return (least + wanted) // 2
