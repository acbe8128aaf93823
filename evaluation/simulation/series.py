"""A run second by second: what plots are made of. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.simulation.score import Class, End, Tally


@dataclass(frozen=True, slots=True)
class Span:
    """From the end of the one before until `until_s` each service had so many cores reserved."""

    until_s: float
    cores: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One service; arrays have an entry for each second up to the last in which a request is due.

    Requests count in the second in which they are due, in arrays of shape (classes, seconds) whose first axis is
    a `Class`; budgets in the second of arrival, and are NaN where nothing arrives. Nothing is reserved after the
    end of the run.
    """

    service: str
    core_seconds: NDArray[np.float64]
    on_time: NDArray[np.int64]
    late: NDArray[np.int64]
    refused: NDArray[np.int64]
    least_budget_s: NDArray[np.float64]
    median_budget_s: NDArray[np.float64]

    @property
    def missed(self) -> NDArray[np.int64]:
        """Late and refused of all that were not dead on arrival."""
        missed: NDArray[np.int64] = (self.late + self.refused)[Class.TIGHT :].sum(axis=0)
        return missed

    @property
    def avoidable_missed(self) -> NDArray[np.int64]:
        """Late and refused of those that had time enough."""
        missed: NDArray[np.int64] = (self.late + self.refused)[Class.REST]
        return missed


def series(tallies: Sequence[Tally], spans: Sequence[Span]) -> tuple[Series, ...]:
    """Give one for each service."""
    return tuple(_of(tally, spans, index) for index, tally in enumerate(tallies))


def _of(tally: Tally, spans: Sequence[Span], index: int) -> Series:
    offered = tally.service.offered
    deadline_s, arrived_s = np.array(offered.deadline_s), np.array(offered.arrived_s)
    until_s = np.array([0.0, *(span.until_s for span in spans)])
    seconds = int(max(np.ceil(until_s[-1]), np.floor(deadline_s.max(initial=0.0)) + 1))
    charged = np.cumsum([0.0, *(np.diff(until_s) * [span.cores[index] for span in spans])])
    # Every end of every class in every second is a bin of its own.
    kinds = np.frombuffer(tally.ends, np.uint8).astype(np.int64) * len(Class)
    kinds += np.frombuffer(tally.classes, np.uint8)
    bins = kinds * seconds + np.floor(deadline_s).astype(np.int64)
    counts = np.bincount(bins, minlength=len(End) * len(Class) * seconds).reshape(
        len(End), len(Class), seconds
    )
    least_s, median_s = _budgets(arrived_s, deadline_s - arrived_s, seconds)
    return Series(
        service=tally.service.name,
        core_seconds=np.diff(np.interp(np.arange(seconds + 1), until_s, charged)),
        on_time=counts[End.ON_TIME],
        late=counts[End.LATE],
        refused=counts[End.REFUSED],
        least_budget_s=least_s,
        median_budget_s=median_s,
    )


def _budgets(
    arrived_s: NDArray[np.float64], budget_s: NDArray[np.float64], seconds: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the median of each second; what arrives after the last was due long before."""
    borders = np.searchsorted(arrived_s, np.arange(seconds + 1))  # arrivals are in order
    first, count = borders[:-1], np.diff(borders)
    some = count > 0
    ranked = budget_s[np.lexsort((budget_s, np.floor(arrived_s)))]
    least_s, median_s = np.full((2, seconds), np.nan)
    least_s[some] = ranked[first[some]]
    lower, upper = first + (count - 1) // 2, first + count // 2
    median_s[some] = (ranked[lower[some]] + ranked[upper[some]]) / 2
    return least_s, median_s
