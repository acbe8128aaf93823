"""How long planning takes, as tables and goals. Pure."""

from collections.abc import Sequence

from evaluation.experiment.finding import Goal, Table
from evaluation.experiment.planner_time import Planned, Solved, Took

# Services, and milliseconds at most in the median: from state to plan with 64 waiting each, and of the solver alone.
PLAN_GOALS = {1: 10, 8: 60, 32: 250}
SOLVER_GOALS = {1: 3, 8: 8, 32: 40, 128: 250, 256: 1000}
GAP_GOAL = 0.01
_GOAL_QUEUE = 64


def tables(plans: Sequence[Planned], solutions: Sequence[Solved]) -> list[Table]:
    """Everything that was timed."""
    return [
        Table(
            title="From state to plan",
            columns=(
                "services",
                "waiting each",
                "host cores",
                "host",
                "median ms",
                "p95 ms",
                "times",
                "status",
            ),
            rows=[
                (
                    one.services,
                    one.waiting,
                    one.host_cores,
                    "crowded" if one.crowded else "room",
                    one.took.median_ms,
                    one.took.p95_ms,
                    one.took.repetitions,
                    one.took.status,
                )
                for one in plans
            ],
            note="Fit of the latency models, table of configurations and solver, each time of another fleet. "
            "Up to 16 instances, 16 threads, 8 rows, in steps of 100 millicores.",
        ),
        Table(
            title="Solver alone",
            columns=(
                "services",
                "host cores",
                "costs",
                "contended",
                "near enough %",
                "median ms",
                "p95 ms",
                "times",
                "largest gap %",
            ),
            rows=[
                (
                    one.services,
                    one.host_cores,
                    one.problem.costs.value,
                    _contended(one),
                    100 * one.problem.gap if one.problem.memory_short else None,
                    one.took.median_ms,
                    one.took.p95_ms,
                    one.took.repetitions,
                    100 * one.took.gap,
                )
                for one in solutions
            ],
            note="Each time other menus, of which the cheapest do not fit together. Where CPU alone is contended "
            "the optimum is found; where memory is, too, a solution is taken that is proven to be near enough. As "
            "planned: costs fall with CPU as the planner's do, up to 40 choices; random: 20 choices of CPU, memory "
            "and cost that have nothing to do with each other.",
        ),
    ]


def goals(plans: Sequence[Planned], solutions: Sequence[Solved]) -> list[Goal]:
    """What was promised of planner and solver."""
    made = [
        Goal(
            goal=f"{_services(one.services)}: state to plan ≤ {most} ms",
            measured=_milliseconds(one.took),
            met=one.took.median_ms <= most,
        )
        for one in plans
        if one.crowded and one.waiting == _GOAL_QUEUE
        if (most := PLAN_GOALS.get(one.services)) is not None
    ]
    made += [
        Goal(
            goal=f"{_services(one.services)}, {one.problem.costs.value}, {_contended(one)} contended: "
            f"solver ≤ {most} ms at a gap ≤ {GAP_GOAL:.0%}",
            measured=f"{_milliseconds(one.took)}, gap at most {one.took.gap:.2%}",
            met=one.took.median_ms <= most and one.took.gap <= GAP_GOAL,
        )
        for one in solutions
        if one.problem.gap == GAP_GOAL
        if (most := SOLVER_GOALS.get(one.services)) is not None
    ]
    return made


def _contended(one: Solved) -> str:
    return "CPU and memory" if one.problem.memory_short else "CPU"


def _services(count: int) -> str:
    return "1 service" if count == 1 else f"{count} services"


def _milliseconds(took: Took) -> str:
    return f"{took.median_ms:.1f} ms in the median, p95 {took.p95_ms:.1f}"
