"""What a swap of shapes costs those who wait meanwhile. Pure: a worker's journal and its swaps, to numbers."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf

from evaluation.journal import Executed, Served


@dataclass(frozen=True, slots=True)
class Swap:
    """An allocation that was decided and put in force at these times, in seconds of the worker's clock."""

    decided_s: float
    applied_s: float
    instances: int
    threads: int
    max_batch: int


@dataclass(frozen=True, slots=True)
class Stall:
    """What is seen within one window of time; seconds.

    `idle_s` is the longest that a request waited beside an idle slot at a time, `gap_s` the longest time in which no
    execution ended although somebody waited for one, `batch_s` the longest execution there was.
    """

    idle_s: float
    gap_s: float
    batch_s: float


def stalls(
    swaps: Sequence[Swap], served: Iterable[Served], executions: Sequence[Executed]
) -> tuple[list[Stall], Stall]:
    """What each swap stalled, and what was stalled with no swap near it.

    A swap's window begins when it is decided, which is before a session is built for it, and ends one execution,
    the longest of all, after it is in force: whatever it stalls has shown by then. `swaps` in order.
    """
    answered = [one for one in served if one.started_s is not None]
    longest_s = max((one.slot_s for one in executions), default=0.0)
    windows = [(swap.decided_s, swap.applied_s + longest_s) for swap in swaps]
    idle = _Idle(swaps, executions)
    queued = [(one.arrived_s, one.started_s or 0.0) for one in answered]
    waits = [(*span, idle.longest(*span)) for span in queued]
    gaps = _gaps(answered)
    runs = [(one.started_s, one.started_s + one.slot_s, one.slot_s) for one in executions]
    beside = [Stall(_most(waits, window), _most(gaps, window), _most(runs, window)) for window in windows]
    apart = [[span for span in spans if not _near(span, windows)] for spans in (waits, gaps, runs)]
    elsewhere = Stall(*(max((span[2] for span in spans), default=0.0) for spans in apart))
    return beside, elsewhere


_Span = tuple[float, float, float]  # from, until, and a number of that time


def _most(spans: Sequence[_Span], window: tuple[float, float]) -> float:
    return max((span[2] for span in spans if span[0] <= window[1] and span[1] >= window[0]), default=0.0)


def _near(span: _Span, windows: Sequence[tuple[float, float]]) -> bool:
    """Whether it overlaps one of them; they are in order."""
    index = bisect_left(windows, span[0], key=lambda window: window[1])
    return index < len(windows) and windows[index][0] <= span[1]


def _gaps(answered: Sequence[Served]) -> list[_Span]:
    """Times between two ends of executions throughout which somebody waited for an answer."""
    ends = sorted({one.finished_s for one in answered})
    waiting = [0] * (len(ends) + 1)
    for one in answered:  # it covers all gaps from its arrival to its end
        first = bisect_left(ends, one.arrived_s)
        waiting[first] += 1
        waiting[max(first, bisect_left(ends, one.finished_s))] -= 1
    return [
        (before, after, after - before)
        for (before, after), count in zip(pairwise(ends), accumulate(waiting), strict=False)
        if count > 0
    ]


class _Idle:
    """When a slot was idle: fewer executions ran than there were instances."""

    def __init__(self, swaps: Sequence[Swap], executions: Sequence[Executed]) -> None:
        # By their time in the engine: what the loop takes to hear of an end is time lost as well.
        changes = [(one.started_s, 0, 1) for one in executions]
        changes += [(one.started_s + one.wall_s, 0, -1) for one in executions]
        changes += [(swap.applied_s, swap.instances, 0) for swap in swaps]
        self._begin_s: list[float] = []
        self._end_s: list[float] = []
        instances, running, idle = 1, 0, False
        for at_s, resized, started in sorted(changes):
            instances, running = resized or instances, running + started
            if idle and running >= instances:
                self._end_s.append(at_s)
            elif not idle and running < instances:
                self._begin_s.append(at_s)
            idle = running < instances
        self._end_s += [inf] * (len(self._begin_s) - len(self._end_s))

    def longest(self, begin_s: float, end_s: float) -> float:
        """Seconds of the longest such time within these two."""
        first, last = bisect_right(self._end_s, begin_s), bisect_left(self._begin_s, end_s)
        spans = zip(self._begin_s[first:last], self._end_s[first:last], strict=True)
        return max((min(end, end_s) - max(begin, begin_s) for begin, end in spans), default=0.0)
