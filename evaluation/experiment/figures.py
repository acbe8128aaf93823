"""Pictures of a simulated experiment, by name."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from evaluation.experiment.quantity import QUANTITIES
from evaluation.experiment.trial import Trial
from evaluation.simulation.contest import BOUND, OURS

_INK, _FAINT, _PAGE = "#24292e", "#d5d9dd", "#ffffff"
# Okabe and Ito's, which everybody can tell apart; a policy has the same in every figure.
_COLOURS = {
    OURS: "#0072b2",
    "static-best": "#d55e00",
    "paper": "#009e73",
    "paper-nt": "#cc79a7",
    "fa2": "#e69f00",
    "usage-nt": "#56b4e9",
    BOUND: _INK,
}
_VARIANTS = (
    "#59636d",
    "#8c6d31",
    "#7b4173",
    "#637939",
    "#ad494a",
    "#6b6ecf",
    "#31a354",
    "#d6616b",
    "#393b79",
)
_PAYLOADS = {100: "#009e73", 200: "#e69f00", 500: "#d55e00"}  # KB, the paper's

_STYLE = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": _PAGE,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
}
_WIDTH = 7.2  # inches, of every figure
_DPI = 130
_MISSED_SHARE = QUANTITIES["missed-share"].of
_LEAST_SHARE = 1e-4  # up to here the scale of misses is linear, so that it shows none at all


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, and the case that it is of if not of all."""

    figure: Figure
    of: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """`draw` takes trials and the policies to show, ours first if it is among them."""

    draw: Callable[[Sequence[Trial], Sequence[str]], list[Drawing]]
    needs_series: bool = False


