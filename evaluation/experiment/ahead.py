"""Recorded arrivals, second by second: what the control plane expects of the next, and what comes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import poisson

from controlplane.demand import QUANTILE, Ahead, Demand, Forecast

WINDOWS = 5  # a second: as many samples as a worker sends


@dataclass(frozen=True, slots=True)
class Second:
    """What was expected of one second before it began, by a forecast that learns and by one that does not."""

    arrivals: int
    ahead: Ahead
    unlearned: Ahead


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the seconds of one trace, as shares; `later` of those in its second half."""

    seconds: int
    rate: float  # requests/s in the mean
    covered: float
    later: float
    unlearned: float
    above: float  # how much the quantile is above the mean that is expected, both over all seconds


def follow(counts: Sequence[int], rng: np.random.Generator) -> list[Second]:
    """Forecast every second but the first, from those before it; requests of a second are spread evenly by chance."""
    demand, forecast = Demand(), Forecast()
    found = []
    for second, count in enumerate(counts):
        if second:
            estimate = demand.estimate()
            ahead = forecast.ahead(estimate, 1.0)
            found.append(Second(count, ahead, Forecast().ahead(estimate, 1.0)))
            forecast.learn(ahead, count)
        for window, arrived in enumerate(rng.multinomial(count, [1 / WINDOWS] * WINDOWS).tolist(), 1):
            demand.record(1 / WINDOWS, arrived, arrived, [(1000.0, arrived)], second + window / WINDOWS)
    return found


def coverage(seconds: Sequence[Second]) -> Coverage:
    """Sum them up: two seconds or more, with a request in one."""
    covered = [second.arrivals <= second.ahead.upper for second in seconds]
    later = covered[len(covered) // 2 :]
    unlearned = sum(second.arrivals <= second.unlearned.upper for second in seconds)
    mean = math.fsum(second.ahead.mean for second in seconds)
    return Coverage(
        seconds=len(seconds),
        rate=sum(second.arrivals for second in seconds) / len(seconds),
        covered=sum(covered) / len(covered),
        later=sum(later) / len(later),
        unlearned=unlearned / len(seconds),
        above=math.fsum(second.ahead.upper for second in seconds) / mean - 1 if mean > 0 else 0.0,
    )


def known(rates: Sequence[float]) -> float:
    """How much the quantile would be above the mean if every second's rate were known and arrivals Poisson."""
    return float(poisson.ppf(QUANTILE, rates).sum() / sum(rates)) - 1
