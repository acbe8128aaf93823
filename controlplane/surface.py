"""Work of every number of rows on every number of threads, of the cells that were executed.

The logarithm of the work is taken to be that of the curve plus a smooth deviation, of which cells tell the more the
nearer they are (kriging; Cressie, "Statistics for Spatial Data", 1993, ch. 3). How far the deviation reaches is a
constant; how large it is, and so how far an estimate may be off, is learned by leaving out each cell in turn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np

from controlplane.curve import HOPED_SHARE, PARALLEL_SHARE, Curve, Floats, Integers, fit_curve

# A deviation is half forgotten after 1.4 doublings of rows or of threads. From 1 to 4 the error of cells left out, and
# the share of those that take longer than the upper estimate, are nearly the same.
REACH = 2.0
# Variance of what is a cell's own and says nothing of its neighbours, as a share of the deviation's.
OWN = 0.1
# Relative error that a model is believed to have before any cell has told, and the weight of that, in cells.
PRIOR_ERROR, PRIOR_CELLS = 0.1, 1.0
# A cell that speaks less than this for itself tells nothing of how far estimates are off, and moves no other.
SURE = 0.5
# A curve that is wrong by less is right, where it goes through more cells than it has coefficients.
NEGLIGIBLE, COEFFICIENTS = 1e-3, 4
# Of more cells only so many, evenly spread, say something of others: what that takes grows with their cube.
MOST_CELLS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Surfaces:
    """Work by [threads - 1, rows - 1]: mean, upper and low quantile; rising with rows, falling with threads."""

    mean: Floats
    upper: Floats
    low: Floats
    residual: float  # mean relative error of the curve over the cells


def surfaces(
    keys: Sequence[tuple[int, int]],
    means: Sequence[float],
    uppers: Sequence[float],
    lows: Sequence[float],
    trusts: Sequence[float],
    rows: int,
    threads: int,
    quantile: float,
    *,
    hopeful: bool = False,
) -> Surfaces:
    """Give those up to `rows` × `threads`, or as far as there are cells.

    `keys` are the (rows, threads) of the cells, `trusts` how far each speaks for itself, above 0 to 1; its neighbours
    say the rest. Where no cell speaks the upper estimate is raised so that a share of `quantile` of cells left out lie
    below it; not so, where one is `hopeful`, for thread counts of which no cell is sure, and threads divide as much of
    the work as they may.
    """
    # All cells, so that what is asked for changes nothing of what is doubted.
    rows, threads = max(rows, *(r for r, _ in keys)), max(threads, *(n for _, n in keys))
    values = np.array([means, uppers, lows])
    trust = np.array(trusts)
    parallel_share = HOPED_SHARE if hopeful else PARALLEL_SHARE
    curves = [fit_curve(keys, column.tolist(), trusts, parallel_share) for column in values]
    at_rows, at_threads = np.array(keys).T
    fitted = np.stack([curve.work(at_rows.astype(float), at_threads.astype(float)) for curve in curves])
    deviations: Floats = np.log(values / fitted)
    field = _Field.of(at_rows, at_threads, deviations, trust)
    grids, apart = field.over(curves, rows, threads)
    # A cell with few executions is drawn towards what is expected there.
    own = at_threads - 1, at_rows - 1
    known = trust * values + (1 - trust) * grids[:, own[0], own[1]]
    grids[:, own[0], own[1]] = known
    # What one execution was moves no cell that had many.
    sure = trust >= SURE
    grids = _between(grids, known[:, sure], (own[0][sure], own[1][sure]))
    grids[:, own[0][sure], own[1][sure]] = known[:, sure]
    # More rows never take less, more threads never more; the second keeps the first.
    grids = np.maximum.accumulate(grids, axis=2)
    mean, upper, low = np.minimum.accumulate(grids, axis=1)
    trusted = np.zeros_like(mean)
    trusted[own] = trust
    doubt = field.doubt(quantile) * np.sqrt(apart) * (1 - trusted)
    if hopeful:
        doubt[np.setdiff1d(np.arange(len(doubt)), own[0][sure])] = 0.0
    errors = np.abs(fitted[0] / values[0] - 1)
    return Surfaces(
        mean=mean,
        upper=_raised(np.maximum(upper, mean), np.exp(doubt)),
        low=np.minimum(low, mean),
        residual=float(np.average(errors, weights=trust)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    """Deviations of cells from the curves, and what they say of each other; variances are shares of the deviation's."""

    rows: Floats  # logarithms to the base 2, as are `threads`
    threads: Floats
    noise: Floats  # variance of what is each cell's own
    inverse: Floats  # of the covariance of the cells
    weights: Floats  # [curve, cell]: the inverse times the deviations
    trust: Floats

    @classmethod
    def of(cls, at_rows: Integers, at_threads: Integers, deviations: Floats, trust: Floats) -> Self:
        """`deviations` are [curve, cell]."""
        if len(trust) > MOST_CELLS:
            spread = np.linspace(0, len(trust) - 1, MOST_CELLS).astype(int)
            kept = np.lexsort((at_rows, at_threads))[spread]
            at_rows, at_threads = at_rows[kept], at_threads[kept]
            deviations, trust = deviations[:, kept], trust[kept]
        rows, threads = np.log2(at_rows), np.log2(at_threads)
        # So that a cell that is alone is believed as far as it is trusted.
        noise: Floats = 1 / trust - 1 + OWN
        covariance = _alike(rows, rows) * _alike(threads, threads) + np.diag(noise)
        inverse = np.linalg.inv(covariance).astype(np.float64)
        return cls(rows, threads, noise, inverse, deviations @ inverse, trust)

    def over(self, curves: Sequence[Curve], rows: int, threads: int) -> tuple[Floats, Floats]:
        """Work by the curves and the deviations [curve, threads - 1, rows - 1], and the variance it has [same]."""
        b, t = np.arange(1.0, rows + 1), np.arange(1.0, threads + 1)[:, None]
        by_rows, by_threads = _alike(self.rows, np.log2(b)), _alike(self.threads, np.log2(t[:, 0]))
        deviation = np.stack([(by_threads.T * weights) @ by_rows for weights in self.weights])
        work = np.stack([curve.work(b, t) for curve in curves]) * np.exp(deviation)
        nearest = np.zeros((threads, rows))
        for of_threads, of_rows in zip(by_threads / np.sqrt(1 + self.noise)[:, None], by_rows, strict=True):
            np.maximum(nearest, of_threads[:, None] * of_rows, out=nearest)
        return work, 1 + OWN - nearest**2

    def doubt(self, quantile: float) -> float:
        """Deviation that a share of `quantile` of cells, each left out, stay below, at a variance of 1.

        Of the cells themselves, where there are enough for that quantile (Vovk, "Cross-conformal predictors",
        Ann. Math. Artif. Intell. 74, 2015), and no less than if they were normal.
        """
        left_out = self.weights[0] / np.diag(self.inverse)  # Dubrule, Math. Geol. 15, 1983
        alike = _alike(self.rows, self.rows) * _alike(self.threads, self.threads)
        np.fill_diagonal(alike, 0.0)
        nearest = (alike / np.sqrt(1 + self.noise)).max(axis=1)
        scores = left_out / np.sqrt(1 + self.noise - nearest**2)
        scores = np.sort(scores[self.trust >= SURE])
        cells, squared = len(scores), float(scores @ scores)
        right = cells > COEFFICIENTS and squared <= NEGLIGIBLE**2 * cells
        prior = 0.0 if right else PRIOR_CELLS
        spread = math.sqrt((squared + prior * PRIOR_ERROR**2) / max(cells + prior, 1.0))
        normal = spread * NormalDist().inv_cdf(quantile)
        place = math.ceil(quantile * (cells + 1) - 1e-9)
        return max(normal, float(scores[place - 1])) if place <= cells else normal


def _alike(these: Floats, those: Floats) -> Floats:
    """Correlation of deviations [these, those], along one axis."""
    alike: Floats = np.exp(-np.abs(these[:, None] - those) / REACH)
    return alike


def _between(grids: Floats, known: Floats, at: tuple[Integers, Integers]) -> Floats:
    """Give grids that are no less than any cell of fewer rows and more threads, no more than any of more and fewer."""
    least, most = np.zeros_like(grids), np.full_like(grids, np.inf)
    least[:, at[0], at[1]] = most[:, at[0], at[1]] = known
    least = np.maximum.accumulate(np.maximum.accumulate(least, axis=2)[:, ::-1], axis=1)[:, ::-1]
    most = np.minimum.accumulate(np.minimum.accumulate(most[:, :, ::-1], axis=2)[:, :, ::-1], axis=1)
    return np.maximum(np.minimum(grids, most), least)


def _raised(upper: Floats, factors: Floats) -> Floats:
    """Raise it, but not above any that takes more rows or fewer threads: what is known, 1, stays as it is.

    It rises with rows and falls with threads, before and after.
    """
    raised = np.minimum.accumulate((upper * factors)[:, ::-1], axis=1)[:, ::-1]
    return np.minimum.accumulate(raised, axis=0)
