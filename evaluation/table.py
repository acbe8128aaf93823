"""A result in numbers: for the terminal, and as JSON."""

import dataclasses
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evaluation.result import Cost, Result, Run
from evaluation.rows import Summary, summarise

SPONGE = "sponge"
# Above it everything on the host slows down everything else, and what is compared is luck.
BUSY_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Line:
    """One service over one run."""

    policy: str
    service: str
    summary: Summary
    cost: Cost

    @property
    def on_time_share(self) -> float:
        """Of all offered; 1 where none were."""
        return self.summary.attainment

    @property
    def on_time_share_of_living(self) -> float:
        """Of those that were not dead on arrival; 1 where all were."""
        living = self.summary.offered - self.summary.dead
        return self.summary.on_time / living if living else 1.0


@dataclass(frozen=True, slots=True)
class Total:
    """All services over one run."""

    policy: str
    offered: int
    on_time: int
    cost: Cost

    @property
    def on_time_share(self) -> float:
        """Of all offered; 1 where none were."""
        return self.on_time / self.offered if self.offered else 1.0


@dataclass(frozen=True, slots=True)
class Ratios:
    """Sponge's numbers by those of what it is compared with; None where those are 0."""

    reserved: float | None
    used: float | None
    on_time_share: float | None


def runs(result: Result) -> list[Run]:
    """All runs, Sponge's first."""
    return sorted(result.runs, key=lambda run: run.policy != SPONGE)


def lines(result: Result) -> list[Line]:
    """One line per service and run, in the order of the result's services, Sponge's run first."""
    summaries = [(run, summarise(run.rows, result.minimum_service_ms)) for run in runs(result)]
    return [
        Line(run.policy, service, by_service[service], run.cost.get(service, Cost(0.0, 0.0)))
        for service in result.slo_ms
        for run, by_service in summaries
        if service in by_service
    ]


def totals(result: Result) -> list[Total]:
    """One per run, Sponge's first."""
    every = lines(result)
    return [
        Total(
            run.policy,
            sum(line.summary.offered for line in every if line.policy == run.policy),
            sum(line.summary.on_time for line in every if line.policy == run.policy),
            Cost(
                sum(cost.reserved for cost in run.cost.values()), sum(cost.used for cost in run.cost.values())
            ),
        )
        for run in runs(result)
    ]


def ratios(ours: Line | Total, theirs: Line | Total) -> Ratios:
    """Compare two runs of the same requests."""

    def ratio(a: float, b: float) -> float | None:
        return a / b if b else None

    return Ratios(
        ratio(ours.cost.reserved, theirs.cost.reserved),
        ratio(ours.cost.used, theirs.cost.used),
        ratio(ours.on_time_share, theirs.on_time_share),
    )


def objection(result: Result) -> str:
    """Why nothing may be claimed of this result; empty where something may."""
    busy = [
        f"{run.policy} {_whole(run.host_busy_share)}"
        for run in runs(result)
        if run.host_busy_share > BUSY_SHARE
    ]
    if busy:
        return (
            f"The host was more than {_whole(BUSY_SHARE)} busy ({', '.join(busy)}):"
            " these numbers are of the host's making, and nothing is claimed."
        )
    return ""


def verb(result: Result) -> str:
    """What was done to the core-seconds that a run answers for."""
    return "reserved" if result.holds_quota else "asked for"


def headline(result: Result) -> str:
    """The result in a sentence."""
    if text := objection(result):
        return text
    first, *others = totals(result)
    own = percent(first.on_time_share)
    text = f"{first.policy.capitalize()} {verb(result)} {_amount(first.cost.reserved)} core-seconds"
    if not others or first.policy != SPONGE:
        return f"{text}, with {own} of requests on time."
    other = others[0]
    return (
        f"{text} where the {other.policy} {verb(result)} {_amount(other.cost.reserved)},"
        f" with {own} of requests on time against {percent(other.on_time_share)}."
    )


def percent(share: float) -> str:
    """Rounded down, not to the nearest: 100 % is only what missed nothing."""
    # Beyond the fifth digit there is only the float's own error.
    return f"{math.floor(round(share * 1000, 5)) / 10:.1f} %"


