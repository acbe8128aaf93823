"""Open-loop schedules: which request of which service is due when, whatever became of those before. Pure."""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time in which requests come at `factor` × the base rate."""

    duration_s: float
    factor: float


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """One request: due `at_s` after the start of the run, with the payload of that index."""

    at_s: float
    service: str
    payload: int


def day(length_s: float) -> tuple[Phase, ...]:
    """Give base, burst (2 ×), base, lull (0.3 ×), base over `length_s`; the mean is the base rate.

    0.175·2 + 0.25·0.3 + 0.575·1 = 1, so an offer of 35 % in the mean is 70 % in the burst.
    """
    shares = ((0.2, 1.0), (0.175, 2.0), (0.175, 1.0), (0.25, 0.3), (0.2, 1.0))
    return tuple(Phase(share * length_s, factor) for share, factor in shares)


def phases(rates: Iterable[float], *, interval_s: float = 1.0) -> tuple[Phase, ...]:
    """Give one phase an interval for a recorded series of rates; with a base rate of 1 they are requests/s."""
    return tuple(Phase(interval_s, rate) for rate in rates)


def flash(seconds: float, factor: float, at_s: float, length_s: float) -> tuple[Phase, ...]:
    """Give a flash crowd: `factor` × the base rate for `length_s` from `at_s` on, the base rate otherwise.

    What lies beyond `seconds` is cut off. Raises ValueError for a crowd that does not begin before that.
    """
    if not (0 < factor < math.inf and 0 < length_s < math.inf):
        raise ValueError("expected a factor and a length above zero")
    if not 0 <= at_s < seconds:
        raise ValueError(f"expected it to begin within the {seconds:g} s of the run")
    end_s = min(at_s + length_s, seconds)
    stretches = ((at_s, 1.0), (end_s - at_s, factor), (seconds - end_s, 1.0))
    return tuple(Phase(duration_s, times) for duration_s, times in stretches if duration_s > 0)


def drift(seconds: float, factor: float) -> tuple[Phase, ...]:
    """Give a demand that rises slowly and falls again: one wave of a cosine over `seconds`, lowest at both ends.

    The mean is the base rate, the highest over the lowest rate `factor`; a step lasts a second at most. Raises
    ValueError for a factor below 1.
    """
    if not 1 <= factor < math.inf:
        raise ValueError("expected a factor of 1 or more")
    swing = (factor - 1) / (factor + 1)
    steps = max(2, math.ceil(seconds))
    return tuple(
        Phase(seconds / steps, 1 - swing * math.cos(2 * math.pi * (step + 0.5) / steps))
        for step in range(steps)
    )


def schedule(
    service: str, rate: float, pattern: Sequence[Phase], payloads: int, *, seed: int, poisson: bool = True
) -> tuple[Arrival, ...]:
    """Give the arrivals of one service over the whole pattern, in order of time.

    `rate` is requests/s at factor 1; payloads are drawn evenly from range(payloads). Poisson arrivals by
    default, else evenly spaced within what the rate allows. Raises ValueError for a negative rate or factor.
    """
    if rate < 0 or any(phase.factor < 0 or phase.duration_s <= 0 for phase in pattern):
        raise ValueError("expected a rate and factors of zero or more, and durations above zero")
    rng = np.random.default_rng(seed)
    # Expected count by time, piecewise linear. Unit-rate arrivals mapped through its inverse have the wanted
    # rate (time rescaling; Çınlar, Introduction to Stochastic Processes, 1975, ch. 4.7).
    border_s = np.cumsum([0.0, *(phase.duration_s for phase in pattern)])
    count = np.cumsum([0.0, *(phase.duration_s * phase.factor * rate for phase in pattern)])
    units = _unit_arrivals(float(count[-1]), rng) if poisson else np.arange(0.5, count[-1])
    # Where the rate is zero `count` is flat; the search finds the piece that carries the arrival.
    piece = np.searchsorted(count, units, side="left") - 1
    rates = np.array([phase.factor * rate for phase in pattern])
    times_s = border_s[piece] + (units - count[piece]) / rates[piece]
    chosen = rng.integers(payloads, size=len(units))
    return tuple(
        Arrival(float(at_s), service, int(payload)) for at_s, payload in zip(times_s, chosen, strict=True)
    )


def _unit_arrivals(total: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Poisson arrivals of rate 1 in (0, total)."""
    gaps = rng.exponential(size=int(total + 10 * total**0.5 + 20))  # ten standard deviations to spare
    times = np.cumsum(gaps)
    return times[times < total]


def merge(*schedules: Sequence[Arrival]) -> tuple[Arrival, ...]:
    """Put the schedules of several services into one, in order of time."""
    return tuple(heapq.merge(*schedules))
