"""From what was recorded to what it comes to: classes of requests, misses that were avoidable, and cores. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

import numpy as np

from evaluation.bench.record import Bench, Events, Service, Trial
from evaluation.result import Point
from evaluation.rows import TIGHT_FACTOR, Outcome, Row


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests by the class of their budgets on arrival: dead, tight, and the rest, whose misses are avoidable."""

    requests: int
    answered: int  # with a result, right or wrong
    on_time: int
    dead: int
    tight: int
    tight_on_time: int
    rest: int
    avoidable: int  # late, refused, failed or wrong among the rest
    failed: int  # or wrong, of any class

    @classmethod
    def of(cls, rows: Sequence[Row], service: Service) -> Self:
        """Count the rows of `service`."""
        tight_ms = max(service.fastest_ms, TIGHT_FACTOR * service.row_ms)
        tight = [row for row in rows if service.fastest_ms <= row.budget_on_arrival_ms < tight_ms]
        rest = [row for row in rows if row.budget_on_arrival_ms >= tight_ms]
        return cls(
            requests=len(rows),
            answered=sum(row.answered for row in rows),
            on_time=_on_time(rows),
            dead=len(rows) - len(tight) - len(rest),
            tight=len(tight),
            tight_on_time=_on_time(tight),
            rest=len(rest),
            avoidable=len(rest) - _on_time(rest),
            failed=sum(row.outcome in (Outcome.FAILED, Outcome.WRONG) for row in rows),
        )

    def __add__(self, other: Self) -> "Counts":
        return Counts(
            self.requests + other.requests,
            self.answered + other.answered,
            self.on_time + other.on_time,
            self.dead + other.dead,
            self.tight + other.tight,
            self.tight_on_time + other.tight_on_time,
            self.rest + other.rest,
            self.avoidable + other.avoidable,
            self.failed + other.failed,
        )

    @property
    def avoidable_share(self) -> float:
        """Of all requests; 0 where there were none."""
        return self.avoidable / self.requests if self.requests else 0.0


NONE = Counts(0, 0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Spread:
    """One number by round, at least one."""

    rounds: tuple[float, ...]

    @property
    def middle(self) -> float:
        return median(self.rounds)

    def by(self, other: Self) -> float:
        """Median of the ratios of each round, in which both ran side by side; ∞ where the other is 0."""
        return median(a / b if b else math.inf for a, b in zip(self.rounds, other.rounds, strict=True))


@dataclass(frozen=True, slots=True)
class Standing:
    """A policy over all its rounds, of one service or of all; core-seconds and latencies by round."""

    policy: str
    service: str  # empty: all
    counts: Counts
    reserved: Spread
    used: Spread
    executing: Spread  # the part of `used` that executions took
    p50_ms: Spread
    p99_ms: Spread


@dataclass(frozen=True, slots=True)
class _Turn:
    """One service in one trial."""

    counts: Counts
    reserved: float
    used: float
    executing: float
    latencies_ms: Sequence[float]


def standings(bench: Bench, events: Sequence[Events]) -> list[Standing]:
    """Give each policy's standing with all services and with each, in order of first appearance.

    `events` are those of the bench's trials, in their order.
    """
    found = []
    for policy in dict.fromkeys(trial.policy for trial in bench.trials):
        rounds = [
            {service.name: _turn(bench, service, seen) for service in bench.services}
            for trial, seen in zip(bench.trials, events, strict=True)
            if trial.policy == policy
        ]
        found.append(_standing(policy, "", [list(turn.values()) for turn in rounds]))
        found += [_standing(policy, s.name, [[turn[s.name]] for turn in rounds]) for s in bench.services]
    return found


def _turn(bench: Bench, service: Service, seen: Events) -> _Turn:
    rows = [row for row in seen.rows if row.service == service.name and row.scheduled_s >= bench.warmup_s]
    points = [point for point in seen.points if point.service == service.name]
    span = bench.warmup_s, bench.warmup_s + bench.seconds
    return _Turn(
        Counts.of(rows, service),
        cost(points, [point.reserved_so_far for point in points], span),
        cost(points, [point.used_so_far for point in points], span),
        cost(points, [point.executing_so_far for point in points], span),
        [1000 * row.latency_s for row in rows],
    )


def cost(points: Sequence[Point], so_far: Sequence[float], span: tuple[float, float]) -> float:
    """Core-seconds between two moments, on straight lines between the points; 0 without any."""
    if not points:
        return 0.0
    begin, end = np.interp(span, [point.at_s for point in points], so_far)
    return float(end - begin)


def _standing(policy: str, service: str, rounds: Sequence[Sequence[_Turn]]) -> Standing:
    def spread(values: Iterable[float]) -> Spread:
        return Spread(tuple(values))

    def quantile(q: float) -> Spread:
        return spread(_quantile([ms for turn in turns for ms in turn.latencies_ms], q) for turns in rounds)

    return Standing(
        policy=policy,
        service=service,
        counts=sum((turn.counts for turns in rounds for turn in turns), NONE),
        reserved=spread(sum(turn.reserved for turn in turns) for turns in rounds),
        used=spread(sum(turn.used for turn in turns) for turns in rounds),
        executing=spread(sum(turn.executing for turn in turns) for turns in rounds),
        p50_ms=quantile(0.5),
        p99_ms=quantile(0.99),
    )


def _quantile(values: Sequence[float], q: float) -> float:
    """Of all requests, unanswered ones as ∞; numpy's "higher", so that nothing is interpolated with ∞."""
    return float(np.quantile(values, q, method="higher")) if values else 0.0


def _on_time(rows: Iterable[Row]) -> int:
    return sum(row.outcome is Outcome.ON_TIME for row in rows)


def too_busy(bench: Bench, share: float) -> list[Trial]:
    """Trials in which the host was busier than `share`: nothing can be claimed of them."""
    return [trial for trial in bench.trials if trial.host_busy_share > share]
