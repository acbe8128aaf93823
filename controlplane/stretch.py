"""Work under a CPU quota: what a quota makes of it, and what of an execution was work."""

import numpy as np

from controlplane.curve import Floats, Integers
from controlplane.latency import UPPER, LatencyModel

WAITING = 0.5  # MiniLM on two threads: 1.1 and 1.3 are useful, 1.5 and 1.6 of the quota are used


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


def walls(
    model: LatencyModel,
    grid: tuple[Floats, Floats],
    millicores: Integers,
    instances: Integers,
    threads: Integers,
    period_s: float,
    slower: float = 1.0,
    wider: float = 1.0,
) -> tuple[Floats, Floats]:
    """Wall time of executions with all slots busy, [shape, rows - 1]: mean and upper quantile.

    `grid` is the model's, of at least the threads of any shape, and of the rows that are asked for. Of each shape the
    quota, instances and threads are a column [shape, 1]. Work takes `slower` times the mean that is believed, and
    `wider` times the upper estimate: longer work meets more of the quota's stand-stills.
    """
    mean, upper = (work[threads[:, 0] - 1] for work in grid)
    crowd = 1 + model.kappa * (instances - 1)
    runnable = instances * at_work(grid[0][0], mean, threads)
    return (
        stretched_mean(slower * mean * crowd, runnable, millicores),
        stretched_upper(wider * upper * crowd, runnable, millicores, period_s, model.quantile),
    )


def walls_of(
    model: LatencyModel,
    longest: int,
    millicores: int,
    instances: int,
    threads: int,
    period_s: float,
    slower: float = 1.0,
    wider: float = 1.0,
) -> tuple[Floats, Floats]:
    """The same of one shape, [rows - 1] up to `longest` rows."""
    one = np.array([[millicores], [instances], [threads]])[:, :, None]
    mean_s, upper_s = walls(
        model, model.grid(threads, longest), one[0], one[1], one[2], period_s, slower, wider
    )
    return mean_s[0], upper_s[0]


def beside(model: LatencyModel, rows: int, threads: int, busy: float) -> tuple[float, float]:
    """Wall time of an execution without a quota, with `busy` slots in use, its own included: mean, upper quantile."""
    crowd = 1 + model.kappa * (busy - 1)
    return crowd * model.mean(rows, threads), crowd * model.upper(rows, threads)


def wall_of(
    model: LatencyModel, rows: int, threads: int, busy: float, millicores: int, period_s: float
) -> tuple[float, float]:
    """The same under a quota."""
    mean_s, upper_s = (np.array([value]) for value in beside(model, rows, threads, busy))
    alone_s = np.array([model.mean(rows, 1)]), np.array([model.mean(rows, threads)])
    runnable = busy * at_work(*alone_s, threads)
    longest_s = stretched_upper(upper_s, runnable, millicores, period_s, model.quantile)
    return float(stretched_mean(mean_s, runnable, millicores)[0]), float(longest_s[0])


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
