"""What arrives at one worker: rate and its uncertainty, rows, remaining budgets, burstiness."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HORIZONS_S = (2.0, 20.0)  # a burst shows in the first at once, the second is steady
# Standard deviations between the horizons that mean a change: one second in twenty without any.
CHANGE = 2.0
BUDGET_HORIZON_S = 5.0  # a network that has got better, or worse, did so a moment ago
# Outages end sooner.
COMPLETION_HORIZON_S = 60.0
COMPLETION_PRIOR = 20.0  # complete requests that are always part of the estimate
DISPERSION_HORIZON_S = 60.0
DISPERSION_PRIOR = 20.0  # arrivals' worth of a Poisson process that are always part of the estimate
MIN_DISPERSION, MAX_DISPERSION = 0.5, 8.0
LEAST_WINDOW_S = 0.2
SUPPORT = 20  # most points of the budget distribution
# That are followed: of more the lightest say nothing, and a worker has as many as bounds, 34.
MOST_BUDGETS = 256
# Share of the times ahead in which no more requests come than the upper of a forecast.
QUANTILE = 0.95
# Standard deviations from the mean to it: at first those of a normal distribution, then learned, within these bounds.
DEVIATIONS, MAX_DEVIATIONS = 1.645, 10.0
# How fast. In 600 forecasts, ten minutes of decisions, it is right within 2 percentage points as long as no more than
# 2.4 deviations are learned; by chance they then vary by 0.2.
DEVIATION_STEP = 0.2


@dataclass(frozen=True, slots=True)
class DemandEstimate:
    """Demand as the planner takes it; rates in requests per second."""

    rate: float
    rate_error: float  # standard deviation of that estimate
    rows_per_request: float
    # Remaining time at arrival in seconds, ascending, and its share of requests; empty if none is known.
    budgets: tuple[tuple[float, float], ...]
    # Variance over mean of arrival counts, 1 for Poisson; in the long run the squared coefficient of
    # variation of the times between arrivals.
    dispersion: float


NOTHING = DemandEstimate(0.0, 0.0, 1.0, (), 1.0)


def settled(
    rate: float,
    budgets: Sequence[tuple[float, float]],
    rows_per_request: float = 1.0,
    dispersion: float = 1.0,
) -> DemandEstimate:
    """Give what is believed of a demand that has long been as it is: its rate as well as the long horizon tells it.

    `budgets` are (seconds, share), ascending.
    """
    rate_error = math.sqrt(rate / (2 * HORIZONS_S[-1]))
    return DemandEstimate(rate, rate_error, rows_per_request, condensed(budgets), dispersion)


def divided(demands: Sequence[DemandEstimate], workers: int, factor: float = 1.0) -> DemandEstimate:
    """Give what each of so many workers would get of `factor` times all these, if clients spread evenly."""
    rate = sum(demand.rate for demand in demands)
    if rate <= 0:
        return NOTHING
    weights = [demand.rate / rate for demand in demands]
    budgets: dict[float, float] = {}
    for demand, weight in zip(demands, weights, strict=True):
        for budget_s, share in demand.budgets:
            budgets[budget_s] = budgets.get(budget_s, 0.0) + share * weight
    return DemandEstimate(
        rate=factor * rate / workers,
        rate_error=factor * math.hypot(*(demand.rate_error for demand in demands)) / workers,
        rows_per_request=sum(d.rows_per_request * w for d, w in zip(demands, weights, strict=True)),
        budgets=condensed(sorted(budgets.items())) if budgets else (),
        dispersion=sum(d.dispersion * w for d, w in zip(demands, weights, strict=True)),
    )


def condensed(budgets: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Give (seconds, share), ascending, as at most SUPPORT points whose shares add up to 1."""
    points = list(budgets)
    while len(points) > SUPPORT:
        # The two neighbours whose union distorts least become one, at the shorter budget.
        def distortion(index: int) -> float:
            (shorter, _), (longer, share) = points[index], points[index + 1]
            return (longer - shorter) / longer * share

        index = min(range(len(points) - 1), key=distortion)
        points[index : index + 2] = [(points[index][0], points[index][1] + points[index + 1][1])]
    kept = sum(share for _, share in points)
    return tuple((s, share / kept) for s, share in points)