def milliseconds(value: float) -> str:
    """Three digits or whole milliseconds."""
    if math.isinf(value):
        return "∞"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the table; `bad` marks what should be 0."""

    title: str
    cell: Callable[[Line], str]
    bad: bool = False
    ends_section: bool = False


def measures(result: Result) -> list[Measure]:
    """What is told of every line, for terminal and report alike."""
    return [
        Measure("offered", lambda line: str(line.summary.offered)),
        Measure("on time", lambda line: str(line.summary.on_time)),
        Measure("late", lambda line: str(line.summary.late)),
        Measure("refused", lambda line: str(line.summary.refused)),
        Measure("dead on arrival", lambda line: str(line.summary.dead)),
        Measure("failed", lambda line: str(line.summary.failed), bad=True),
        Measure("wrong answers", lambda line: str(line.summary.wrong), bad=True, ends_section=True),
        Measure("on time, of all", lambda line: percent(line.on_time_share)),
        Measure("on time, dead aside", lambda line: percent(line.on_time_share_of_living)),
        Measure(
            "on time, of tight",
            lambda line: f"{line.summary.tight_on_time} of {line.summary.tight}",
            ends_section=True,
        ),
        Measure("p50 ms", lambda line: milliseconds(line.summary.p50_ms)),
        Measure("p95 ms", lambda line: milliseconds(line.summary.p95_ms)),
        Measure("p99 ms", lambda line: milliseconds(line.summary.p99_ms), ends_section=True),
        Measure(f"core-s {verb(result)}", lambda line: _amount(line.cost.reserved)),
        Measure("core-s used", lambda line: _amount(line.cost.used)),
    ]


def rich_table(result: Result) -> RenderableType:
    """The table for a terminal of 80 columns, with two services and two runs, and the headline below it.

    Measures go down and services across: what is to be compared stands side by side.
    """
    every = lines(result)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("")
    names = {run.policy: textwrap.wrap(run.policy, 11) for run in result.runs}
    depth = max(map(len, names.values()), default=0)
    previous = ""
    for line in every:
        name = names[line.policy]
        slo = f"SLO {milliseconds(result.slo_ms[line.service])} ms"
        title = [line.service, slo] if line.service != previous else ["", ""]
        table.add_column("\n".join([*title, *[""] * (depth - len(name)), *name]), justify="right")
        previous = line.service
    for measure in measures(result):
        cells = [measure.cell(line) for line in every]
        table.add_row(
            measure.title,
            *(Text(cell, "bold red" if measure.bad and cell != "0" else "") for cell in cells),
            end_section=measure.ends_section,
        )
    style = "bold yellow" if objection(result) else "bold"
    return Group(table, Text(headline(result), style), Text(side_notes(result), "dim"))


def side_notes(result: Result) -> str:
    """What else was going on while it was measured."""
    return "; ".join(
        f"{run.policy}: host {_whole(run.host_busy_share)} busy over {run.seconds:.0f} s,"
        f" load generator {_amount(run.generator_cpu_s)} core-s"
        for run in runs(result)
    )


def as_json(result: Result) -> dict[str, Any]:
    """The same numbers, ready for json.dumps; ∞ is null, and so are ratios that must not be claimed."""
    every = lines(result)
    return {
        "headline": headline(result),
        "objection": objection(result) or None,
        "settings": dict(result.settings),
        "slo_ms": dict(result.slo_ms),
        "minimum_service_ms": dict(result.minimum_service_ms),
        "holds_quota": result.holds_quota,
        "runs": [
            {
                "policy": run.policy,
                "seconds": run.seconds,
                "host_busy_share": run.host_busy_share,
                "generator_core_seconds": run.generator_cpu_s,
                "services": {line.service: _json_line(line) for line in every if line.policy == run.policy},
                "total": _json_total(total),
            }
            for run, total in zip(runs(result), totals(result), strict=True)
        ],
        "ratios": None if objection(result) else _json_ratios(result),
    }


def _json_line(line: Line) -> dict[str, Any]:
    counts = dataclasses.asdict(line.summary)
    del counts["service"]
    return {
        **{name: None if value == math.inf else value for name, value in counts.items()},
        "on_time_share": line.on_time_share,
        "core_seconds_reserved": line.cost.reserved,
        "core_seconds_used": line.cost.used,
    }


def _json_total(total: Total) -> dict[str, Any]:
    return {
        "offered": total.offered,
        "on_time": total.on_time,
        "on_time_share": total.on_time_share,
        "core_seconds_reserved": total.cost.reserved,
        "core_seconds_used": total.cost.used,
    }


def _json_ratios(result: Result) -> dict[str, Any]:
    """Sponge's run by each other one: of all services, and of each."""
    ours, *others = totals(result)
    by_name = {(line.policy, line.service): line for line in lines(result)}
    return {
        f"{ours.policy} / {theirs.policy}": {
            "total": dataclasses.asdict(ratios(ours, theirs)),
            "services": {
                service: dataclasses.asdict(
                    ratios(by_name[ours.policy, service], by_name[theirs.policy, service])
                )
                for service in result.slo_ms
                if (ours.policy, service) in by_name and (theirs.policy, service) in by_name
            },
        }
        for theirs in others
    }


def _whole(share: float) -> str:
    return f"{share * 100:.0f} %"


def _amount(core_seconds: float) -> str:
    return f"{core_seconds:.1f}"
