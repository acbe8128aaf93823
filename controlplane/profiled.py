"""Latency models of what is known beforehand: executions that were profiled, or a curve."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from controlplane.curve import Curve
from controlplane.latency import UPPER, LatencyModel
from controlplane.shape import ladder

# The fewest that have a 99 % quantile besides their longest; a cell keeps 128.
_EXECUTIONS = 100
# Of the mean: beyond, nothing below the median would be short enough to make up for what lies above it.
MAX_SPREAD = 1.8


@dataclass(frozen=True, slots=True)
class Times:
    """Executions of one number of rows on one number of threads, one at a time; seconds, quantiles rising."""

    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float


def of_times(times: Mapping[tuple[int, int], Times], quantile: float = UPPER) -> LatencyModel:
    """Give what is believed of a model after a hundred such executions of each (rows, threads)."""
    model = LatencyModel(quantile)
    for (rows, threads), cell in times.items():
        for work_s in executions(cell):
            model.record(rows, threads, work_s, 1.0, 0.0)
    return model


def of_curve(
    curve: Curve, spread: float, max_threads: int, max_batch: int, quantile: float = UPPER
) -> LatencyModel:
    """Give a model that is the curve within the maxima, for 1, 2, 4, … threads.

    `spread`, up to MAX_SPREAD, is the 95 % quantile, and all above it, as a multiple of the mean.
    """
    # So many that the model finds the curve to be right where there is none.
    cells = [(rows, 1 << power) for power in range(max_threads.bit_length()) for rows in ladder(max_batch)]
    times = {}
    for rows, threads in cells:
        mean_s = curve.work(float(rows), float(threads))
        times[rows, threads] = Times(mean_s, mean_s, spread * mean_s, spread * mean_s)
    return of_times(times, quantile)


def executions(times: Times, count: int = _EXECUTIONS) -> list[float]:
    """Give `count` durations of these quantiles, and of this mean as far as the quantiles leave it open.

    Between the quantiles they rise evenly, above the last they are level; below the median they fall as the mean asks.
    """
    ranks = np.arange(1, count + 1) / count
    durations = np.interp(ranks, [0.5, 0.95, 0.99], [times.p50_s, times.p95_s, times.p99_s])
    depth = np.maximum(0.5 - ranks, 0.0)
    surplus = durations.sum() - count * times.mean_s
    slope = min(max(0.0, surplus / depth.sum()), times.p50_s / 0.5)
    found: list[float] = (durations - slope * depth).tolist()
    return found