@dataclass(frozen=True, slots=True)
class Ahead:
    """Requests expected of a time ahead: mean, standard deviation, and what a share of QUANTILE stays within."""

    mean: float
    deviation: float
    upper: float


class Forecast:
    """How many requests come before the next decision; an upper bound that is held to its share.

    The mean is that of the rate, the variance that of arrivals and of the estimated rate together. How many standard
    deviations the upper lies above the mean is learned from what comes, so that a share of QUANTILE stays within it
    in the long run whatever the arrivals are like: quantile tracking, as in Angelopoulos, Candès and Tibshirani,
    Conformal PID Control for Time Series Prediction, NeurIPS 2023.
    """

    def __init__(self) -> None:
        self._deviations = DEVIATIONS

    def ahead(self, estimate: DemandEstimate, seconds: float) -> Ahead:
        """Give what is expected of so many seconds from now on."""
        mean = estimate.rate * seconds
        deviation = math.hypot(math.sqrt(mean * estimate.dispersion), estimate.rate_error * seconds)
        return Ahead(mean, deviation, mean + self._deviations * deviation)

    def learn(self, ahead: Ahead, arrivals: int) -> None:
        """Compare what was expected with what came; without a deviation there was nothing to be wrong by."""
        if ahead.deviation <= 0:
            return
        # In balance where one in twenty exceeds it: 0.19 up then, else 0.01 down.
        step = QUANTILE if arrivals > ahead.upper else QUANTILE - 1
        self._deviations = min(MAX_DEVIATIONS, max(0.0, self._deviations + DEVIATION_STEP * step))


@dataclass(slots=True)
class _Average:
    """A rate with exponential forgetting over `horizon_s`."""

    horizon_s: float
    seconds: float = 0.0
    count: float = 0.0
    # Sum of squared weights: what makes the variance of the rate exact for Poisson arrivals.
    squares: float = 0.0

    def add(self, window_s: float, elapsed_s: float, count: float) -> None:
        keep = math.exp(-elapsed_s / self.horizon_s)
        self.seconds = self.seconds * keep + window_s
        self.squares = self.squares * keep * keep + window_s
        self.count = self.count * keep + count

    @property
    def rate(self) -> float:
        # One arrival in a first window of a millisecond is not a thousand a second.
        return self.count / max(self.seconds, LEAST_WINDOW_S) if self.seconds > 0 else 0.0

    @property
    def observed_s(self) -> float:
        """Seconds of plain counting that would tell the rate as well: twice the horizon in the long run."""
        return self.seconds * self.seconds / self.squares if self.squares > 0 else 0.0


