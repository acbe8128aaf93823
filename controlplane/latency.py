"""What an execution takes, by rows and intra-op threads: learned from executions, and read off under a quota.

Work is the time an execution takes at full speed with no other beside it, in seconds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from controlplane.cell import Cell

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# A float, or an array of them.
Work = TypeVar("Work", float, NDArray[np.float64])

ENOUGH = 8.0  # samples, by weight, with which a cell speaks for itself
# Largest execution that is learned of: others may name any, and tables are as large as the largest.
MOST_ROWS, MOST_THREADS = 4096, 256
FORGOTTEN = 1e-3  # samples, by weight, with which it says nothing: of one that is ten half-lives old
UPPER, LOW = 0.95, 0.05
# Spread of a cell that has too few samples to show its own, as multiples of its mean.
UPPER_SPREAD, LOW_SPREAD = 1.3, 0.75
# Up to this share of a cell's samples, or two, may be outliers; they count as at most so much of the rest.
OUTLIER_SHARE, OUTLIER_RATIO = 0.1, 3.0
# Where no cell speaks the upper estimate is raised by so many times the mean relative error of the curve: that is its
# 95 % quantile, if errors are normal.
DOUBT = 2.06
NEGLIGIBLE = 1e-3  # of that error: the prior alone leaves some

# Before any execution: a row that takes long, so that the first plan errs on the large side.
UNKNOWN_WORK_S = 0.1
# What the curve assumes where executions do not tell: share of the work that threads divide, and share of the
# first row's work that further rows do not add. The weight is that of an observation, squared.
PARALLEL_SHARE, FIXED_SHARE, PRIOR_WEIGHT = 0.85, 0.1, 0.02
_PRIOR = np.array(
    [
        [1 - PARALLEL_SHARE, -PARALLEL_SHARE, 0.0, 0.0],  # γ : δ
        [0.0, 0.0, 1 - PARALLEL_SHARE, -PARALLEL_SHARE],  # ε : η
        [-FIXED_SHARE, -FIXED_SHARE, 1 - FIXED_SHARE, 1 - FIXED_SHARE],  # (γ + δ) : (ε + η)
    ]
)

KAPPA, KAPPA_WEIGHT = 0.04, 10.0  # prior, and the weight of it in samples with one neighbour
WAITING = 0.5  # MiniLM on two threads: 1.1 and 1.3 are useful, 1.5 and 1.6 of the quota are used
ALONE = 1.2  # up to so many busy slots an execution counts as undisturbed


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Work by rows for one thread count, undisturbed: mean, upper and 5 % quantile; index 0 is unused."""

    mean: tuple[float, ...]
    upper: tuple[float, ...]
    low: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """Work of b rows on t threads: ℓ(b, t) = (γb + ε)/t + δb + η, all in seconds and not negative."""

    gamma: float
    delta: float
    epsilon: float
    eta: float

    def work(self, rows: Work, threads: Work) -> Work:
        """Work for numbers, or for arrays that broadcast against each other."""
        return (self.gamma * rows + self.epsilon) / threads + self.delta * rows + self.eta


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Everything derived from the samples at one moment, up to `rows` × `threads`."""

    kappa: float
    mean: NDArray[np.float64]  # [threads - 1, rows - 1]
    upper: NDArray[np.float64]
    low: NDArray[np.float64]
    residual: float


class LatencyModel:
    """Latency of one model, known by its digest.

    The curve is ℓ(b, t) = (γb + ε)/t + δb + η with coefficients ≥ 0: Amdahl's law in t, a fixed and a
    per-row part in each of its terms. A cell (b, t) with enough executions speaks for itself, one with fewer
    is drawn towards the curve, and the curve alone speaks for the rest: there the upper estimate is raised by
    DOUBT times what the curve is wrong by. The result rises with rows and falls with threads. `quantile` is that of
    the upper estimate, `cells` are executions that are known already, by (rows, threads). Age counts from the
    newest execution: while nothing is executed, nothing is forgotten.
    """

    def __init__(self, quantile: float = UPPER, cells: Mapping[tuple[int, int], Cell] = {}) -> None:
        self.quantile = quantile
        self._cells = dict(cells)
        self._now = max((max(cell.at) for cell in self._cells.values()), default=-math.inf)
        self._fitted: _Fitted | None = None

    def __repr__(self) -> str:
        samples = sum(len(cell.at) for cell in self._cells.values())
        return f"<LatencyModel cells={len(self._cells)} samples={samples}>"

    def snapshot(self) -> "LatencyModel":
        """Give a copy that later samples do not change, for use in another thread."""
        copy = LatencyModel(self.quantile, {key: cell.copy() for key, cell in self._cells.items()})
        copy._fitted = self._fitted
        return copy

    def record(self, rows: int, threads: int, work_s: float, busy: float, now: float) -> None:
        """Learn one execution: its work (see `work_of`), and the mean number of busy slots, itself included.

        What no execution can have been (no rows, no threads, a duration that is not positive) is ignored.
        """
        if not (1 <= rows <= MOST_ROWS and 1 <= threads <= MOST_THREADS and 0 < work_s < math.inf):
            return
        self._cells.setdefault((rows, threads), Cell()).record(work_s, max(1.0, busy), now)
        self._now = max(self._now, now)
        self._fitted = None

    @property
    def cells(self) -> Mapping[tuple[int, int], Cell]:
        """Executions by (rows, threads), to be read and not changed."""
        return self._cells

    @property
    def known(self) -> bool:
        """Whether any execution has been seen."""
        return bool(self._cells)

    def trust(self, rows: int, threads: int) -> float:
        """How far executions of just these speak for themselves, 0 to 1; the curve says the rest."""
        cell = self._cells.get((rows, threads))
        return 0.0 if cell is None else min(1.0, float(cell.weights(self._now).sum()) / ENOUGH)

    @property
    def kappa(self) -> float:
        """Contention: an execution beside n − 1 others takes 1 + κ·(n − 1) times its work."""
        return self._fit(1, 1).kappa

    @property
    def residual(self) -> float:
        """Mean relative error of the curve over the cells: how little it can be trusted elsewhere."""
        return self._fit(1, 1).residual

    def mean(self, rows: int, threads: int) -> float:
        """Expected work."""
        return float(self._fit(rows, threads).mean[threads - 1, rows - 1])

    def upper(self, rows: int, threads: int) -> float:
        """Work that a share of `quantile` of executions does not exceed."""
        return float(self._fit(rows, threads).upper[threads - 1, rows - 1])

    def low(self, rows: int, threads: int) -> float:
        """Work that 95 % of executions take at the least."""
        return float(self._fit(rows, threads).low[threads - 1, rows - 1])

    def table(self, threads: int, max_batch: int) -> LatencyTable:
        """All of one thread count, up to `max_batch` rows."""
        fitted = self._fit(max_batch, threads)

        def column(values: NDArray[np.float64]) -> tuple[float, ...]:
            return (0.0, *values[threads - 1, :max_batch].tolist())

        return LatencyTable(column(fitted.mean), column(fitted.upper), column(fitted.low))

    def grid(self, threads: int, max_batch: int) -> tuple[Floats, Floats]:
        """Mean and upper work for 1 to `threads` threads (first axis), 1 to `max_batch` rows (second)."""
        fitted = self._fit(max_batch, threads)
        return fitted.mean[:threads, :max_batch], fitted.upper[:threads, :max_batch]

    def _fit(self, rows: int, threads: int) -> _Fitted:
        """Give the fit to all that was recorded, made anew only for new data or a larger table."""
        if self._fitted is not None:
            known_threads, known_rows = self._fitted.mean.shape
            if rows <= known_rows and threads <= known_threads:
                return self._fitted
            rows, threads = max(rows, known_rows), max(threads, known_threads)
        # Twice as much as asked for, so that asking row by row does not fit every time.
        self._fitted = self._compute(1 << rows.bit_length(), 1 << (threads - 1).bit_length())
        return self._fitted

    def _compute(self, rows: int, threads: int) -> _Fitted:
        kappa = self._contention()
        keys, weights, means, uppers, lows = [], [], [], [], []
        for key, cell in self._cells.items():
            weight = cell.weights(self._now)
            total = float(weight.sum())
            if total < FORGOTTEN:
                continue
            alone = np.array(cell.work) / (1 + kappa * (np.array(cell.busy) - 1))
            mean, upper, low = _summary(alone, weight, self.quantile)
            trust = min(1.0, total / ENOUGH)
            keys.append(key)
            weights.append(trust)
            means.append(mean)
            uppers.append(max(mean, trust * upper + (1 - trust) * UPPER_SPREAD * mean))
            lows.append(min(mean, trust * low + (1 - trust) * LOW_SPREAD * mean))
        if not keys:
            keys, weights, means = [(1, 1)], [1e-3], [UNKNOWN_WORK_S]
            uppers, lows = [UPPER_SPREAD * UNKNOWN_WORK_S], [LOW_SPREAD * UNKNOWN_WORK_S]
        # All cells, so that what is asked for changes nothing of what is doubted.
        rows, threads = max(rows, *(r for r, _ in keys)), max(threads, *(n for _, n in keys))
        curves = [fit_curve(keys, values, weights) for values in (means, uppers, lows)]
        surfaces = _surfaces(curves, keys, [means, uppers, lows], weights, rows, threads)
        # More rows never take less, more threads never more; the second keeps the first.
        surfaces = np.maximum.accumulate(surfaces, axis=2)
        expected, longest, shortest = np.minimum.accumulate(surfaces, axis=1)
        errors = [abs(curves[0].work(r, n) / value - 1) for (r, n), value in zip(keys, means, strict=True)]
        residual = float(np.average(errors, weights=weights))
        shortest = np.minimum(shortest, expected)
        trusted = np.zeros_like(expected)
        for (r, n), known in zip(keys, weights, strict=True):
            trusted[n - 1, r - 1] = known
        doubt = DOUBT * residual if residual > NEGLIGIBLE else 0.0
        longest = _doubted(np.maximum(longest, expected), doubt * (1 - trusted))
        return _Fitted(kappa, expected, longest, shortest, residual)

    def _contention(self) -> float:
        """κ by weighted least squares of (work/alone − 1) on (busy − 1), with a prior.

        Only cells that have also run alone can tell.
        """
        product, square = KAPPA * KAPPA_WEIGHT, KAPPA_WEIGHT
        for cell in self._cells.values():
            busy = np.array(cell.busy)
            work, weight = np.array(cell.work), cell.weights(self._now)
            beside = busy > ALONE
            if not beside.any() or weight[~beside].sum() < FORGOTTEN:
                continue
            alone, _, _ = _summary(work[~beside], weight[~beside], self.quantile)
            x = busy[beside] - 1
            y = np.clip(work[beside] / alone - 1, -1.0, x)  # κ is at most 1, also for outliers
            # A cell that has hardly run alone has little to compare with.
            weight = weight[beside] * min(1.0, float(weight[~beside].sum()) / ENOUGH)
            product += float((weight * x * y).sum())
            square += float((weight * x * x).sum())
        return min(1.0, max(0.0, product / square))


def fit_curve(keys: Sequence[tuple[int, int]], values: Sequence[float], weights: Sequence[float]) -> Curve:
    """Non-negative least squares of the *relative* error of ℓ(b, t) = (γb + ε)/t + δb + η.

    `keys` are (rows, threads). Weak pseudo-observations settle what the data leave open: with one thread
    only, γ and δ, ε and η cannot be told apart; with one batch size only, γ and ε, δ and η.
    """
    b, t = np.array(keys, dtype=float).T
    observed = np.array(values)
    weight = np.sqrt(np.array(weights))
    matrix = np.stack([b / t, b, 1 / t, np.ones_like(b)], axis=1) * (weight / observed)[:, None]
    # The prior's rows are relative to the work of one row on one thread, which this is near to.
    serial = (1 - PARALLEL_SHARE) + PARALLEL_SHARE / t
    scale = median((observed / (serial * (FIXED_SHARE + (1 - FIXED_SHARE) * b))).tolist())
    rows = np.concatenate([matrix, _PRIOR * (PRIOR_WEIGHT * weight.max() / scale)])
    target = np.concatenate([weight, np.zeros(len(_PRIOR))])
    # Columns of one size: the solver's tolerance is absolute.
    size = np.linalg.norm(rows, axis=0)
    solution, _ = nnls(rows / size, target)
    return Curve(*(solution / size).tolist())


def _surfaces(
    curves: Sequence[Curve],
    keys: Sequence[tuple[int, int]],
    values: Sequence[Sequence[float]],
    weights: Sequence[float],
    rows: int,
    threads: int,
) -> Floats:
    """Work for 1 to `threads` threads (second axis) and 1 to `rows` rows (third), by each of the curves (first).

    `keys`, `values` of each curve and `weights` are (rows, threads), work and trust of the cells. With the threads of
    some cell: the cells, straight lines between them, as the curve is straight in rows, and beyond them the curve
    times the ratio of the last cell to it. Other threads: the curve times the ratio found for those next to them. So
    the curve carries only what the cells leave open.
    """
    b = np.arange(1.0, rows + 1)
    every = np.arange(1.0, threads + 1)[:, None]
    visited = sorted({cell_threads for _, cell_threads in keys})
    ratios = np.empty((len(curves), len(visited), rows))
    for index, t in enumerate(visited):
        cells = sorted((r, cell) for cell, (r, cell_threads) in enumerate(keys) if cell_threads == t)
        at = [r for r, _ in cells]
        inside = np.minimum(np.maximum(b, at[0]), at[-1])
        for curve, works, ratio in zip(curves, values, ratios, strict=True):
            blended = [
                weights[cell] * works[cell] + (1 - weights[cell]) * curve.work(float(r), float(t))
                for r, cell in cells
            ]
            ratio[index] = np.interp(b, at, blended) / curve.work(inside, np.array(float(t)))
    # All threads at once: a loop over them took longer than all else that a fit does.
    known = np.array(visited, dtype=float)
    above = np.clip(np.searchsorted(known, every[:, 0]), min(1, len(known) - 1), len(known) - 1)
    below = np.maximum(above - 1, 0)
    width = np.maximum(known[above] - known[below], 1.0)[:, None]
    share = np.where(every < known[above, None], np.clip((every - known[below, None]) / width, 0.0, 1.0), 1.0)
    blend = (1 - share) * ratios[:, below] + share * ratios[:, above]
    return np.stack([curve.work(b, every) for curve in curves]) * blend


def _doubted(upper: Floats, doubt: Floats) -> Floats:
    """Raise it by a share, but not above any that takes more rows or fewer threads: what is known, 0, stays as it is.

    It rises with rows and falls with threads, before and after.
    """
    raised = upper * (1 + doubt)
    raised = np.minimum.accumulate(raised[:, ::-1], axis=1)[:, ::-1]
    return np.minimum.accumulate(raised, axis=0)


def _summary(work: Floats, weight: Floats, upper: float) -> tuple[float, float, float]:
    """Mean, `upper` and low quantile of weighted samples, with outliers cut."""
    order = np.argsort(work)
    work, weight = work[order], weight[order]
    total = weight.sum()
    shares = np.array([max(0.0, 1 - max(OUTLIER_SHARE, 2 / len(work))), upper, LOW])
    # A hair less, so that 19 of 20 equal weights are 95 % in floating point too.
    at = np.minimum(np.searchsorted(np.cumsum(weight) / total, shares - 1e-9), len(work) - 1)
    work = np.minimum(work, OUTLIER_RATIO * work[at[0]])
    return float((work * weight).sum() / total), float(work[at[1]]), float(work[at[2]])


def at_work(single_s: Floats, work_s: Floats, threads: int | Integers) -> Floats:
    """How many of `threads` run in the mean, of what takes `single_s` on one and `work_s` on all of them.

    As many as shorten it, and of the time that others wait for those the share WAITING: waking them, and what they
    do twice, takes CPU.
    """
    useful: Floats = np.clip(single_s / work_s, 1.0, threads)
    running: Floats = useful + WAITING * (threads - useful)
    return running


def stretched_mean(work_s: Floats, runnable: float | Floats, millicores: int | Integers) -> Floats:
    """Mean wall time of work under a quota, while `runnable` threads want to run.

    A quota of Q per period P gives them Q/(runnable·P) of the time each.
    """
    return work_s * np.maximum(1.0, 1000 * runnable / millicores)


def stretched_upper(
    work_s: Floats,
    runnable: float | Floats,
    millicores: int | Integers,
    period_s: float,
    quantile: float = UPPER,
) -> Floats:
    """Wall time of work under a quota that a share of `quantile` does not exceed: w + k·(P − Q/r), for r·P > Q, else w.

    The supply bound of a periodic resource: r threads use up Q in Q/r of a period and stand still for the
    rest of it. Work of s = w·r/Q such parts begins anywhere in one, and so meets ⌈s⌉ stand-stills in the share
    s − ⌊s⌋ of all cases, else ⌊s⌋: k = ⌈s − (1 − quantile)⌉, which of short work is 0. Never below the mean, which
    is what each takes of many that follow each other. For longer work the mean's factor alone is up to 4.3 times
    too low.
    """
    quota_s = millicores / 1000 * period_s
    periods = np.maximum(0.0, np.ceil(work_s * runnable / quota_s - (1 - quantile) - 1e-9))
    stands_s = np.where(1000 * runnable <= millicores, 0.0, period_s - quota_s / runnable)
    longest: Floats = np.maximum(work_s + periods * stands_s, stretched_mean(work_s, runnable, millicores))
    return longest


def work_of(wall_s: float, cpu_s: float, threads: int, busy: float, millicores: int) -> float:
    """Work of an execution that took `wall_s` under a quota of `millicores` (0: none).

    Where the quota could not have throttled it that is the wall time. Where it could, one thread's own CPU
    time (`cpu_s`) is the work; of several threads only the mean stretch can be taken out.
    """
    runnable = threads * max(1.0, busy)
    if millicores <= 0 or millicores >= 1000 * runnable:
        return wall_s
    if threads == 1 and cpu_s > 0:
        return min(cpu_s, wall_s)
    return wall_s * millicores / (1000 * runnable)
