"""What an execution takes, by rows and intra-op threads: learned from executions.

Work is the time an execution takes at full speed with no other beside it, in seconds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from controlplane.cell import HALF_LIFE_S, Cell
from controlplane.curve import Floats
from controlplane.surface import Surfaces, surfaces

ENOUGH = 8.0  # samples, by weight, with which a cell speaks for itself
# Largest execution that is learned of: others may name any, and tables are as large as the largest.
MOST_ROWS, MOST_THREADS = 4096, 256
FORGOTTEN = 1e-3  # samples, by weight, with which it says nothing: of one that is ten half-lives old
UPPER, LOW = 0.95, 0.05
# Spread of a cell that has too few samples to show its own, as multiples of its mean.
UPPER_SPREAD, LOW_SPREAD = 1.3, 0.75
HOPED_SPREAD = 1.1  # the same of the upper estimate, in hope
# Up to this share of a cell's samples, or two, may be outliers; they count as at most so much of the rest.
OUTLIER_SHARE, OUTLIER_RATIO = 0.1, 3.0

# Before any execution: a row that takes long, so that the first plan errs on the large side.
UNKNOWN_WORK_S = 0.1
KAPPA, KAPPA_WEIGHT = 0.04, 10.0  # prior, and the weight of it in samples with one neighbour
ALONE = 1.2  # up to so many busy slots an execution counts as undisturbed


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Work by rows for one thread count, undisturbed: mean, upper and 5 % quantile; index 0 is unused."""

    mean: tuple[float, ...]
    upper: tuple[float, ...]
    low: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """Everything derived from the samples at one moment."""

    kappa: float
    work: Surfaces


class LatencyModel:
    """Latency of one model, known by its digest.

    The curve is ℓ(b, t) = (γb + ε)/t + δb + η with coefficients ≥ 0: Amdahl's law in t, a fixed and a
    per-row part in each of its terms. A cell (b, t) with enough executions speaks for itself, one with fewer
    is drawn towards what the others say of it, and for the rest the curve and the cells around speak (`surface`).
    There the upper estimate is raised by what they are wrong by. The result rises with rows and falls with threads.
    `quantile` is that of the upper estimate, `cells` are executions that are known already, by (rows, threads). Age
    counts from the newest execution: while nothing is executed, nothing is forgotten. A `hopeful` one believes of
    what was hardly ever run, or never, what would be best.
    """

    def __init__(
        self, quantile: float = UPPER, cells: Mapping[tuple[int, int], Cell] = {}, *, hopeful: bool = False
    ) -> None:
        self.quantile = quantile
        self.hopeful = hopeful
        self._cells = dict(cells)
        self._now = max((max(cell.at) for cell in self._cells.values()), default=-math.inf)
        self.scaled_at = -math.inf  # when all cells were changed
        self._fitted: _Fitted | None = None

    def __repr__(self) -> str:
        samples = sum(len(cell.at) for cell in self._cells.values())
        return f"<LatencyModel cells={len(self._cells)} samples={samples}>"

    def snapshot(self, *, hopeful: bool = False) -> "LatencyModel":
        """Give a copy that later samples do not change, for use in another thread."""
        cells = {key: cell.copy() for key, cell in self._cells.items()}
        copy = LatencyModel(self.quantile, cells, hopeful=hopeful)
        if hopeful == self.hopeful:
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

    def executed(self, rows: int, threads: int) -> int:
        """How many executions of just these were in the last half of a half-life."""
        cell = self._cells.get((rows, threads))
        return 0 if cell is None else sum(at > self._now - HALF_LIFE_S / 2 for at in cell.at)

    def scale(self, factor: float, now: float) -> None:
        """Believe that all took so many times what they did: the machine has become another."""
        for cell in self._cells.values():
            cell.scale(factor)
        self.scaled_at = now
        self._fitted = None

    @property
    def kappa(self) -> float:
        """Contention: an execution beside n − 1 others takes 1 + κ·(n − 1) times its work."""
        return self._fit(1, 1).kappa

    @property
    def residual(self) -> float:
        """Mean relative error of the curve over the cells: how little it can be trusted elsewhere."""
        return self._fit(1, 1).work.residual

    def mean(self, rows: int, threads: int) -> float:
        """Expected work."""
        return float(self._fit(rows, threads).work.mean[threads - 1, rows - 1])

    def upper(self, rows: int, threads: int) -> float:
        """Work that a share of `quantile` of executions does not exceed."""
        return float(self._fit(rows, threads).work.upper[threads - 1, rows - 1])

    def low(self, rows: int, threads: int) -> float:
        """Work that 95 % of executions take at the least."""
        return float(self._fit(rows, threads).work.low[threads - 1, rows - 1])

    def table(self, threads: int, max_batch: int) -> LatencyTable:
        """All of one thread count, up to `max_batch` rows."""
        work = self._fit(max_batch, threads).work

        def column(values: Floats) -> tuple[float, ...]:
            return (0.0, *values[threads - 1, :max_batch].tolist())

        return LatencyTable(column(work.mean), column(work.upper), column(work.low))

    def grid(self, threads: int, max_batch: int) -> tuple[Floats, Floats]:
        """Mean and upper work for 1 to `threads` threads (first axis), 1 to `max_batch` rows (second)."""
        work = self._fit(max_batch, threads).work
        return work.mean[:threads, :max_batch], work.upper[:threads, :max_batch]

    def _fit(self, rows: int, threads: int) -> _Fitted:
        """Give the fit to all that was recorded, made anew only for new data or a larger table."""
        if self._fitted is not None:
            known_threads, known_rows = self._fitted.work.mean.shape
            if rows <= known_rows and threads <= known_threads:
                return self._fitted
            rows, threads = max(rows, known_rows), max(threads, known_threads)
        # Twice as much as asked for, so that asking row by row does not fit every time.
        most = max(rows, MOST_ROWS)
        self._fitted = self._compute(min(1 << rows.bit_length(), most), 1 << (threads - 1).bit_length())
        return self._fitted

    def _compute(self, rows: int, threads: int) -> _Fitted:
        kappa = self._contention()
        spread = HOPED_SPREAD if self.hopeful else UPPER_SPREAD
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
            uppers.append(max(mean, trust * upper + (1 - trust) * spread * mean))
            lows.append(min(mean, trust * low + (1 - trust) * LOW_SPREAD * mean))
        if not keys:
            keys, weights, means = [(1, 1)], [1e-3], [UNKNOWN_WORK_S]
            uppers, lows = [UPPER_SPREAD * UNKNOWN_WORK_S], [LOW_SPREAD * UNKNOWN_WORK_S]
        size, hopeful = (rows, threads), self.hopeful
        work = surfaces(keys, means, uppers, lows, weights, *size, self.quantile, hopeful=hopeful)
        return _Fitted(kappa, work)

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
