"""Cells of a latency grid, each predicted by all others: by the control plane's model, by plain least squares."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controlplane import profiled
from controlplane.profiled import Times
from evaluation import paper
from evaluation.paper import Point

# Least squares has four coefficients, and a cell less than there are.
FEWEST = 5


@dataclass(frozen=True, slots=True)
class Prediction:
    """One cell as measured, and as predicted by the others; seconds, the upper ones being 95 % quantiles.

    `inner` cells lie between others in rows and in threads; the rest takes extrapolation.
    """

    rows: int
    threads: int
    inner: bool
    measured: Times
    mean_s: float
    upper_s: float
    fitted_mean_s: float
    fitted_upper_s: float

    @property
    def error(self) -> float:
        """Of the model's mean, as a share of what was measured; above zero where it is too long."""
        return self.mean_s / self.measured.mean_s - 1

    @property
    def fitted_error(self) -> float:
        """The same of least squares."""
        return self.fitted_mean_s / self.measured.mean_s - 1

    @property
    def under(self) -> bool:
        """Whether the model's upper estimate is less than was measured."""
        return self.upper_s < self.measured.p95_s

    @property
    def fitted_under(self) -> bool:
        """The same of least squares."""
        return self.fitted_upper_s < self.measured.p95_s


def predict(times: Mapping[tuple[int, int], Times]) -> list[Prediction]:
    """Leave out each (rows, threads) in turn. Raises ValueError for fewer than FEWEST."""
    if len(times) < FEWEST:
        raise ValueError(f"expected {FEWEST} cells or more, got {len(times)}")
    rows, threads = ({key[axis] for key in times} for axis in (0, 1))
    found = []
    for (b, t), measured in times.items():
        others = {key: cell for key, cell in times.items() if key != (b, t)}
        model = profiled.of_times(others)
        mean = _least_squares((key, cell.mean_s) for key, cell in others.items())
        upper = _least_squares((key, cell.p95_s) for key, cell in others.items())
        found.append(
            Prediction(
                rows=b,
                threads=t,
                inner=min(rows) < b < max(rows) and min(threads) < t < max(threads),
                measured=measured,
                mean_s=model.mean(b, t),
                upper_s=model.upper(b, t),
                fitted_mean_s=mean.latency_ms(b, t) / 1000,
                fitted_upper_s=upper.latency_ms(b, t) / 1000,
            )
        )
    return found


def _least_squares(cells: Iterable[tuple[tuple[int, int], float]]) -> paper.Curve:
    """The paper's fit."""
    return paper.fit([Point(b, t, 1000 * seconds) for (b, t), seconds in cells])
