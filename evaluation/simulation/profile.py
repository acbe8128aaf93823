"""How long executions take: a measured grid as policies see it, and the truth that a simulation makes of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from controlplane import profilefile
from controlplane.profiled import Times
from controlplane.profilefile import ProfileError
from evaluation import paper
from evaluation.paper import Point

__all__ = ["ProfileError", "Truth", "cheapest_batch", "followed", "read", "read_authors_times"]

# Columns of the two formats: of the paper's authors (seconds), and of Sponge (milliseconds).
_AUTHORS = ("max_batch_size", "cpu_request", "model_latencies_p99")
_OWN = ("rows", "threads", "p99_ms")
_AUTHORS_WHOLE = (*_AUTHORS[:2], "model_latencies_avg", "model_latencies_p95", "model_latencies_p99")


def read(path: Path) -> tuple[Point, ...]:
    """Read a grid of p99 latencies, told by its header.

    Either the columns max_batch_size, cpu_request, model_latencies_p99 in seconds (the Sponge paper's authors),
    or rows, threads, p99_ms (`sponge profile`); other columns and comment lines are ignored. Raises ProfileError.
    """
    _, header, lines = profilefile.table(path)
    lines = profilefile.alone(path, header, lines)
    for names, unit_ms in ((_AUTHORS, 1000.0), (_OWN, 1.0)):
        if set(names) <= set(header):
            cells = profilefile.cells(path, names, header, lines)
            return tuple(Point(*key, unit_ms * latency) for key, (latency,) in cells.items())
    raise ProfileError(f"{path}: expected the columns {', '.join(_AUTHORS)} or {', '.join(_OWN)}")


def read_authors_times(path: Path) -> dict[tuple[int, int], Times]:
    """Read what the paper's authors measured, by (batch, cores), whole. Raises ProfileError.

    They tell no median: the mean stands for it.
    """
    _, header, lines = profilefile.table(path)
    if not set(_AUTHORS_WHOLE) <= set(header):
        raise ProfileError(f"{path}: expected the columns {', '.join(_AUTHORS_WHOLE)}")
    times = {}
    for (batch, cores), (mean, p95, p99) in profilefile.cells(path, _AUTHORS_WHOLE, header, lines).items():
        if not mean <= p95 <= p99:
            raise ProfileError(
                f"{path}: a batch of {batch} on {cores}: expected average, p95 and p99 that do not fall, "
                f"got {mean:g}, {p95:g} and {p99:g}"
            )
        times[batch, cores] = Times(mean, mean, p95, p99)
    return times


@dataclass(frozen=True, slots=True)
class Truth:
    """Seconds of one undisturbed execution: `table[threads][rows]`, both from 1 on; index 0 is unused."""

    table: tuple[tuple[float, ...], ...]

    @classmethod
    def grid(cls, points: Sequence[Point], max_threads: int, max_rows: int) -> Self:
        """Interpolate linearly in rows and threads.

        Beyond the grid more threads help no further, and a row costs what the last measured step did.
        """
        batches = sorted({p.batch for p in points})
        cores = sorted({p.cores for p in points})
        known = {(p.batch, p.cores): p.latency_ms / 1000 for p in points}
        rows = np.arange(1.0, max_rows + 1)
        by_rows = []
        for c in cores:
            line = [known[b, c] for b in batches]
            last = (line[-1] - line[-2]) / (batches[-1] - batches[-2]) if len(batches) > 1 else line[-1]
            inside = np.interp(rows, batches, line)
            by_rows.append(inside + np.maximum(rows - batches[-1], 0.0) * max(last, 0.0))
        columns = np.array(by_rows)
        threads = np.arange(1.0, max_threads + 1)
        table = np.array([np.interp(threads, cores, column) for column in columns.T])
        return cls._of(table.T)

    @classmethod
    def fit(cls, points: Sequence[Point], max_threads: int, max_rows: int) -> Self:
        """Believe the paper's least squares fit. Raises ProfileError where that is not above zero."""
        curve = paper.fit(points)
        table = np.array(
            [
                [curve.latency_ms(b, c) / 1000 for b in range(1, max_rows + 1)]
                for c in range(1, max_threads + 1)
            ]
        )
        if not (table > 0).all():
            raise ProfileError("the least squares fit of this profile is negative somewhere: use the grid")
        return cls._of(table)

    @classmethod
    def _of(cls, table: np.ndarray) -> Self:
        return cls(((), *((0.0, *line) for line in table.tolist())))

    def seconds(self, rows: int, threads: int) -> float:
        """Duration of one execution, with nothing beside it."""
        return self.table[threads][rows]

    def noisy(self, factors: Iterator[float]) -> Callable[[int, int, float], float]:
        """Give executions of (rows, threads) their duration times the next factor, whenever they begin."""
        table = self.table
        return lambda rows, threads, _now: table[threads][rows] * next(factors)

    @property
    def max_threads(self) -> int:
        return len(self.table) - 1

    @property
    def max_rows(self) -> int:
        return len(self.table[1]) - 1

    @property
    def fastest_s(self) -> float:
        """The fastest execution there is: less is not enough for any request."""
        return min(line[1] for line in self.table[1:])

    @property
    def cheapest_row_s(self) -> float:
        """Duration of the execution of one row that takes the least CPU."""
        return min((threads * line[1], line[1]) for threads, line in enumerate(self.table) if line)[1]


def followed(points: Sequence[Point], threads: int) -> tuple[Point, ...]:
    """What a profile measured with so many threads at every number of cores would be had threads followed, at worst.

    On fewer cores an execution takes at most l(b, threads)·threads/cores: threads speed it up at most in proportion.
    Raises ProfileError without measurements on so many cores.
    """
    known = {p.batch: p.latency_ms for p in points if p.cores == threads}
    if not known:
        raise ProfileError(f"followed_from: expected a number of cores that was measured, got {threads}")
    return tuple(
        p if p.cores >= threads else Point(p.batch, p.cores, known[p.batch] * threads / p.cores)
        for p in points
    )


def cheapest_batch(points: Sequence[Point], max_batch: int) -> int:
    """The smallest batch size measured on one core whose time per row is within a tenth of the least.

    For policies that do not choose one: a few per cent of CPU are not worth twice the latency.
    """
    single = sorted(
        (p.batch, p.latency_ms / p.batch) for p in points if p.cores == 1 and p.batch <= max_batch
    )
    least = min(per_row for _, per_row in single)
    return next(batch for batch, per_row in single if per_row <= 1.1 * least)
