"""What an execution is going to take: the control plane's numbers, corrected by what this worker sees."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from dataplane.request import Request
from dataplane.shapecost import ShapeCosts

# The newest observations, of which quantiles are taken: enough for one of 5 %, and at a few executions a
# second not older than ten seconds.
_WINDOW = 32
# Below this many observations a quantile is the prediction's own.
_QUANTILE_MIN = 16
# The prediction weighs as much as this many observations.
_PRIOR_WEIGHT = 4
# Weight of the newest observation in the mean: a machine that has become five times faster is taken for
# 1.5 times slower than it is after 16 executions, for 1.06 times after 32.
_FORGETTING = 1 / 8
# What a service time is taken to be at the least and at the most before more than a mean of it is known.
_LOW, _HIGH = 0.8, 1.3


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """Seconds that one execution of `rows` rows takes: mean, 5 % and 95 % quantile."""

    rows: int
    mean_s: float
    low_s: float
    high_s: float


def warmed(means_s: Mapping[int, float]) -> list[ServiceTime]:
    """Give what a worker that has just warmed up goes by, of the means by rows."""
    return [ServiceTime(rows, s, s * _LOW, s * _HIGH) for rows, s in means_s.items()]


class ServiceTimes:
    """Service time by batch size, of the mean of all shapes; `costs` tells what that of one is times.

    A table of predictions times one correction: the ratio of observed to predicted time, of whatever batch
    size, over the last executions. The ratio lets a cold or wrong table become right after a few
    executions, and sizes never run share what was learned of others.
    """

    _means: list[float] | None
    _highs: list[float] | None
    _tails: tuple[float, float] | None

    def __init__(self, table: Sequence[ServiceTime]) -> None:
        self.costs = ShapeCosts()
        self.adopt(table)

    def adopt(self, table: Sequence[ServiceTime]) -> None:
        """Replace the predictions and forget the corrections that belonged to the old ones.

        Raises ValueError for a table that is empty or holds times out of order.
        """
        if not table or not all(
            entry.rows >= 1 and 0 <= entry.low_s <= entry.mean_s <= entry.high_s < inf and entry.mean_s > 0
            for entry in table
        ):
            raise ValueError("expected at least one service time, each with 0 ≤ low ≤ mean ≤ high, mean > 0")
        self.costs.restart()
        self._table = sorted(table, key=lambda entry: entry.rows)
        self._ratios: deque[float] = deque(maxlen=_WINDOW)
        self._seen = 0
        self._mean_ratio = 1.0
        # Every size up to the largest of the table.
        self._listed = [self._predicted(rows) for rows in range(1, self._table[-1].rows + 1)]
        self._best_batches: dict[int, int] = {}
        self._forget_derived()

    def observe(self, rows: int, seconds: float, request: Request) -> None:
        """Learn that an execution of `rows` rows in the shape of `request` took `seconds`."""
        ratio = seconds / self._predicted(rows).mean_s
        ratio /= self.costs.learn(request, ratio / self._mean_ratio)
        self._seen += 1
        self._mean_ratio += (ratio - self._mean_ratio) * max(1 / (_PRIOR_WEIGHT + self._seen), _FORGETTING)
        self._ratios.append(ratio)
        self._forget_derived()

    @property
    def settled(self) -> bool:
        """Whether quantiles are those of executions seen."""
        return self._seen >= _QUANTILE_MIN

    def mean(self, rows: int) -> float:
        """Expected seconds of an execution of `rows` rows."""
        return self._prediction(rows).mean_s * self._mean_ratio

    def low(self, rows: int) -> float:
        """Seconds that 95 % of executions take at the least."""
        return self._low(self._prediction(rows))

    def least(self, request: Request) -> float:
        """Seconds that 95 % of executions of this request alone take at the least."""
        return self.low(request.rows) * self.costs.of(request)

    def high(self, rows: int) -> float:
        """Seconds that 95 % of executions do not exceed."""
        return self._high(self._prediction(rows))

    @property
    def means(self) -> Sequence[float]:
        """Mean by rows up to the largest size predicted; index 0 is unused."""
        if self._means is None:
            self._means = [0.0, *(entry.mean_s * self._mean_ratio for entry in self._listed)]
        return self._means

    def highs(self) -> Sequence[float]:
        """95 % quantile by rows, as `means`."""
        if self._highs is None:
            self._highs = [0.0, *map(self._high, self._listed)]
        return self._highs

    def _low(self, predicted: ServiceTime) -> float:
        if not self.settled:
            return predicted.low_s * min(1.0, self._mean_ratio)
        return predicted.mean_s * min(self._quantiles()[0], self._mean_ratio)

    def _high(self, predicted: ServiceTime) -> float:
        if not self.settled:
            return predicted.high_s * max(1.0, self._mean_ratio)
        return predicted.mean_s * max(self._quantiles()[1], self._mean_ratio)

    def _quantiles(self) -> tuple[float, float]:
        """Of the ratios seen, 5 and 95 %."""
        if self._tails is None:
            ordered = sorted(self._ratios)
            tail = int(0.05 * len(ordered))
            self._tails = ordered[tail], ordered[-1 - tail]
        return self._tails

    def best_batch(self, limit: int) -> int:
        """The batch size up to `limit` with the least time per row; the smallest of equals."""
        best = self._best_batches.get(limit)
        if best is None:
            best = min(range(1, limit + 1), key=lambda rows: (self._predicted(rows).mean_s / rows, rows))
            self._best_batches[limit] = best
        return best

    def _forget_derived(self) -> None:
        """What follows from the observations is worked out when it is asked for: not after every execution."""
        self._means = self._highs = self._tails = None

    def _prediction(self, rows: int) -> ServiceTime:
        return self._listed[rows - 1] if rows <= len(self._listed) else self._predicted(rows)

    def _predicted(self, rows: int) -> ServiceTime:
        """Interpolate linearly between the sizes of the table; beyond its ends a row costs the same."""
        table = self._table
        below = above = None
        for entry in table:
            if entry.rows == rows:
                return entry
            if entry.rows < rows:
                below = entry
            else:
                above = entry
                break
        if below is None or above is None:
            edge = below or table[0]
            share = rows / edge.rows if below is not None else 1.0
            return ServiceTime(rows, edge.mean_s * share, edge.low_s * share, edge.high_s * share)
        share = (rows - below.rows) / (above.rows - below.rows)
        return ServiceTime(
            rows,
            below.mean_s + share * (above.mean_s - below.mean_s),
            below.low_s + share * (above.low_s - below.low_s),
            below.high_s + share * (above.high_s - below.high_s),
        )
