"""The picture of CFS periods."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evaluation.experiment.cost_plots import COLOURS, STYLE, save
from evaluation.experiment.rounds import (
    Rounds,
    Statistic,
    cpu_ms,
    health_ms,
    median,
    ratio,
    service_ms,
    spread,
)


def plot(path: Path, measured: Mapping[str, Rounds], reference_ms: int) -> None:
    """A row of panels for each model: a line for each period, against the quota."""
    panels: tuple[tuple[str, Statistic], ...] = (
        ("service time p95, ms", service_ms(95)),
        ("health check p99, ms", health_ms(99)),
        ("CPU of an execution, ×", cpu_ms),
    )
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(9.6, 2.9 * len(measured)), layout="constrained")
        grid = canvas.subplots(len(measured), len(panels), squeeze=False)
        for row, (model, rounds) in zip(grid, measured.items(), strict=True):
            for panel, (label, statistic) in zip(row, panels, strict=True):
                relative = statistic is cpu_ms
                for colour, period in zip(COLOURS, dict.fromkeys(s.period_ms for s in rounds), strict=False):
                    line = [setting for setting in rounds if setting.period_ms == period]
                    cores = [setting.quota_millicores / 1000 for setting in line]
                    if relative:
                        values = [ratio(rounds, setting, reference_ms, statistic) for setting in line]
                        panel.plot(cores, values, "o-", color=colour, ms=4, label=f"{period} ms")
                        continue
                    values = [median(rounds[setting], statistic) for setting in line]
                    ranges = [spread(rounds[setting], statistic) for setting in line]
                    bars = np.abs(np.array(ranges).T - values)
                    style = {"fmt": "o-", "ms": 4, "capsize": 2, "elinewidth": 0.8}
                    panel.errorbar(cores, values, bars, color=colour, label=f"{period} ms", **style)
                if not relative:
                    panel.set_yscale("log")
                    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                    panel.yaxis.set_minor_formatter(NullFormatter())
                panel.set_title(f"{model}: {label}")
                panel.set_xlabel("quota, cores")
                panel.set_xticks(sorted({setting.quota_millicores / 1000 for setting in rounds}))
        handles, labels = grid[0][0].get_legend_handles_labels()
        canvas.legend(
            handles, [f"period {label}" for label in labels], ncols=len(labels), loc="outside upper right"
        )
        save(canvas, path)
