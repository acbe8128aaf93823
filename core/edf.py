"""Earliest deadline first over the slots of one worker: when each waiting request would be done."""

import heapq
from collections.abc import Sequence
from operator import gt


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
    longest = service_time[listed]
    replace = heapq.heapreplace
    done: list[float] = []
    if max_batch <= 1:  # the most common case by far, at a third of the cost
        for size in rows:
            finish = slots[0] + (service_time[size] if size <= listed else longest * size / listed)
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
        if batch_rows <= listed:
            finish = start + service_time[batch_rows]
        else:
            finish = start + longest * batch_rows / listed
        done += [finish] * (end - first)
        replace(slots, finish)
        first = end
    return done


def missed(completions: Sequence[float], remaining: Sequence[float]) -> int:
    """How many requests complete after their deadline, `remaining` seconds from now each."""
    return sum(map(gt, completions, remaining))
