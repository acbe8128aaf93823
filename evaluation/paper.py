"""The Sponge paper's rule (EuroMLSys 2024) for one execution on whole cores: baseline and reference."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Point:
    """Latency measured at one batch size and core count."""

    batch: int
    cores: int
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Latency in ms over batch size b and cores c: l(b, c) = γ·b/c + δ·b + ε/c + η, as in the paper."""

    gamma: float
    delta: float
    epsilon: float
    eta: float

    def latency_ms(self, batch: int, cores: int) -> float:
        """Predict one execution; nothing keeps the paper's plain fit from being wrong or even negative."""
        return (self.gamma * batch + self.epsilon) / cores + self.delta * batch + self.eta

    def r_squared(self, points: Sequence[Point]) -> float:
        """Coefficient of determination over `points`."""
        latency = np.array([p.latency_ms for p in points])
        residual = latency - [self.latency_ms(p.batch, p.cores) for p in points]
        return float(1 - np.sum(residual**2) / np.sum((latency - latency.mean()) ** 2))


@dataclass(frozen=True, slots=True)
class Size:
    """What the rule chooses."""

    cores: int
    batch: int


def read_profile(path: Path, column: str = "model_latencies_p99") -> list[Point]:
    """Read a latency grid of the paper's authors (CSV, seconds).

    Raises OSError, and KeyError or ValueError for a file of another format.
    """
    with path.open(newline="") as file:
        return [
            Point(int(row["max_batch_size"]), int(row["cpu_request"]), 1000 * float(row[column]))
            for row in csv.DictReader(file)
        ]


def fit(points: Sequence[Point]) -> Curve:
    """Ordinary least squares, coefficients of any sign, as the paper does it; four points at the least."""
    matrix = np.array([[p.batch / p.cores, p.batch, 1 / p.cores, 1.0] for p in points])
    solution, *_ = np.linalg.lstsq(matrix, np.array([p.latency_ms for p in points]), rcond=None)
    return Curve(*solution.tolist())


def feasible(curve: Curve, size: Size, rate: float, budget_ms: float) -> bool:
    """Whether a second's arrivals, were they to come in one burst, are served within `budget_ms`.

    ⌈λ/b⌉·⌊l(b, c)⌋ ≤ budget, with `rate` λ in requests/s. The budget is what the SLO leaves after the slowest
    upload of the second; the authors' code takes 90 % of the SLO for it.
    """
    return math.ceil(rate / size.batch) * math.floor(curve.latency_ms(size.batch, size.cores)) <= budget_ms


def smallest(
    curve: Curve, rate: float, budget_ms: float, max_cores: int = 16, max_batch: int = 8
) -> Size | None:
    """Fewest cores, then the smallest batch, that are feasible; None if nothing is."""
    for cores in range(1, max_cores + 1):
        for batch in range(1, max_batch + 1):
            size = Size(cores, batch)
            if feasible(curve, size, rate, budget_ms):
                return size
    return None
