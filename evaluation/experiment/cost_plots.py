"""Pictures of what control costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evaluation.experiment.effect_time import Effect, Step
from evaluation.experiment.planner_time import Timing

# Of Okabe and Ito, told apart also by those who see no red or green.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
_DPI = 120


def growth(
    path: Path,
    plans: Sequence[Timing],
    solutions: Sequence[Timing],
    plan_goals: Mapping[int, float],
    solver_goals: Mapping[int, float],
) -> None:
    """Milliseconds against services, both logarithmic: planning for each queue length, and the solver alone."""
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(6.4, 4.2), layout="constrained")
        panel = canvas.subplots()
        crowded = [timing for timing in plans if timing.case.crowded]
        queues = sorted({timing.case.waiting for timing in crowded})
        for colour, waiting, marker in zip(COLOURS, queues, "osD^", strict=False):
            line = [timing for timing in crowded if timing.case.waiting == waiting]
            _medians(panel, line, colour, marker, f"state to plan, {waiting} waiting each")
        _medians(panel, solutions, "#333333", "v", "solver alone")
        for goals, colour, label in (
            (plan_goals, COLOURS[min(1, len(queues) - 1)], "goal, state to plan, 64 waiting"),
            (solver_goals, "#333333", "goal, solver alone"),
        ):
            panel.plot(list(goals), list(goals.values()), "x", color=colour, ms=8, mew=1.8, label=label)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        counts = sorted(
            {*plan_goals, *solver_goals, *(timing.case.services for timing in (*plans, *solutions))}
        )
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.set_xlabel("services")
        panel.set_ylabel("milliseconds")
        panel.legend(fontsize=8, loc="upper left")
        save(canvas, path)


def effects(path: Path, measured: Sequence[Effect]) -> None:
    """Cumulative share of resizes against milliseconds; a colour for each actuator, a dash for each step."""
    dashes = {Step.DISTRESS: "-", Step.DECISION: "--", Step.OWNER: ":"}
    ways = list(dict.fromkeys(effect.way for effect in measured))
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(6.4, 3.6), layout="constrained")
        panel = canvas.subplots()
        for effect in measured:
            milliseconds = 1000 * np.sort(effect.seconds)
            share = np.arange(1, len(milliseconds) + 1) / len(milliseconds)
            panel.step(
                milliseconds,
                share,
                where="post",
                color=COLOURS[ways.index(effect.way)],
                ls=dashes[effect.step],
                label=f"{effect.way.value}, {effect.step.value}",
            )
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_ylim(0, 1.01)
        panel.set_xlabel("milliseconds until the larger quota is in force")
        panel.set_ylabel("share of resizes")
        canvas.legend(fontsize=8, loc="outside lower center", ncols=len(ways))
        save(canvas, path)


def save(canvas: Figure, path: Path) -> None:
    """Write a PNG; the same bytes for the same picture."""
    canvas.savefig(path, dpi=_DPI, metadata={"Software": None})


def _medians(panel: Any, line: Sequence[Timing], colour: str, marker: str, label: str) -> None:
    counts = [timing.case.services for timing in line]
    medians = [timing.median_ms for timing in line]
    panel.plot(counts, medians, f"{marker}-", color=colour, ms=4.5, label=label)
    panel.fill_between(counts, medians, [timing.p95_ms for timing in line], color=colour, alpha=0.15, lw=0)
