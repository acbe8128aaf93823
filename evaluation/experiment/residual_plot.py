"""The picture of residuals."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evaluation.experiment.cost_plots import COLOURS, STYLE, save
from evaluation.experiment.residual import Residual
from evaluation.experiment.residual_tables import MOST_ERROR


def plot(path: Path, found: Mapping[str, Sequence[Residual]]) -> None:
    """A panel for each model: predicted against observed 95 % quantiles, a colour for each quota."""
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(max(4.0, 3.2 * len(found)), 3.6), layout="constrained")
        panels = canvas.subplots(1, len(found), squeeze=False)[0]
        quotas = sorted({cell.setting.millicores for cells in found.values() for cell in cells})
        colours = dict(zip(quotas, (*COLOURS, "#333333", "#e69f00", "#56b4e9"), strict=False))
        for panel, (name, cells) in zip(panels, found.items(), strict=True):
            times = [1000 * value for cell in cells for value in (cell.upper_s, cell.predicted_upper_s)]
            ends = [min(times) / 1.3, max(times) * 1.3]
            panel.fill_between(
                ends,
                [end * (1 - MOST_ERROR) for end in ends],
                [end * (1 + MOST_ERROR) for end in ends],
                color="#dddddd",
                lw=0,
            )
            for quota in quotas:
                for planned in (True, False):
                    dots = [c for c in cells if c.setting.millicores == quota and c.planned == planned]
                    colour = colours.get(quota, "#333333")
                    panel.plot(
                        [1000 * cell.upper_s for cell in dots],
                        [1000 * cell.predicted_upper_s for cell in dots],
                        "o",
                        ms=4,
                        color=colour,
                        mfc=colour if planned else "none",
                        label=f"{quota} millicores" if planned else None,
                    )
            panel.set_xscale("log")
            panel.set_yscale("log")
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_locator(LogLocator(subs=(1, 3)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())
            panel.set_title(name)
            panel.set_xlabel("observed p95, ms")
        panels[0].set_ylabel("predicted p95, ms")
        handles, labels = panels[0].get_legend_handles_labels()
        canvas.legend(handles, labels, ncols=len(labels), loc="outside upper right")
        save(canvas, path)
