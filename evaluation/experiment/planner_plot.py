"""The picture of how long planning takes as fleets grow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from evaluation.experiment.cost_plots import COLOURS, STYLE, save
from evaluation.experiment.planner_time import Costs, Planned, Solved, Took


def growth(
    path: Path,
    plans: Sequence[Planned],
    solutions: Sequence[Solved],
    plan_goals: Mapping[int, float],
    solver_goals: Mapping[int, float],
) -> None:
    """Milliseconds against services, both logarithmic: planning for each queue length, and the solver alone."""
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(9.6, 4.2), layout="constrained")
        left, right = canvas.subplots(1, 2, sharey=True)
        crowded = [one for one in plans if one.crowded]
        timed = {one.services for one in plans} | {one.services for one in solutions}
        counts = sorted({*plan_goals, *solver_goals, *timed})
        for colour, waiting, marker in zip(
            COLOURS, sorted({one.waiting for one in crowded}), "osD^", strict=False
        ):
            line = [(one.services, one.took) for one in crowded if one.waiting == waiting]
            _medians(left, line, f"{marker}-", colour, f"{waiting} waiting each")
        for colour, costs, marker in zip(COLOURS, Costs, "os", strict=False):
            for short, dash in ((False, "-"), (True, "--")):
                line = [
                    (one.services, one.took)
                    for one in solutions
                    if one.problem.costs is costs and one.problem.memory_short is short
                ]
                of = "CPU and memory" if short else "CPU"
                _medians(right, line, f"{marker}{dash}", colour, f"costs {costs.value}, {of} contended")
        for panel, title, goals in (
            (left, "from state to plan", plan_goals),
            (right, "solver alone, to a gap of 1 %", solver_goals),
        ):
            panel.plot(list(goals), list(goals.values()), "x", color="#333333", ms=8, mew=1.8, label="goal")
            panel.set_title(title)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(counts, [str(count) for count in counts])
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.set_xlabel("services")
            panel.legend(fontsize=8, loc="upper left")
        left.set_ylabel("milliseconds")
        save(canvas, path)


def _medians(panel: Any, line: Sequence[tuple[int, Took]], style: str, colour: str, label: str) -> None:
    counts = [count for count, _ in line]
    medians = [took.median_ms for _, took in line]
    panel.plot(counts, medians, style, color=colour, ms=4.5, label=label)
    panel.fill_between(counts, medians, [took.p95_ms for _, took in line], color=colour, alpha=0.15, lw=0)
