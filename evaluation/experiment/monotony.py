"""Experiment «monotony»: how often more demand is planned less CPU, or a looser deadline more, and where."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from controlplane import config, planner
from controlplane.operation import ServiceState, Waiting
from core.config import Section, load
from evaluation.experiment import fleets, pool
from evaluation.experiment.finding import Finding, Goal, Table, machine
from evaluation.experiment.kinds import Options

_HOST_MEMORY = 64 << 30
_HOST = 16_000
_MOST_MORE = 1.5  # times the demand
_MOST_LOOSER = 2.0  # times the budgets
_WAITING = 16
_MANY = 8


class Settings(Section, frozen=True, kw_only=True):
    """A whole monotony.toml."""

    kind: Literal["monotony"]
    title: str
    question: str
    seed: Annotated[int, Meta(ge=0)]
    pairs: Annotated[int, Meta(ge=1)]  # of each case
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """Services on a host; what is asked is what the first of them is planned."""

    services: Sequence[ServiceState]
    host_millicores: int = _HOST

    def millicores(self) -> int:
        plan = planner.plan(self.services, self.host_millicores, _HOST_MEMORY, config.Planner())
        return plan.assignments[0].configuration.cpu_millicores

    def busier(self, times: float) -> "Scene":
        """The same with so many times the demand for the first."""
        first, *others = self.services
        demand = first.demand
        grown = replace(demand, rate=demand.rate * times, rate_error=demand.rate_error * times)
        return replace(self, services=[replace(first, demand=grown), *others])

    def looser(self, times: float) -> "Scene":
        """The same with budgets so many times as long for the first, also of what waits."""
        first, *others = self.services
        budgets = tuple((budget_s * times, share) for budget_s, share in first.demand.budgets)
        queue = [Waiting(one.remaining_s * times, one.rows, one.budget_s * times) for one in first.queue]
        changed = replace(first, demand=replace(first.demand, budgets=budgets), queue=queue)
        return replace(self, services=[changed, *others])


def promised(random: np.random.Generator) -> Scene:
    """What is held to it by a test: one service within the host, that batches nothing and may change at no cost."""
    (service,) = fleets.fleet(1, 0, _HOST, float(random.uniform(0.05, 0.4)), random)
    alone = replace(service.limits, max_batch=1)
    budgets = ((float(random.uniform(3, 20)) * service.latency.mean(1, 1), 1.0),)
    demand = replace(service.demand, budgets=budgets)
    return Scene([replace(service, limits=alone, demand=demand, current=None)])


def batched(random: np.random.Generator) -> Scene:
    scene = promised(random)
    return replace(
        scene, services=[replace(one, limits=replace(one.limits, max_batch=8)) for one in scene.services]
    )


def settled(random: np.random.Generator) -> Scene:
    """It runs already with what another demand was planned."""
    scene = promised(random)
    before = scene.busier(float(random.uniform(0.8, 1.25)))
    plan = planner.plan(before.services, _HOST, _HOST_MEMORY, config.Planner())
    return replace(scene, services=[replace(scene.services[0], current=plan.assignments[0].configuration)])


def spread(random: np.random.Generator) -> Scene:
    """Its budgets differ, from what only several threads meet to all of its SLO."""
    scene = promised(random)
    (service,) = scene.services
    slo_s = service.demand.budgets[0][0]
    budgets = tuple((float(part) * slo_s, 0.05) for part in np.linspace(0.05, 1.0, 20))
    return replace(scene, services=[replace(service, demand=replace(service.demand, budgets=budgets))])


def queued(random: np.random.Generator) -> Scene:
    scene = promised(random)
    (service,) = scene.services
    slo_s = service.demand.budgets[0][0]
    queue = [Waiting(slo_s * (place + 1) / _WAITING, 1, slo_s) for place in range(_WAITING)]
    return replace(scene, services=[replace(service, queue=queue)])


def several(fill: float) -> Callable[[np.random.Generator], Scene]:
    """Eight services that together want so much of the host; batches up to 8 rows, and all run already."""
    return lambda random: Scene(fleets.fleet(_MANY, 0, _HOST, fill, random))


CASES: dict[str, Callable[[np.random.Generator], Scene]] = {
    "as promised": promised,
    "batches of up to 8": batched,
    "switching cost": settled,
    "budgets from 5 to 100 %": spread,
    "16 waiting": queued,
    "eight services, host with room": several(fleets.ROOM),
    "eight services, full host": several(fleets.CROWDED),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """What was planned of a scene, with more demand, and with looser budgets; millicores."""

    case: str
    here: int
    busier: int
    looser: int


def run(toml: Path, _output: Path, options: Options) -> Finding:
    """Plan every pair. Raises ConfigError."""
    settings = load(toml, Settings)
    tasks = [(name, number, settings.seed) for name in CASES for number in range(settings.pairs)]

    def progress(done: int) -> None:
        options.progress(f"{toml.stem}: {done} of {len(tasks)} scenes")

    pairs = pool.spread(compare, tasks, options.jobs, progress)
    return Finding(
        experiment=toml.stem,
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings=machine() | {"seed": str(settings.seed), "scenes of each case": str(settings.pairs)},
        tables=[table(pairs)],
        goals=[goal(pairs)],
        notes=settings.notes,
    )


def compare(task: tuple[str, int, int]) -> Pair:
    """Plan a scene of a case, by its number and seed, three times."""
    name, number, seed = task
    random = np.random.default_rng([seed, list(CASES).index(name), number])
    scene = CASES[name](random)
    more, looser = random.uniform(1.02, _MOST_MORE), random.uniform(1.02, _MOST_LOOSER)
    return Pair(
        name,
        scene.millicores(),
        scene.busier(float(more)).millicores(),
        scene.looser(float(looser)).millicores(),
    )


def table(pairs: Sequence[Pair]) -> Table:
    """One row a case."""
    rows = []
    for name in dict.fromkeys(pair.case for pair in pairs):
        about = [pair for pair in pairs if pair.case == name]
        busier, looser = _less(about), _more(about)
        rows.append(
            (
                name,
                len(about),
                len(busier),
                100 * len(busier) / len(about),
                max(busier, default=0),
                len(looser),
                100 * len(looser) / len(about),
                max(looser, default=0),
            )
        )
    return Table(
        title="Where more is less",
        columns=(
            "case",
            "scenes",
            "more demand, less CPU",
            "in %",
            "by at most, millicores",
            "looser deadlines, more CPU",
            "in % ",
            "by at most, millicores ",
        ),
        rows=rows,
        note=f"Each scene is planned three times: as it is, with {_MOST_MORE:g} × the demand of one service at most, "
        f"and with budgets up to {_MOST_LOOSER:g} × as long for it. Every case but the first differs from it in what "
        "it is named for.",
    )


def goal(pairs: Sequence[Pair]) -> Goal:
    """The promise is about the first case alone."""
    about = [pair for pair in pairs if pair.case == next(iter(CASES))]
    found = len(_less(about)) + len(_more(about))
    return Goal(
        goal="one service, b = 1, no switching cost, within the host: "
        "more demand never plans less CPU, a looser deadline never more",
        measured=f"{found} of {2 * len(about)}",
        met=found == 0,
    )


def _less(pairs: Sequence[Pair]) -> list[int]:
    return [pair.here - pair.busier for pair in pairs if pair.busier < pair.here]


def _more(pairs: Sequence[Pair]) -> list[int]:
    return [pair.looser - pair.here for pair in pairs if pair.looser > pair.here]
