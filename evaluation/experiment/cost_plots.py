"""Pictures of what control costs."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evaluation.experiment.effect_time import Effect, Step

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
