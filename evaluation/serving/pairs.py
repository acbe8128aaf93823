"""What pairs of measurements, taken one right after the other, say: a median and how sure it is. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.serving.sample import Sample

LEVEL = 0.90
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Pair:
    """Sponge and another server under the same load, in turns who is first."""

    ours: Sample
    theirs: Sample

    @property
    def throughput(self) -> float:
        """Right answers a second, as a multiple of theirs."""
        return self.ours.rps / self.theirs.rps if self.theirs.rps else math.inf

    @property
    def goodput_added(self) -> float:
        """Share in time above theirs."""
        return self.ours.goodput - self.theirs.goodput

    @property
    def cpu_ms_added(self) -> float:
        """CPU for an answer above theirs."""
        return self.ours.cpu_ms - self.theirs.cpu_ms

    @property
    def p50_ms_added(self) -> float:
        """Median latency above theirs."""
        return self.ours.latency_ms(0.5) - self.theirs.latency_ms(0.5)


@dataclass(frozen=True, slots=True)
class Interval:
    """The median of so many numbers, and where it would lie in 90 of 100 repetitions."""

    median: float
    low: float
    high: float
    count: int


def bootstrap(values: Sequence[float], seed: int = 1) -> Interval:
    """Give the median and its percentile bootstrap interval.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Raises ValueError for no values, or
    one that is no number.
    """
    known = np.array(values, float)
    if not known.size or np.isnan(known).any():
        raise ValueError(f"values: expected numbers, got {list(values)}")
    drawn = np.random.default_rng(seed).integers(0, known.size, (_RESAMPLES, known.size))
    medians = np.median(known[drawn], axis=1)
    outside = (1 - LEVEL) / 2
    low, high = np.quantile(medians, [outside, 1 - outside], method="nearest").tolist()
    return Interval(float(np.median(known)), low, high, known.size)
