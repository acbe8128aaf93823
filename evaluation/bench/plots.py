"""A bench's first round in pictures: cores over time, and what share was on time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from evaluation.bench.policy import SPONGE
from evaluation.bench.record import Bench, Events
from evaluation.bench.score import Standing
from evaluation.experiment.finding import Plot

# Okabe and Ito's, which everybody can tell apart; ours is the first.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#59636d", "#8c6d31")
_STYLE = {
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "grid.color": "#d5d9dd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_WIDTH, _PANEL = 7.2, 1.9  # inches
_DPI = 130


def draw(
    bench: Bench, events: Sequence[Events], standings: Sequence[Standing], directory: Path, name: str
) -> list[Plot]:
    """Write NAME-cores.png and NAME-misses.png into `directory`. Raises OSError."""
    first = {trial.policy: seen for trial, seen in zip(bench.trials, events, strict=True) if trial.round == 1}
    policies = sorted(first, key=lambda policy: policy != SPONGE)
    colours = dict(zip(policies, _COLOURS * (1 + len(policies) // len(_COLOURS)), strict=False))
    with mpl.rc_context(_STYLE):
        cores, misses = _cores(bench, first, colours), _misses(bench, standings, colours)
    return [
        _saved(cores, directory, f"{name}-cores.png", "Offered load and cores reserved over the first round"),
        _saved(misses, directory, f"{name}-misses.png", "Avoidable misses against what was reserved"),
    ]


def _cores(bench: Bench, first: Mapping[str, Events], colours: Mapping[str, str]) -> Figure:
    figure, panels = _panels(2 * len(bench.services))
    end_s = bench.warmup_s + bench.seconds
    for number, service in enumerate(bench.services):
        load, cores = panels[2 * number], panels[2 * number + 1]
        load.set_title(f"{service.name}: requests/s offered")
        seen = next(iter(first.values()))
        edges = np.arange(0, end_s + 1)
        at = [row.scheduled_s for row in seen.rows if row.service == service.name]
        load.fill_between(
            edges[:-1], np.histogram(at, edges)[0], step="post", color="#59636d", alpha=0.4, lw=0
        )
        cores.set_title(f"{service.name}: cores reserved")
        for policy, colour in reversed(list(colours.items())):
            points = [p for p in first[policy].points if p.service == service.name and p.at_s <= end_s]
            quota = [point.cpu_millicores / 1000 for point in points]
            cores.step([p.at_s for p in points], quota, where="post", color=colour, lw=1.4, label=policy)
        for panel in (load, cores):
            panel.set_xlim(0, end_s)
            panel.set_ylim(bottom=0)
            panel.axvspan(0, bench.warmup_s, color="#d5d9dd", alpha=0.5, lw=0)
    panels[1].legend(ncols=4, loc="upper right")
    panels[-1].set_xlabel("seconds; shaded: the warm-up, which does not count")
    return figure


def _misses(bench: Bench, standings: Sequence[Standing], colours: Mapping[str, str]) -> Figure:
    figure, (panel,) = _panels(1, height=3.0)
    for standing in standings:
        if standing.service:
            continue
        panel.plot(
            [rounds / bench.seconds for rounds in standing.reserved.rounds],
            [standing.counts.avoidable_share] * len(standing.reserved.rounds),
            "o",
            color=colours[standing.policy],
            label=standing.policy,
        )
    panel.set_yscale("symlog", linthresh=1e-4)
    panel.yaxis.set_major_formatter(PercentFormatter(1))
    panel.set_ylim(bottom=0)
    panel.set_xlim(left=0)
    panel.set_xlabel("cores reserved, mean of each round")
    panel.set_title("avoidable misses of requests, over all rounds")
    panel.legend(ncols=2)
    return figure


def _panels(count: int, height: float = _PANEL) -> tuple[Figure, Sequence[Any]]:
    figure = Figure(figsize=(_WIDTH, 0.4 + count * height), layout="constrained")
    return figure, list(figure.subplots(count, 1, sharex=count > 1, squeeze=False)[:, 0])


def _saved(figure: Figure, directory: Path, file: str, caption: str) -> Plot:
    directory.mkdir(parents=True, exist_ok=True)
    figure.savefig(directory / file, dpi=_DPI, metadata={"Software": None})
    return Plot(file=file, caption=caption)
