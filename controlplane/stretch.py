"""Work under a CPU quota: what a quota makes of it, and what of an execution was work."""

import numpy as np

from controlplane.curve import Floats, Integers


def stretched_mean(work_s: Floats, runnable: int | Integers, millicores: int | Integers) -> Floats:
    """Mean wall time of work under a quota, while `runnable` threads want to run.

    A quota of Q per period P gives them Q/(runnable·P) of the time each. Measured within 0.86 to 1.19.
    """
    return work_s * np.maximum(1.0, 1000 * runnable / millicores)


def stretched_upper(
    work_s: Floats, runnable: int | Integers, millicores: int | Integers, period_s: float
) -> Floats:
    """Wall time of work under a quota at worst: w + ⌈w·r/Q⌉·(P − Q/r), for r·P > Q, else w.

    The supply bound of a periodic resource: r threads use up Q in Q/r of a period and stand still for the
    rest of it, and the work may begin with such a stand-still. For short work the mean's factor alone is up
    to 4.3 times too low.
    """
    quota_s = millicores / 1000 * period_s
    periods = -(-work_s * runnable // quota_s)
    stands_s = np.where(1000 * runnable <= millicores, 0.0, period_s - quota_s / runnable)
    return work_s + periods * stands_s


def throttled(threads: int, busy: float, millicores: int) -> bool:
    """Whether a quota of `millicores` (0: none) is less than an execution and those beside it could use."""
    return 0 < millicores < 1000 * threads * max(1.0, busy)


def work_of(wall_s: float, cpu_s: float, threads: int, busy: float, millicores: int) -> float:
    """Work of an execution that took `wall_s` under a quota of `millicores` (0: none).

    Where the quota could not have throttled it that is the wall time. Where it could, one thread's own CPU
    time (`cpu_s`) is the work; of several threads only the mean stretch can be taken out.
    """
    if not throttled(threads, busy, millicores):
        return wall_s
    if threads == 1 and cpu_s > 0:
        return min(cpu_s, wall_s)
    return wall_s * millicores / (1000 * threads * max(1.0, busy))