class Demand:
    """Demand of one worker, learned from its samples; a worker that says nothing changes nothing."""

    def __init__(self) -> None:
        self._recorded_at = math.inf
        self._requests = tuple(_Average(horizon) for horizon in HORIZONS_S)
        self._headers = _Average(COMPLETION_HORIZON_S)
        self._complete = _Average(COMPLETION_HORIZON_S)
        self._queued = _Average(HORIZONS_S[-1])
        self._rows = _Average(HORIZONS_S[-1])
        self._budgets: dict[float, float] = {}
        self._last = (0.0, 0)  # window in seconds, arrivals
        self._deviation = 0.0
        self._expected = 0.0

    def record(
        self, window_s: float, headers: int, rows: int, budgets: Iterable[tuple[float, int]], now: float
    ) -> None:
        """Learn the window that ends now: the requests whose header arrived in it, and those that were queued.

        Of the latter the rows and the remaining budgets, a histogram as (upper bound in ms, count), ascending,
        empty buckets included; the last bound may be infinite. The rate is that of the headers, as far as their
        bodies come in the long run: while a network stands still none does, and then all at once. A window that
        is not positive is ignored.
        """
        if not 0 < window_s < math.inf:
            return
        # Windows that were lost make the others no younger.
        elapsed_s = max(window_s, now - self._recorded_at)
        self._recorded_at = now
        self._disperse(window_s, elapsed_s, headers)
        for average in self._requests:
            average.add(window_s, elapsed_s, headers)
        histogram = list(budgets)
        complete = sum(count for _, count in histogram)
        self._headers.add(window_s, elapsed_s, headers)
        self._complete.add(window_s, elapsed_s, complete)
        self._queued.add(window_s, elapsed_s, complete)
        self._rows.add(window_s, elapsed_s, rows)
        self._follow_budgets(window_s, elapsed_s, histogram, complete)

    def estimate(self) -> DemandEstimate:
        """Give what is believed now."""
        believed, queued = self._believed(), self._queued.count
        observed_s = believed.observed_s
        come = (self._complete.count + COMPLETION_PRIOR) / (self._headers.count + COMPLETION_PRIOR)
        rate = believed.rate * min(1.0, come)
        return DemandEstimate(
            rate=rate,
            rate_error=math.sqrt(rate / observed_s) if observed_s > 0 else 0.0,
            rows_per_request=max(1.0, self._rows.count / queued) if queued > 0 else 1.0,
            budgets=self.budgets(),
            dispersion=self._dispersion(),
        )

    def _believed(self) -> _Average:
        """The long horizon while the short one does not contradict it, else the short one.

        So a steady demand is known well, and a changed one, up or down, is believed within seconds.
        """
        fast, slow = self._requests
        if fast.observed_s <= 0:
            return slow
        changed = abs(fast.rate - slow.rate) > CHANGE * math.sqrt(slow.rate / fast.observed_s)
        return fast if changed else slow

    def budgets(self) -> tuple[tuple[float, float], ...]:
        """Remaining budget at arrival as (seconds, share), ascending, at most SUPPORT points."""
        total = sum(self._budgets.values())
        if total <= 0:
            return ()
        return condensed(
            [(s, count / total) for s, count in sorted(self._budgets.items()) if count > 1e-3 * total]
        )

    def _follow_budgets(
        self, window_s: float, elapsed_s: float, histogram: Sequence[tuple[float, int]], total: int
    ) -> None:
        """Average the windows' shares over time, not over requests: a backlog that an outage lets loose at
        once is large, and says no more of what comes next than the calm after it. What trickles through before
        says less: a window with fewer requests than usual counts for as much less.
        """
        if total == 0:
            return
        rate = self._requests[-1].rate
        weight_s = min(window_s, total / rate) if rate > 0 else window_s
        keep = math.exp(-elapsed_s / BUDGET_HORIZON_S)
        for budget in self._budgets:
            self._budgets[budget] *= keep
        lower_ms = 0.0
        for bound_ms, count in histogram:
            # The middle of the bucket; of what lies above all bounds only the last bound is known.
            budget_s = (lower_ms + bound_ms) / 2000 if bound_ms < math.inf else lower_ms / 1000
            if count > 0:
                self._budgets[budget_s] = self._budgets.get(budget_s, 0.0) + weight_s * count / total
            lower_ms = bound_ms
        if len(self._budgets) > MOST_BUDGETS:
            heaviest = sorted(self._budgets.items(), key=lambda budget: budget[1], reverse=True)
            self._budgets = dict(heaviest[:MOST_BUDGETS])

    def _disperse(self, window_s: float, elapsed_s: float, arrivals: int) -> None:
        """Follow half the squared difference of successive counts, and their mean; equal for Poisson.

        Differences see what is short beside a window, and a change of the rate only once; the cap keeps that
        once small.
        """
        last_s, last = self._last
        self._last = window_s, arrivals
        if last_s <= 0:
            return
        mean = (arrivals + last) / 2
        squared = (arrivals / window_s - last / last_s) ** 2 * window_s * last_s / 2
        keep = math.exp(-elapsed_s / DISPERSION_HORIZON_S)
        self._deviation = self._deviation * keep + min(squared, MAX_DISPERSION * mean)
        self._expected = self._expected * keep + mean

    def _dispersion(self) -> float:
        ratio = (self._deviation + DISPERSION_PRIOR) / (self._expected + DISPERSION_PRIOR)
        return min(MAX_DISPERSION, max(MIN_DISPERSION, ratio))
