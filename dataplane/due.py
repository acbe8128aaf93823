"""When requests that wait are due, and which are next: without looking at all of them."""

import heapq
from collections.abc import Callable, Hashable, Mapping
from math import inf
from typing import Protocol

from dataplane.request import Request
from dataplane.servicetime import ServiceTimes

# Entries of requests that have gone stay until the heap is twice as long as what waits, and a few.
_SPARE = 16


class Due(Protocol):
    """When each request of a lane is due."""

    def add(self, request: Request) -> None: ...

    def discard(self, request: Request) -> None:
        """It waits no more."""

    def next_at(self) -> float:
        """When the first is due; infinite where none waits."""

    def take(self, now: float) -> list[Request]:
        """Those that are due, in no order; they count as discarded."""


class Fixed:
    """Due at a time that never changes."""

    def __init__(self, at: Callable[[Request], float]) -> None:
        self._at = at
        self._heap: list[tuple[float, int, Request]] = []
        self._waiting: set[Request] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: Request) -> None:
        self._waiting.add(request)
        heapq.heappush(self._heap, (self._at(request), request.sequence, request))
        # They would keep what they carry in memory until their time.
        if len(self._heap) > 2 * len(self._waiting) + _SPARE:
            self._heap = [(self._at(one), one.sequence, one) for one in self._waiting]
            heapq.heapify(self._heap)

    def discard(self, request: Request) -> None:
        self._waiting.discard(request)

    def next_at(self) -> float:
        first = self.first()
        return inf if first is None else self._at(first)

    def take(self, now: float) -> list[Request]:
        taken = []
        while (first := self.first()) is not None and now >= self._at(first):
            self._waiting.discard(first)
            taken.append(first)
        return taken

    def first(self) -> Request | None:
        """Who is due first; None where none waits."""
        heap = self._heap
        while heap and heap[0][2] not in self._waiting:
            heapq.heappop(heap)
        return heap[0][2] if heap else None


class Patience:
    """Due when `patience_s` have passed since it was doubted, or when it cannot be on time whatever happens.

    `doubted` gives when each was, first of its values. The rest changes with what executions take.
    """

    def __init__(
        self, patience_s: float, doubted: Mapping[Request, tuple[float, float]], times: ServiceTimes
    ) -> None:
        self._patience_s = patience_s
        self._doubted = doubted
        self._times = times
        self._patient = Fixed(lambda request: doubted[request][0] + patience_s)
        # Requests of equal rows and shape take equal time: of these the earliest deadline is hopeless first.
        self._alike: dict[Hashable, Fixed] = {}

    def until(self, request: Request) -> float:
        """When this one is due."""
        since, _ = self._doubted[request]
        return min(since + self._patience_s, self._latest_start(request))

    def _latest_start(self, request: Request) -> float:
        return request.deadline_at - self._times.least(request)

    def add(self, request: Request) -> None:
        self._patient.add(request)
        kind = (request.rows, request.cost_key)
        if kind not in self._alike:
            self._alike[kind] = Fixed(lambda one: one.deadline_at)
        self._alike[kind].add(request)

    def discard(self, request: Request) -> None:
        self._patient.discard(request)
        kind = (request.rows, request.cost_key)
        if (alike := self._alike.get(kind)) is not None:
            alike.discard(request)
            if len(alike) == 0:
                del self._alike[kind]

    def next_at(self) -> float:
        starts = (self._latest_start(first) for alike in self._alike.values() if (first := alike.first()))
        return min(self._patient.next_at(), min(starts, default=inf))

    def take(self, now: float) -> list[Request]:
        taken = self._patient.take(now)
        for alike in self._alike.values():
            while (first := alike.first()) is not None and now >= self._latest_start(first):
                alike.discard(first)
                taken.append(first)
        taken = list(dict.fromkeys(taken))
        for request in taken:
            self.discard(request)
        return taken
