"""A service's runs as one figure of panels over time, in SVG that takes its colours from the page."""

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from evaluation.result import Result, Run
from evaluation.rows import Outcome, Row, judge
from evaluation.table import SPONGE, runs, verb

# What each role is drawn in; after rendering, the CSS variables of the page stand in their place, so that
# one figure serves light and dark. The values are only names here: any six digits not used otherwise.
_ROLES = {
    "page": "#090909",
    "ink": "#010101",
    "faint": "#020202",
    "sponge": "#030303",
    "fixed": "#040404",
    "on-time": "#050505",
    "late": "#060606",
    "unanswered": "#070707",
    "dead": "#080808",
}
# Late, refused and dead requests are all drawn; of those on time, which say the same over and over, so many.
MOST_DOTS = 2500

_STYLE = {
    "svg.fonttype": "none",  # text, not outlines: searchable, and in the page's font
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.edgecolor": _ROLES["faint"],
    "axes.labelcolor": _ROLES["ink"],
    "axes.titlecolor": _ROLES["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _ROLES["faint"],
    "grid.linewidth": 0.5,
    "text.color": _ROLES["ink"],
    "xtick.color": _ROLES["faint"],
    "ytick.color": _ROLES["faint"],
    "xtick.labelcolor": _ROLES["ink"],
    "ytick.labelcolor": _ROLES["ink"],
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.borderpad": 0,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
}


def figure(result: Result, service: str) -> str:
    """Give the panels of `service` as an `<svg>` element, the same bytes for the same result.

    Its colours are the CSS variables --ink, --faint, --sponge, --fixed, --on-time, --late, --unanswered,
    --dead and --page, which the page must define.
    """
    ordered = runs(result)
    # The hash makes ids that several figures on one page must not share.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": service}):
        heights = [1.7, 0.9, 1.0, 1.5, *[1.7] * len(ordered)]
        panels, canvas = _panels(heights)
        _allocation(panels[0], ordered, service, verb(result))
        _rate(panels[1], ordered[0], service)
        _queue(panels[2], ordered, service)
        _budget(panels[3], ordered[0], result, service)
        for panel, run in zip(panels[4:], ordered, strict=True):
            if panel is not panels[4]:
                panel.sharey(panels[4])
            _latency(panel, run, result, service)
        panels[-1].set_xlim(0, max(run.seconds for run in ordered))
        panels[-1].set_xlabel("seconds")
        for panel in panels:
            panel.patch.set_alpha(0)
        canvas.align_ylabels(panels)
        return _svg(canvas, f"{service}: allocation, load, queue, budgets and latency over time")


def _panels(heights: Sequence[float]) -> tuple[Any, Figure]:
    """Axes of these heights in inches, one above the other; placed by hand, as solvers differ in the last digit."""
    width, left, right, above, between, below = 6.4, 0.62, 0.1, 0.3, 0.4, 0.45
    height = above + sum(heights) + between * (len(heights) - 1) + below
    canvas = Figure(figsize=(width, height))
    canvas.patch.set_alpha(0)
    panels = canvas.subplots(
        len(heights),
        1,
        sharex=True,
        gridspec_kw={
            "height_ratios": heights,
            "left": left / width,
            "right": 1 - right / width,
            "top": 1 - above / height,
            "bottom": below / height,
            "hspace": between * len(heights) / sum(heights),
        },
    )
    return panels, canvas


def _allocation(panel: Any, ordered: Sequence[Run], service: str, done: str) -> None:
    panel.set_title(f"CPU {done}")
    highest = 0.1
    for run in reversed(ordered):  # Sponge's line on top
        points = [point for point in run.points if point.service == service]
        if not points:
            continue
        at = [point.at_s for point in points]
        quota = [point.cpu_millicores / 1000 for point in points]
        colour = _policy(run)
        panel.step(
            [*at, run.seconds], [*quota, quota[-1]], where="post", color=colour, label=run.policy, lw=1.6
        )
        if run.policy == SPONGE:
            used = [point.cores_used for point in points]
            panel.fill_between(at, used, color=colour, alpha=0.3, lw=0, label=f"{run.policy}, used")
            highest = max(highest, *used)
        highest = max(highest, *quota)
    panel.set_ylabel("cores")
    panel.set_ylim(0, 1.08 * highest)
    _legend(panel)


def _rate(panel: Any, run: Run, service: str) -> None:
    panel.set_title("Offered load")
    edges = np.arange(0, run.seconds + 1)
    count, _ = np.histogram([row.scheduled_s for row in run.rows if row.service == service], edges)
    panel.fill_between(edges[:-1], count, step="post", color=_ROLES["ink"], alpha=0.35, lw=0)
    panel.set_ylabel("requests/s")
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def _queue(panel: Any, ordered: Sequence[Run], service: str) -> None:
    panel.set_title("Queue depth")
    for run in reversed(ordered):
        points = [point for point in run.points if point.service == service]
        panel.plot(
            [point.at_s for point in points],
            [point.queue_depth for point in points],
            color=_policy(run),
            lw=1.2,
            label=run.policy,
        )
    panel.set_ylabel("requests")
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    _legend(panel)


def _budget(panel: Any, run: Run, result: Result, service: str) -> None:
    slo_ms, minimum_ms = result.slo_ms[service], result.minimum_service_ms.get(service, 0.0)
    floor = -0.25 * slo_ms
    panel.set_title("Budget left on arrival")
    rows = _judged(run, result, service)
    dead = [row for row in rows if row.outcome is Outcome.DEAD]
    living = _thinned([row for row in rows if row.outcome is not Outcome.DEAD])
    for part, name, role, mark in ((living, "alive", "on-time", "o"), (dead, "dead", "dead", "+")):
        budgets = [max(row.budget_on_arrival_ms, floor) for row in part]
        _dots(panel, [row.scheduled_s for row in part], budgets, role, mark, name)
    _line(panel, minimum_ms, "fastest execution")
    panel.set_ylim(floor * 1.15, slo_ms * 1.05)
    panel.set_ylabel("ms")
    panel.yaxis.set_major_locator(MaxNLocator(5))
    _legend(panel)


def _latency(panel: Any, run: Run, result: Result, service: str) -> None:
    slo_ms = result.slo_ms[service]
    panel.set_title(f"Latency, {run.policy}")
    rows = _judged(run, result, service)
    finite = [1000 * row.latency_s for row in rows if math.isfinite(row.latency_s)]
    lost_at = 1.6 * max([slo_ms, *finite])
    kinds = (
        ("on time", "on-time", "o", _thinned([row for row in rows if row.outcome is Outcome.ON_TIME])),
        ("dead", "dead", "+", [row for row in rows if row.outcome is Outcome.DEAD]),
        ("no right answer", "unanswered", "x", [row for row in rows if _unanswered(row)]),
        ("late", "late", "^", [row for row in rows if row.outcome is Outcome.LATE and not _unanswered(row)]),
    )
    for name, role, mark, part in kinds:
        latencies = [1000 * row.latency_s if math.isfinite(row.latency_s) else lost_at for row in part]
        _dots(panel, [row.scheduled_s for row in part], latencies, role, mark, name)
    _line(panel, slo_ms, "SLO")
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_ylabel("ms, log scale")
    _legend(panel)


def _unanswered(row: Row) -> bool:
    return row.outcome is not Outcome.DEAD and math.isinf(row.latency_s)


def _judged(run: Run, result: Result, service: str) -> list[Row]:
    minimum_ms = result.minimum_service_ms.get(service, 0.0)
    return [judge(row, minimum_ms) for row in run.rows if row.service == service]


def _thinned(rows: list[Row]) -> list[Row]:
    return rows[:: math.ceil(len(rows) / MOST_DOTS) or 1]


def _dots(panel: Any, x: Sequence[float], y: Sequence[float], role: str, mark: str, name: str) -> None:
    if not x:
        return
    if mark == "o":
        panel.plot(x, y, mark, color=_ROLES[role], markersize=2.4, markeredgewidth=0, alpha=0.6)
        panel.plot([], [], mark, color=_ROLES[role], markersize=4, markeredgewidth=0, label=name)
    else:
        panel.plot(x, y, mark, color=_ROLES[role], markersize=4, alpha=0.95, label=f"{name} ({len(x)})")


def _line(panel: Any, value: float, name: str) -> None:
    """A dashed line, named at its right end."""
    panel.axhline(value, color=_ROLES["ink"], lw=0.9, ls=(0, (4, 2)))
    panel.annotate(
        name,
        (1, value),
        xycoords=panel.get_yaxis_transform(),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7.5,
        bbox={"facecolor": _ROLES["page"], "edgecolor": "none", "alpha": 0.75, "pad": 1},
    )


def _policy(run: Run) -> str:
    return _ROLES["sponge" if run.policy == SPONGE else "fixed"]


def _legend(panel: Any) -> None:
    """In the title's line, where no data is."""
    if panel.get_legend_handles_labels()[0]:
        panel.legend(loc="lower right", bbox_to_anchor=(1, 1.0), ncols=4, borderaxespad=0.25)


def _svg(canvas: Figure, title: str) -> str:
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    svg = out.getvalue()
    # Groups are named alike in every figure, and nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])
    for role, colour in _ROLES.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg
