"""The picture of a profile."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evaluation.experiment.cost_plots import COLOURS, STYLE, save
from evaluation.profiling import Cell

_STYLES = ("-", "--", ":", "-.")


def plot(path: Path, name: str, cells: Sequence[Cell]) -> None:
    """A panel for each quota: mean time by rows, up to the 95 % quantile, a line for each threads and instances.

    Raises OSError, and ValueError for a suffix that is no picture's.
    """
    quotas = sorted({cell.millicores for cell in cells})
    threads = sorted({cell.threads for cell in cells})
    instances = sorted({cell.instances for cell in cells})
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(max(4.8, 3.4 * len(quotas)), 3.6), layout="constrained")
        panels = canvas.subplots(1, len(quotas), squeeze=False, sharey=True)[0]
        for panel, quota in zip(panels, quotas, strict=True):
            for count in threads:
                for beside in instances:
                    line = [
                        cell
                        for cell in cells
                        if (cell.millicores, cell.threads, cell.instances) == (quota, count, beside)
                    ]
                    if not line:
                        continue
                    rows = [cell.rows for cell in line]
                    means = [cell.mean_ms for cell in line]
                    colour = COLOURS[threads.index(count) % len(COLOURS)]
                    style = _STYLES[instances.index(beside) % len(_STYLES)]
                    label = f"{count} threads" + (f" × {beside}" if len(instances) > 1 else "")
                    panel.plot(rows, means, style, marker="o", ms=4, color=colour, label=label)
                    panel.fill_between(rows, means, [c.p95_ms for c in line], color=colour, alpha=0.15, lw=0)
            panel.set_title(f"{quota} millicores" if quota else f"{name}, no quota")
            panel.set_xlabel("rows")
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        panels[0].set_ylabel("ms, mean to 95 % quantile")
        panels[0].legend()
        save(canvas, path)
