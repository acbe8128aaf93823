"""A bench as tables: all services of each policy, each service, and what else took CPU. Pure."""

from collections.abc import Sequence
from statistics import median

from evaluation.bench.policy import STATIC_MAX
from evaluation.bench.record import Bench
from evaluation.bench.score import Spread, Standing, too_busy
from evaluation.experiment.finding import Cell, Table
from evaluation.table import BUSY_SHARE

_CLASSES = (
    "Dead: less time left on arrival than any execution takes. Tight: less than 1.5 × the cheapest execution of one "
    "row. Avoidable misses: late, refused, failed or wrong among all others."
)


def tables(bench: Bench, standings: Sequence[Standing]) -> list[Table]:
    """Give all tables, from nothing but what was recorded."""
    return [
        _policies(bench, standings),
        _services(bench, standings),
        _starts(bench),
        _requests(bench, standings),
        _beside(bench),
    ]


def objection(bench: Bench) -> str:
    """Why nothing may be claimed of it; empty where something may."""
    busy = too_busy(bench, BUSY_SHARE)
    if not busy:
        return ""
    worst = max(busy, key=lambda trial: trial.host_busy_share)
    return (
        f"The host was more than {BUSY_SHARE:.0%} busy in {len(busy)} of {len(bench.trials)} runs (most with "
        f"{worst.policy}: {worst.host_busy_share:.0%}): these numbers are of the host's making, and nothing is claimed."
    )


def _policies(bench: Bench, standings: Sequence[Standing]) -> Table:
    whole = {standing.policy: standing for standing in standings if not standing.service}
    best = whole.get(STATIC_MAX)
    rows: list[list[Cell]] = []
    for policy, standing in whole.items():
        counts = standing.counts
        rows.append(
            [
                policy,
                counts.requests,
                _percent(counts.on_time, counts.requests),
                counts.avoidable,
                _percent(counts.avoidable, counts.requests),
                _spread(standing.reserved),
                _spread(standing.used),
                standing.reserved.middle / bench.seconds,
                None if best is None else 100 * standing.reserved.by(best.reserved),
            ]
        )
    done = "reserved" if bench.holds_quota else "asked for"
    return Table(
        title="Policies, all services",
        columns=(
            "policy",
            "requests",
            "on time, %",
            "avoidable misses",
            "of requests, %",
            f"core-s {done}",
            "core-s used",
            f"cores {done}",
            f"% of {STATIC_MAX}",
        ),
        rows=rows,
        note=f"Core-seconds of a round of {bench.seconds:g} s: the median of {_rounds(bench)}, with "
        f"the least and the most where there are several. Ratios are medians of those of each round. {_CLASSES}",
    )


def _services(bench: Bench, standings: Sequence[Standing]) -> Table:
    rows: list[list[Cell]] = []
    for service in bench.services:
        for standing in standings:
            if standing.service == service.name:
                counts = standing.counts
                rows.append(
                    [
                        service.name,
                        standing.policy,
                        counts.requests,
                        counts.dead,
                        f"{counts.tight_on_time} of {counts.tight}",
                        counts.avoidable,
                        counts.failed,
                        standing.p50_ms.middle,
                        standing.p99_ms.middle,
                        _spread(standing.reserved),
                        _spread(standing.used),
                    ]
                )
    return Table(
        title="Services",
        columns=(
            "service",
            "policy",
            "requests",
            "dead",
            "tight, on time",
            "avoidable misses",
            "failed or wrong",
            "p50 ms",
            "p99 ms",
            "core-s " + ("reserved" if bench.holds_quota else "asked for"),
            "core-s used",
        ),
        rows=rows,
        note="Percentiles are over all requests sent, unanswered ones as ∞: the median of the rounds.",
    )


def _starts(bench: Bench) -> Table:
    started = {trial.policy: trial.start for trial in bench.trials}
    names = [service.name for service in bench.services]
    return Table(
        title="What each policy begins with",
        columns=("policy", *names),
        rows=[[policy, *(start.get(name, "") for name in names)] for policy, start in started.items()],
    )


def _requests(bench: Bench, standings: Sequence[Standing]) -> Table:
    rows: list[list[Cell]] = []
    for service in bench.services:
        for standing in standings:
            if standing.service == service.name:
                used, executing = (
                    _each_ms(spread, standing.counts.answered)
                    for spread in (standing.used, standing.executing)
                )
                rows.append(
                    [service.name, standing.policy, used, executing, used - executing, service.row_ms]
                )
    return Table(
        title="CPU of a worker for each answer",
        columns=("service", "policy", "ms", "of it executions", "besides", "a row before the first round"),
        rows=rows,
        note="Means over all rounds. Executions: of the threads that start them, all there are where each has one. "
        "Where they take much more than a row alone did before, it is the host that is slower under this load.",
    )


def _beside(bench: Bench) -> Table:
    groups = list(dict.fromkeys(group for trial in bench.trials for group in trial.cpu_s))
    rows: list[list[Cell]] = []
    for policy in dict.fromkeys(trial.policy for trial in bench.trials):
        mine = [trial for trial in bench.trials if trial.policy == policy]
        taken = [median(trial.cpu_s.get(group, 0.0) for trial in mine) for group in groups]
        rows.append([policy, *taken, 100 * max(trial.host_busy_share for trial in mine)])
    return Table(
        title="CPU beside the workers, core-seconds of a run",
        columns=("policy", *groups, "host busy at most, %"),
        rows=rows,
        note="Medians over the rounds, warm-up included. The engine's is that of all its processes.",
    )


def _each_ms(core_seconds: Spread, answers: int) -> float:
    return 1000 * sum(core_seconds.rounds) / answers if answers else 0.0


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def _spread(spread: Spread) -> str:
    if len(spread.rounds) == 1:
        return f"{spread.middle:.1f}"
    return f"{spread.middle:.1f} ({min(spread.rounds):.1f} – {max(spread.rounds):.1f})"


def _rounds(bench: Bench) -> int:
    return max((trial.round for trial in bench.trials), default=0)
