"""How much slower one worker has become than its model says: a neighbour, a slower CPU, a lie."""

import math
from collections import deque
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from controlplane.cell import HALF_LIFE_S
from controlplane.curve import Floats
from controlplane.latency import OUTLIER_RATIO, UPPER

# Recent executions of a size that have to be known before one of it is compared: so many outweigh what a profile told.
MATURE = 64
MOST = 3.0  # standard deviations that one execution counts for, as it may be an outlier
LEAST_SPREAD = 0.1
# The newest that say how large it is: the ratio is the mean of half of them, the margin the quantile of all.
NEWEST = 32
OVER = LEAST_SPREAD  # up to this ratio and this margin, as logarithms, it is no change
# What a quota makes of an execution is foreseen within a seventh in the median: up to a fifth more is no change.
TOLERATED = 1.2
# A longer time without an execution that could be compared counts as so much: nobody knows what was in it.
UNSEEN_S = 10.0


class PageTest(NamedTuple):
    """Of E. S. Page (Biometrika 41, 1954), on the logarithm of what an execution took over what was expected.

    All in standard deviations: to a side, what counts as no change, and how much beyond that in sum is one.
    """

    side: float  # 1: slower
    allowed: float
    limit: float


# To the slower side two: of all executions, after a few; and of some of them, as a neighbour now and then makes, after
# a hundred. To the faster side much is allowed, as most executions take less than the mean.
TESTS = PageTest(1.0, 1.0, 8.0), PageTest(1.0, 0.5, 16.0), PageTest(-1.0, 2.0, 8.0)


class Drift:
    """Of one worker, against what its model is believed to take.

    While it lasts work takes `slower` times what is believed in the mean, and `wider` times the upper estimate; both
    are 1 otherwise. What an execution took, over `factor`, is what tells of the model. `quantile` is that of the
    upper estimates.

    What a quota throttles takes longer for that as well, which is foreseen, but not as well as an execution is
    known: as long as there are others only those count. And the ratio of throttled ones is this machine's, now: it
    is neither taken out of what tells of the model nor does it ever become a part of it.
    """

    def __init__(self, quantile: float = UPPER) -> None:
        self._quantile = quantile
        self._sigmas = NormalDist().inv_cdf(quantile)  # from the mean to the upper estimate
        self.slower = self.wider = 1.0
        self.began_at: float | None = None  # None: there is none
        self._throttled = False  # what is compared
        self._seen_at = -math.inf
        self._seen_s = 0.0  # how long of it, how many executions, and the sum of their ratios
        self._seen, self._total = 0, 0.0
        # Over the mean, over the upper estimate.
        self._newest: deque[tuple[float, float]] = deque(maxlen=NEWEST)
        self._sums = [0.0] * len(TESTS)
        self._since = [0] * len(TESTS)  # executions since each sum was zero

    def observe(
        self, took_s: float, mean_s: float, upper_s: float, now: float, *, throttled: bool = False
    ) -> None:
        """An execution took `took_s`, of which `mean_s` and `upper_s` were believed where and as it ran."""
        if throttled != self._throttled:
            if throttled and now - self._seen_at < UNSEEN_S:
                return
            # What has been seen holds until executions of the other kind say otherwise.
            self._forget()
            self._throttled = throttled
        self._newest.append((took_s / mean_s, took_s / upper_s))
        unseen_s, self._seen_at = now - self._seen_at, now
        if self.began_at is not None:
            self._seen_s += min(unseen_s, UNSEEN_S)
            self._seen += 1
            self._total += min(took_s / mean_s, OUTLIER_RATIO * self.slower)
            self._follow()
            return
        score = math.log(took_s / mean_s) / max(LEAST_SPREAD, math.log(upper_s / mean_s) / self._sigmas)
        score = max(-MOST, min(MOST, score))
        for test, (side, allowed, limit) in enumerate(TESTS):
            self._sums[test] = max(0.0, self._sums[test] + side * score - allowed)
            self._since[test] = self._since[test] + 1 if self._sums[test] > 0 else 0
            if self._sums[test] > limit:
                # Those before the change say nothing of it.
                self._newest = deque(list(self._newest)[-self._since[test] :], NEWEST)
                self.began_at = now
                self._follow()
                return

    def end(self) -> None:
        """Begin anew: what is believed has become another."""
        self.slower = self.wider = 1.0
        self.began_at = None
        self._forget()

    def factor(self, throttled: bool) -> float:
        """How many times what its model tells an execution took, as far as that is known."""
        return 1.0 if throttled or self._throttled else self.slower

    def seen(self, now: float) -> bool:
        """Whether any execution of the last half-life could be compared."""
        return now - self._seen_at < HALF_LIFE_S

    def tells(self, now: float) -> bool:
        """Whether it is seen by executions that tell of the model."""
        return self.seen(now) and not self._throttled

    @property
    def lasting(self) -> float:
        """What it was in the mean, once it has been seen for a half-life; 1 until then, and of what is throttled."""
        return self._total / self._seen if self._seen_s >= HALF_LIFE_S and not self._throttled else 1.0

    def _forget(self) -> None:
        self._newest.clear()
        self._sums, self._since = [0.0] * len(TESTS), [0] * len(TESTS)
        self._seen_s, self._seen, self._total = 0.0, 0, 0.0

    def _follow(self) -> None:
        ratios, above = np.array(self._newest).T
        level = _level(ratios[-NEWEST // 2 :])
        settled = len(ratios) >= NEWEST // 2
        margin = float(np.quantile(above, self._quantile, method="higher" if not settled else "linear"))
        # Of some executions the newest half may have none.
        if settled and abs(math.log(level)) <= OVER and math.log(margin) <= OVER:
            self.end()
        elif settled or level > self.slower:  # less is believed later than more
            self.slower = level
            self.wider = max(level, margin)


def _level(ratios: Floats) -> float:
    """The mean, in which an outlier counts as at most so much of the rest."""
    return float(np.minimum(ratios, OUTLIER_RATIO * np.median(ratios)).mean())


def agreed(ratios: Sequence[float]) -> float:
    """What all of `ratios`, at least one, say at the least: the one nearest to 1, which is 1 if they contradict."""
    return max(1.0, min(ratios)) * min(1.0, max(ratios))
