"""Requests that go on until told to stop, by schedule, and what becomes of each."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import overload

from evaluation import load, workload
from evaluation.load import Service
from evaluation.rows import Outcome, Row
from evaluation.workload import Arrival

_LONGEST_S = 1800.0
_MOST_IN_FLIGHT = 2000


class _Schedule(Sequence[Arrival]):
    """Arrivals up to the one at which it is stopped."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self._arrivals = arrivals
        self.begun: list[Arrival] = []
        self.stopped = False

    def __iter__(self) -> Iterator[Arrival]:
        for arrival in self._arrivals:
            if self.stopped:
                return
            self.begun.append(arrival)
            yield arrival

    def __len__(self) -> int:
        return len(self.begun) if self.stopped else len(self._arrivals)

    @overload
    def __getitem__(self, index: int) -> Arrival: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Arrival]: ...
    def __getitem__(self, index: int | slice) -> Arrival | Sequence[Arrival]:
        return self._arrivals[index]


@dataclass(slots=True)
class Traffic:
    """Requests that have ended; a row's times are seconds since `t0`, which is a time of time.monotonic."""

    t0: float
    _schedule: _Schedule
    rows: list[Row] = field(default_factory=list)

    def in_flight(self, service: str, for_s: float = 0.0) -> int:
        """Requests of a service that were due `for_s` ago, or before, and have not ended."""
        until_s = time.monotonic() - self.t0 - for_s
        due = sum(each.service == service and each.at_s <= until_s for each in self._schedule.begun)
        return due - sum(row.service == service and row.scheduled_s <= until_s for row in self.rows)

    def failures(self, *services: str) -> Counter[str]:
        """All that got no right answer in time, by what became of it; of some services, or of all."""
        return Counter(
            row.status if row.outcome is Outcome.FAILED else row.outcome.value
            for row in self.rows
            if row.outcome is not Outcome.ON_TIME and (not services or row.service in services)
        )

    def due(self, service: str, since: float, until: float) -> list[Row]:
        """Requests of a service that were due between two times of time.monotonic."""
        return [
            row for row in self.rows if row.service == service and since <= self.t0 + row.scheduled_s < until
        ]


@asynccontextmanager
async def offered(
    services: Mapping[str, Service], rates: Mapping[str, float], seed: int = 1
) -> AsyncIterator[Traffic]:
    """Send Poisson arrivals at `rates`, requests a second by service, while the block runs.

    Leaving it waits for what is under way.
    """
    phase = (workload.Phase(_LONGEST_S, 1.0),)
    schedule = _Schedule(
        workload.merge(
            *(
                workload.schedule(name, rate, phase, len(services[name].payloads), seed=seed + index)
                for index, (name, rate) in enumerate(rates.items())
            )
        )
    )
    traffic = Traffic(time.monotonic(), schedule)
    sending = asyncio.create_task(
        load.run(
            schedule, services, t0=traffic.t0, progress=traffic.rows.append, max_in_flight=_MOST_IN_FLIGHT
        )
    )
    try:
        yield traffic
    except BaseException:
        sending.cancel()
        raise
    finally:
        schedule.stopped = True
        await asyncio.wait([sending])
    sending.result()


def told(failures: Counter[str]) -> str:
    """In words."""
    return ", ".join(f"{count} {status}" for status, count in failures.items()) or "none"
