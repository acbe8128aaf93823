"""Experiment «planner»: how long a decision takes, from state to plan and in the solver alone, as fleets grow."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from controlplane import config
from core.config import Section, load
from evaluation.experiment import planner_plot, planner_tables, planner_time
from evaluation.experiment.finding import Finding, Plot, machine
from evaluation.experiment.fleets import CROWDED, ROOM
from evaluation.experiment.footprint import HostLoad
from evaluation.experiment.kinds import Options
from evaluation.experiment.planner_tables import GAP_GOAL, PLAN_GOALS, SOLVER_GOALS
from evaluation.experiment.planner_time import Costs, Patience, Planned, Problem, Solved

Positive = Annotated[int, Meta(ge=1)]

# Beyond so many services only crowded hosts are planned: what differs is the solver, which is timed alone.
_MOST_WITH_ROOM = 32


class Settings(Section, frozen=True, kw_only=True):
    """A whole planner.toml."""

    kind: Literal["planner"]
    title: str
    question: str
    seed: Annotated[int, Meta(ge=0)]
    host_cores: Positive
    services: Annotated[list[Positive], Meta(min_length=1)]
    queue: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)]
    # Of each case: repetitions at least and at most, and seconds after which no more of them begin.
    least: Positive
    most: Positive
    seconds: Annotated[float, Meta(gt=0)]
    notes: tuple[str, ...] = ()


def run(toml: Path, output: Path, options: Options) -> Finding:
    """Time every case, one after the other, in one process. Raises ConfigError."""
    settings = load(toml, Settings)
    patience = Patience(settings.least, settings.most, options.seconds or settings.seconds)
    host = HostLoad()
    plans = _plans(settings, patience, options)
    solutions = _solutions(settings, patience, options)
    busy = host.share()
    growth = f"{toml.stem}-growth.png"
    planner_plot.growth(
        output / growth,
        plans,
        [one for one in solutions if one.problem.gap == GAP_GOAL],
        PLAN_GOALS,
        SOLVER_GOALS,
    )
    return Finding(
        experiment=toml.stem,
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings=machine() | {"host": f"{busy:.0%} busy", "seed": str(settings.seed)},
        tables=planner_tables.tables(plans, solutions),
        goals=planner_tables.goals(plans, solutions),
        plots=[
            Plot(
                file=growth,
                caption="Time against services, crowded hosts: medians up to p95; crosses are goals.",
            )
        ],
        notes=settings.notes,
    )


def _plans(settings: Settings, patience: Patience, options: Options) -> list[Planned]:
    found = []
    for fill in (ROOM, CROWDED):
        counts = [count for count in settings.services if fill >= 1 or count <= _MOST_WITH_ROOM]
        for one in planner_time.plans(
            counts, settings.queue, settings.host_cores, fill, patience, settings.seed
        ):
            options.progress(f"planned {one.services} services, {one.waiting} waiting each")
            found.append(one)
    return found


def _solutions(settings: Settings, patience: Patience, options: Options) -> list[Solved]:
    """For CPU alone there is no gap to choose: the optimum is found."""
    own = config.Planner().solver_gap
    problems = [Problem(costs, short, GAP_GOAL) for costs in Costs for short in (False, True)]
    problems += [Problem(costs, True, own) for costs in Costs]
    found = []
    for problem in problems:
        for one in planner_time.solutions(
            settings.services, settings.host_cores, problem, patience, settings.seed
        ):
            options.progress(f"solved for {one.services} services, costs {problem.costs.value}")
            found.append(one)
    return found
