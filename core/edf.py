"""Earliest deadline first over the slots of one worker: when each waiting request would be done."""

import heapq
import math
from collections.abc import Hashable, Sequence

_ROUNDING = 1e-9  # more than a sum of floats is off by


def completions(
    free_at: Sequence[float], rows: Sequence[int], service_time: Sequence[float], max_batch: int
) -> list[float]:
    """Completion time of each waiting request, in seconds from now, if nothing else arrives.

    `free_at` holds the seconds until each execution slot is free (0 or less: idle); there is at least one
    slot. `rows` holds the rows of each request in deadline order. `service_time[k]` is the duration of a
    batch of k rows; index 0 is unused, and longer batches cost as much per row as the longest one listed.

    List scheduling: the slot that is free first takes the next requests in order, as many as fit into
    `max_batch` rows, and at least one. Slots free at the same moment share what waits evenly, so that no
    batch grows while another slot could start part of it.
    """
    slots = sorted([at if at > 0.0 else 0.0 for at in free_at])  # a sorted list is a heap
    listed = len(service_time) - 1
    per_row = service_time[listed] / listed
    replace = heapq.heapreplace
    done: list[float] = []
    if max_batch <= 1:  # the most common case by far, at a third of the cost
        for size in rows:
            finish = slots[0] + (service_time[size] if size <= listed else per_row * size)
            replace(slots, finish)
            done.append(finish)
        return done

    total = len(rows)
    first = 0
    while first < total:
        start = slots[0]
        idle = slots.count(start)
        last = first - (first - total) // idle  # an even share, rounded up
        batch_rows = rows[first]
        end = first + 1
        while end < last and batch_rows + rows[end] <= max_batch:
            batch_rows += rows[end]
            end += 1
        finish = start + (service_time[batch_rows] if batch_rows <= listed else per_row * batch_rows)
        done += [finish] * (end - first)
        replace(slots, finish)
        first = end
    return done


def completions_by_shape(
    free_at: Sequence[float],
    rows: Sequence[int],
    shapes: Sequence[Hashable],
    costs: Sequence[float],
    remaining: Sequence[float],
    service_time: Sequence[float],
    max_batch: int,
) -> list[float]:
    """As `completions`, where only requests of equal shape share a batch.

    A batch of k rows takes `service_time[k]` times the cost of its shape. It passes requests of other shapes over,
    but beyond those that other slots, free at the same moment, take, it leaves each the time to end within its
    `remaining` seconds, if it does so without growing.
    """
    listed = len(service_time) - 1
    per_row = service_time[listed] / listed

    def alone(index: int, size: int) -> float:
        return costs[index] * (service_time[size] if size <= listed else per_row * size)

    slots = sorted([at if at > 0.0 else 0.0 for at in free_at])
    done = [0.0] * len(rows)
    waiting = list(range(len(rows)))
    while waiting:
        start = slots[0]
        idle = slots.count(start)
        share = -(-len(waiting) // idle)
        first = waiting[0]
        batch, size, finish = [first], rows[first], start + alone(first, rows[first])
        until = math.inf
        passed: list[int] = []
        position = 1
        for position, index in enumerate(waiting[1:], start=1):  # noqa: B007
            if len(batch) == share or size >= max_batch:
                break
            if shapes[index] != shapes[first]:
                passed.append(index)
                if len(passed) >= idle and finish <= (least := remaining[index] - alone(index, rows[index])):
                    until = min(until, least)
                continue
            larger = size + rows[index]
            if larger > max_batch or start + alone(first, larger) > until:
                break
            batch.append(index)
            size, finish = larger, start + alone(first, larger)
        else:
            position = len(waiting)
        for index in batch:
            done[index] = finish
        heapq.heapreplace(slots, finish)
        waiting = passed + waiting[position:]
    return done


def latest(free_at: Sequence[float], count: int, longest: float) -> float:
    """Give what no completion of `count` requests exceeds, where no batch takes more than `longest` seconds.

    Before a batch begins all slots are busy, at most with one batch for each of the other requests.
    """
    busy = sum(at for at in free_at if at > 0.0) + (count - 1) * longest
    return (busy / len(free_at) + longest) * (1 + _ROUNDING)


class Check:
    """Which of the waiting requests miss their deadlines if nothing else arrives, under one batch limit or another.

    As `completions`, but a request that would be late is refused and takes no time, and a batch grows only
    while its earliest deadline allows. `remaining` are the seconds from now to the deadlines, `weights` what
    each miss counts.
    """

    def __init__(
        self,
        free_at: Sequence[float],
        rows: Sequence[int],
        remaining: Sequence[float],
        weights: Sequence[float],
        service_time: Sequence[float],
    ) -> None:
        self._rows = rows
        self._remaining = remaining
        self._weights = weights
        self._service_time = service_time
        self._start = sorted([at if at > 0.0 else 0.0 for at in free_at]), 0, 0.0
        # Slots, requests gone and weight lost where the first batch grew up to a limit: up to there all goes the
        # same under a higher one, which is two thirds of the way.
        self._shared = self._start
        self._limit = 0

    def missed(self, max_batch: int, enough: float = math.inf) -> float:
        """Weight of those that miss; if that reaches `enough`, a part of it that does.

        Limits cost least in rising order.
        """
        rows, remaining, service_time = self._rows, self._remaining, self._service_time
        listed = len(service_time) - 1
        per_row = service_time[listed] / listed
        replace = heapq.heapreplace
        total = len(rows)
        slots, first, lost = self._shared if max_batch >= self._limit else self._start
        slots = slots.copy()
        shared = None
        while first < total and lost < enough:
            start = slots[0]
            size = rows[first]
            deadline = remaining[first]
            finish = start + (service_time[size] if size <= listed else per_row * size)
            if finish > deadline:
                lost += self._weights[first]
                first += 1
                continue
            end = first + 1
            if size < max_batch or shared is None:
                last = first - (first - total) // slots.count(start)
                while end < last:
                    larger = size + rows[end]
                    later = start + (service_time[larger] if larger <= listed else per_row * larger)
                    if later > deadline:
                        break
                    if larger > max_batch:
                        shared = shared or (slots.copy(), first, lost)
                        break
                    size, finish = larger, later
                    end += 1
            replace(slots, finish)
            first = end
        self._shared, self._limit = shared or (slots, first, lost), max_batch
        return lost