def save(drawing: Drawing, path: Path) -> None:
    """Write a PNG, the same bytes for the same figure. Raises OSError."""
    with mpl.rc_context(_STYLE):
        drawing.figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def slug(name: str) -> str:
    """Give what of a name may be in a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def policies(trials: Sequence[Trial], names: Sequence[str]) -> list[Drawing]:
    """One row a policy, one dot a case: what it reserved, and which share it missed."""
    with mpl.rc_context(_STYLE):
        figure, (cores, missed) = _rows(len(names))
        spread = np.random.default_rng(0).uniform(
            -0.28, 0.28, len(trials)
        )  # so that dots do not hide each other
        for row, name in enumerate(names):
            scores = [trial.scores[name] for trial in trials]
            colour = _colour(name, names)
            for panel, values in (
                (cores, [score.mean_cores for score in scores]),
                (missed, [_MISSED_SHARE(score) for score in scores]),
            ):
                if panel is missed and name == BOUND:
                    continue
                panel.plot(values, row + spread, "o", color=colour, ms=3.2, mew=0, alpha=0.55)
                median = float(np.median(values))
                panel.plot([median, median], [row - 0.38, row + 0.38], color=colour, lw=2)
        _label(cores, missed, list(names))
        cores.set_title("Mean cores; a dot a case, bar: median")
        return [Drawing(figure)]


def cases(trials: Sequence[Trial], names: Sequence[str]) -> list[Drawing]:
    """One row a case, one dot a policy: what it reserved, and which share it missed."""
    with mpl.rc_context(_STYLE):
        figure, (cores, missed) = _rows(len(trials), legend=True)
        for name in names:
            scores = [trial.scores[name] for trial in trials]
            rows = np.arange(len(trials)) + 0.5 * (names.index(name) / max(1, len(names) - 1) - 0.5)
            style = {"color": _colour(name, names), "ms": 6 if name == OURS else 4.5, "mew": 0}
            cores.plot([score.mean_cores for score in scores], rows, "o", label=name, **style)
            if name != BOUND:
                missed.plot([_MISSED_SHARE(score) for score in scores], rows, "o", **style)
        _label(cores, missed, [trial.case.name for trial in trials])
        cores.set_title("Mean cores")
        figure.legend(loc="outside lower center", ncols=min(len(names), 6))
        return [Drawing(figure)]


def price(trials: Sequence[Trial], names: Sequence[str]) -> list[Drawing]:
    """One dot a policy, over all cases: cores against the share missed; policies alike up to a colon make a line."""
    families: dict[str, list[tuple[float, float, str]]] = {}
    for name in names:
        scores = [trial.scores[name] for trial in trials]
        missed = sum(score.avoidable_missed for score in scores)
        had_time = sum(score.requests - score.dead_on_arrival - score.tight for score in scores)
        family, _, member = name.partition(":")
        families.setdefault(family, []).append(
            (float(np.mean([score.mean_cores for score in scores])), missed / max(had_time, 1), member)
        )
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
        panel = figure.subplots()
        for family, members in families.items():
            colour = _colour(family, list(families))
            if family == BOUND:
                panel.axvline(members[0][0], color=colour, lw=1, ls=":", label=family)
                continue
            cores, shares, labels = zip(*sorted(members), strict=True)
            panel.plot(cores, shares, "o-", color=colour, ms=5, mew=0, lw=1.2, label=family)
            for at, share, label in zip(cores, shares, labels, strict=True):
                panel.annotate(
                    label, (at, share), (4, 4), textcoords="offset points", color=colour, fontsize=7
                )
        panel.set_title("Avoidable misses, share of requests")
        panel.set_xlabel("mean cores")
        panel.set_yscale("symlog", linthresh=_LEAST_SHARE)
        panel.set_ylim(bottom=-0.2 * _LEAST_SHARE)
        panel.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        panel.set_xlim(left=0)
        panel.legend()
        return [Drawing(figure)]


def over_time(trials: Sequence[Trial], names: Sequence[str]) -> list[Drawing]:
    """One figure a case, as the paper draws them: bandwidth, what it leaves of the budget, misses and cores."""
    return [_drawn(_over_time(trial, names), trial, trials) for trial in trials]


def by_service(trials: Sequence[Trial], names: Sequence[str]) -> list[Drawing]:
    """One figure a case, one row a service: the cores it had under each policy, and what it missed."""
    return [_drawn(_by_service(trial, names), trial, trials) for trial in trials]


FIGURES = {
    "policies": Kind(policies),
    "cases": Kind(cases),
    "price": Kind(price),
    "by-service": Kind(by_service, needs_series=True),
    "over-time": Kind(over_time, needs_series=True),
}


def _over_time(trial: Trial, names: Sequence[str]) -> Figure:
    described = trial.case.description
    scenario = described.scenario()
    seconds = int(scenario.seconds)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 8.2), layout="constrained")
        bandwidth, budget, missed, cores = figure.subplots(4, 1, sharex=True)
        service = scenario.services[0]
        at = np.arange(seconds + 1)  # one more, so that the last step is as wide as the others
        carried = [service.link.delivered(float(second), second + 1.0) / 1e6 for second in at]
        bandwidth.fill_between(at, carried, step="post", color=_INK, alpha=0.35, lw=0)
        bandwidth.set_title("Bandwidth")
        bandwidth.set_ylabel("MB/s")
        bandwidth.set_ylim(bottom=0)
        slo_s = min(service.slo_s.values)
        for kb, colour in _PAYLOADS.items():
            left = [slo_s - (service.link.finish(float(second), 1024.0 * kb) - second) for second in at]
            budget.plot(at, np.maximum(left, -0.25 * slo_s), color=colour, lw=1, label=f"{kb} KB")
        budget.set_title(f"Left of {slo_s:g} s after the upload of a request sent then")
        budget.set_ylabel("seconds")
        budget.axhline(0, color=_INK, lw=0.8)
        for name in reversed(names):  # ours, which comes first, on top
            colour, width = _colour(name, names), 1.9 if name == OURS else 1.2
            series = trial.series[name]
            gone = np.cumsum(_summed([one.avoidable_missed for one in series]))
            missed.step(np.arange(len(gone)), gone, where="post", color=colour, lw=width)
            held = _summed([one.core_seconds for one in series])[:seconds]
            cores.step(at, [*held, held[-1]], where="post", color=colour, lw=width, label=name)
        missed.set_title("Avoidable misses so far")
        missed.set_yscale("symlog", linthresh=10)
        missed.set_ylim(0, max(10.0, 1.2 * missed.get_ylim()[1]))
        missed.set_ylabel("requests")
        cores.set_title("Cores reserved")
        cores.set_ylim(bottom=0)
        cores.yaxis.set_major_locator(MaxNLocator(integer=True))
        cores.set_xlabel("seconds")
        cores.set_xlim(0, seconds)
        budget.legend(loc="lower right", bbox_to_anchor=(1, 1.0), ncols=3, borderaxespad=0.1)
        figure.legend(*_reversed(cores), loc="outside lower center", ncols=min(len(names), 6))
        return figure


def _by_service(trial: Trial, names: Sequence[str]) -> Figure:
    seconds = int(trial.case.description.seconds)
    shown = [name for name in names if name in trial.series]
    services = [one.service for one in trial.series[shown[0]]]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 0.8 + 1.6 * len(services)), layout="constrained")
        rows = figure.subplots(len(services), 2, sharex=True, squeeze=False)
        for index, (service, (cores, missed)) in enumerate(zip(services, rows, strict=True)):
            for name in reversed(shown):
                one = trial.series[name][index]
                style = {"where": "post", "color": _colour(name, names), "lw": 1.7 if name == OURS else 1.1}
                held, gone = one.core_seconds[:seconds], np.cumsum(one.avoidable_missed)
                cores.step(np.arange(len(held)), held, label=name, **style)
                missed.step(np.arange(len(gone)), gone, **style)
            cores.set_title(f"{service}: cores")
            missed.set_title("avoidable misses so far")
            cores.set_ylim(bottom=0)
            missed.set_ylim(0, max(10.0, missed.get_ylim()[1]))
        for panel in rows[-1]:
            panel.set_xlabel("seconds")
            panel.set_xlim(0, seconds)
        figure.legend(*_reversed(rows[0][0]), loc="outside lower center", ncols=min(len(shown), 6))
        return figure


def _drawn(figure: Figure, trial: Trial, trials: Sequence[Trial]) -> Drawing:
    return Drawing(figure, trial.case.name if len(trials) > 1 else "")


def _summed(services: Sequence[Any]) -> Any:
    """Of services whose last request is due at different times."""
    total = np.zeros(max(len(one) for one in services))
    for one in services:
        total[: len(one)] += one
    return total


def _reversed(panel: Any) -> tuple[list[Any], list[str]]:
    handles, labels = panel.get_legend_handles_labels()
    return handles[::-1], labels[::-1]


def _rows(count: int, *, legend: bool = False) -> tuple[Figure, Any]:
    height = 1.0 + 0.34 * count + (0.5 if legend else 0.0)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots(1, 2, sharey=True)


def _label(cores: Any, missed: Any, rows: Sequence[str]) -> None:
    cores.set_yticks(range(len(rows)), rows)
    cores.set_ylim(len(rows) - 0.5, -0.5)
    cores.set_xlim(left=0)
    missed.set_title("Avoidable misses, share of requests")
    missed.set_xscale("symlog", linthresh=_LEAST_SHARE)
    missed.set_xlim(-0.2 * _LEAST_SHARE, 1)
    missed.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))


def _colour(name: str, names: Sequence[str]) -> str:
    variants = [other for other in names if other not in _COLOURS]
    return _COLOURS[name] if name in _COLOURS else _VARIANTS[variants.index(name) % len(_VARIANTS)]
