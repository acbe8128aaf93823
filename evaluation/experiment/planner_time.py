"""How long planning takes, from state to plan, and its solver alone, as fleets grow."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np

from controlplane import config, knapsack, planner
from evaluation.experiment import fleets

_HOST_MEMORY = 64 << 30
# More than any solution takes: what is timed is how long it takes to come within the gap.
_PATIENCE_S = 5.0


class Costs(StrEnum):
    """What the menus are like that the solver chooses from."""

    PLANNED = "as planned"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Took:
    """What repetitions took; `gap` is the largest proven distance to the optimum, `status` that of most."""

    repetitions: int
    median_ms: float
    p95_ms: float
    status: str
    gap: float


@dataclass(frozen=True, slots=True)
class Planned:
    """Plans for a fleet: `waiting` requests in the queue of each service, on a host that is `crowded` or has room."""

    services: int
    waiting: int
    host_cores: int
    crowded: bool
    took: Took


@dataclass(frozen=True, slots=True)
class Problem:
    """What the solver alone is given; with `memory_short` CPU and memory are contended, without CPU alone."""

    costs: Costs
    memory_short: bool
    gap: float  # near enough to the optimum


@dataclass(frozen=True, slots=True)
class Solved:
    """Solutions of a problem for so many services."""

    services: int
    host_cores: int
    problem: Problem
    took: Took


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a case is repeated: at least and at most so often, and in between for so long."""

    least: int = 3
    most: int = 20
    seconds: float = 2.0


def plans(
    counts: Sequence[int], waiting: Sequence[int], cores: int, fill: float, patience: Patience, seed: int
) -> Iterator[Planned]:
    """Time `planner.plan` on fleets of so many services with so long queues each.

    `fill` is the demand as a share of the host. Every repetition is another fleet, and fits its latency models
    anew, as after new samples.
    """
    for count in counts:
        host = fleets.host_millicores(count, cores)
        for length in waiting:
            took = _timed(partial(_planning, count, length, host, fill), patience, seed)
            yield Planned(count, length, host // 1000, fill >= 1, took)


def solutions(
    counts: Sequence[int], cores: int, problem: Problem, patience: Patience, seed: int
) -> Iterator[Solved]:
    """Time `knapsack.solve` alone, on menus of which the cheapest do not fit together; every repetition on others."""
    for count in counts:
        host = fleets.host_millicores(count, cores)
        took = _timed(partial(_solving, count, host, problem), patience, seed)
        yield Solved(count, host // 1000, problem, took)


def _planning(
    count: int, waiting: int, host: int, fill: float, random: np.random.Generator
) -> Callable[[], planner.Plan]:
    states = fleets.fleet(count, waiting, host, fill, random)
    return lambda: planner.plan(states, host, _HOST_MEMORY, config.Planner())


def _solving(
    count: int, host: int, problem: Problem, random: np.random.Generator
) -> Callable[[], knapsack.Solution]:
    make = fleets.menus if problem.costs is Costs.PLANNED else fleets.random_menus
    items = make(count, host, random)
    memory = fleets.contended(items, host) if problem.memory_short else fleets.plenty(items)
    return lambda: knapsack.solve(items, host, memory, _PATIENCE_S, problem.gap)


def _timed(
    prepare: Callable[[np.random.Generator], Callable[[], planner.Plan | knapsack.Solution]],
    patience: Patience,
    seed: int,
) -> Took:
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
    return Took(len(took), 1000 * float(median), 1000 * float(p95), status, gap)
