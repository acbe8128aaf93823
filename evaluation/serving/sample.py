"""Loads that servers are put under, and what was seen of one within a window. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Closed:
    """So many clients, each of which sends its next request when it has its answer."""

    concurrency: int


@dataclass(frozen=True, slots=True)
class Open:
    """Poisson arrivals that wait for nobody, each with a deadline."""

    rate: float  # a second
    deadline_ms: float
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Loop:
    """No requests: one batch of so many rows after the other."""

    rows: int


Load = Closed | Open | Loop


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened within a window. Latencies are of right answers, from when each was due to be sent."""

    seconds: float
    offered: int  # requests or rows that ended in the window; of open loops those that were due in it
    latencies_s: tuple[float, ...]
    in_time: int  # right, and by the deadline if there was one
    wrong: int
    unanswered: int  # refused, expired or failed
    cpu_s: float
    client_cpu_s: float
    lag_s: float = 0.0  # by which the client sent too late, 99 % quantile; latencies include it

    @property
    def rps(self) -> float:
        """Right answers a second."""
        return len(self.latencies_s) / self.seconds

    @property
    def goodput(self) -> float:
        """Share of what was offered that was answered right and in time."""
        return self.in_time / self.offered if self.offered else 0.0

    @property
    def cpu_ms(self) -> float:
        """CPU of the server, for each right answer; ∞ without any."""
        return 1000 * self.cpu_s / len(self.latencies_s) if self.latencies_s else math.inf

    def latency_ms(self, quantile: float) -> float:
        """Over all that was offered, what got no right answer as ∞."""
        seen = [*self.latencies_s, *[math.inf] * (self.offered - len(self.latencies_s))]
        return 1000 * float(np.quantile(seen, quantile, method="higher")) if seen else math.inf


def arrivals(load: Open, seconds: float) -> list[float]:
    """When requests are due, from 0 on; the same for every server."""
    rng = np.random.default_rng(load.seed)
    count = int(load.rate * seconds * 2 + 100)
    times = np.cumsum(rng.exponential(1 / load.rate, count))
    found: list[float] = times[times < seconds].tolist()
    return found


def merged(samples: Sequence[Sample]) -> Sample:
    """All windows as one; the worst lag of them."""
    return Sample(
        seconds=sum(sample.seconds for sample in samples),
        offered=sum(sample.offered for sample in samples),
        latencies_s=tuple(latency for sample in samples for latency in sample.latencies_s),
        in_time=sum(sample.in_time for sample in samples),
        wrong=sum(sample.wrong for sample in samples),
        unanswered=sum(sample.unanswered for sample in samples),
        cpu_s=sum(sample.cpu_s for sample in samples),
        client_cpu_s=sum(sample.client_cpu_s for sample in samples),
        lag_s=max((sample.lag_s for sample in samples), default=0.0),
    )
