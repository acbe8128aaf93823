"""What a worker may run with, and of that what is worth a look."""

import functools
from dataclasses import dataclass

STEP_MILLICORES = 100
CORE_MILLICORES = 1000
MEMORY_STEP_BYTES = 64 << 20  # a limit that follows every byte would be written for ever
# A quota equal to the threads leaves nothing to the event loop, and the kernel then stops them all.
HEAD_ROOM_MILLICORES = 100
# Up to so many threads fractions of a core are worth having.
FRACTIONAL_THREADS = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker can run with, and what its service may have."""

    min_millicores: int = 500
    max_millicores: int = 64_000
    max_instances: int = 8
    max_threads: int = 8
    max_batch: int = 8
    whole_cores: bool = False  # quotas are CPUs of its own; the most is one at least
    max_memory_bytes: int | None = None  # of its limit; None: as much as the host has

    def within(self, host_millicores: int) -> tuple[int, int]:
        """Give the least and the most that there is on such a host; one below the floor is the floor.

        In whole steps, the floor rounded up and the ceiling down: on a host of odd size, or beside a worker with an odd
        quota, plans are as quick as on others. Where no step lies between the two there is only the ceiling.
        """
        ceiling = min(self.max_millicores, max(1, host_millicores))
        floor = min(self.min_millicores, ceiling)
        step = CORE_MILLICORES if self.whole_cores else STEP_MILLICORES
        least, most = -(-floor // step) * step, ceiling // step * step
        if self.whole_cores:
            most = max(step, most)  # on a host with less, as there is no smaller shape
            return min(least, most), most
        return (least, most) if least <= most else (ceiling, ceiling)


@functools.lru_cache
def shapes(limits: Limits, host_millicores: int) -> tuple[tuple[int, int, int], ...]:
    """(millicores, instances, threads) of all that is worth a look; at least one, even below the floor.

    With r = n·t threads the quota is at most r cores and head-room, above which nothing throttles, and above
    r − 1 cores, since otherwise one thread less does as much. All steps of a core are looked at up to
    FRACTIONAL_THREADS; beyond, where they are a small part of the whole, halves, and what the ceiling leaves
    of the last core, if it is half of it or more.

    Of whole cores there are as many as threads, and no head-room: nothing is throttled on CPUs of one's own, where the
    kernel lets an event loop that wakes up go first.
    """
    floor, ceiling = limits.within(host_millicores)
    return tuple(
        (quota, instances, 1 << power)
        for power in range(limits.max_threads.bit_length())
        for instances in range(1, limits.max_instances + 1)
        for quota in (_cores if limits.whole_cores else _quotas)(instances << power, floor, ceiling)
    )


def _quotas(runnable: int, floor: int, ceiling: int) -> list[int]:
    least = floor if runnable == 1 else max(floor, 1000 * (runnable - 1) + HEAD_ROOM_MILLICORES)
    enough = max(least, 1000 * runnable + HEAD_ROOM_MILLICORES)
    most = min(enough, ceiling)
    if runnable > FRACTIONAL_THREADS:
        half = 1000 * runnable - 500
        return [quota for quota in dict.fromkeys((half, most)) if max(least, half) <= quota <= most]
    if least > ceiling:
        return []
    steps = range(-(-least // STEP_MILLICORES) * STEP_MILLICORES, most, STEP_MILLICORES)
    return [quota for quota in sorted({least, *steps}) if quota != 1000 * runnable and quota < most] + [most]


def _cores(runnable: int, floor: int, ceiling: int) -> list[int]:
    enough = max(floor, 1000 * runnable)
    return [enough] if enough <= ceiling else []


@functools.lru_cache
def ladder(limit: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, …, and the limit itself."""
    powers = range(limit.bit_length())
    steps = {limit, *(1 << power for power in powers), *(3 << power for power in powers)}
    return tuple(sorted(step for step in steps if step <= limit))
