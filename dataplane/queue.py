"""Requests in the order of their deadlines."""

from bisect import bisect_left, insort
from collections.abc import Iterator

from dataplane.due import Due
from dataplane.request import Request


def _rank(request: Request) -> tuple[float, int]:
    return (request.rank_at, request.sequence)


class EdfQueue:
    """Earliest deadline first; equal deadlines in order of arrival.

    A sorted list: insertion moves pointers, which at a thousand waiting requests costs less than a heap
    saves, and everything else (removal anywhere, reading in order) is what a heap cannot do. `due` tells when
    requests are to leave.
    """

    def __init__(self, due: Due) -> None:
        self._due = due
        self._requests: list[Request] = []
        self._rows = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def __getitem__(self, index: int) -> Request:
        return self._requests[index]

    def __contains__(self, request: object) -> bool:
        return isinstance(request, Request) and self._find(request) is not None

    def __repr__(self) -> str:
        return f"<EdfQueue requests={len(self._requests)} rows={self._rows}>"

    @property
    def rows(self) -> int:
        """Rows of all that waits."""
        return self._rows

    def add(self, request: Request) -> None:
        """Put `request` in its place."""
        insort(self._requests, request, key=_rank)
        self._rows += request.rows
        self._due.add(request)

    def remove(self, request: Request) -> bool:
        """Take `request` out; False if it is not there."""
        index = self._find(request)
        if index is None:
            return False
        del self._requests[index]
        self._rows -= request.rows
        self._due.discard(request)
        return True

    @property
    def due_at(self) -> float:
        """When the first is due; infinite where none waits."""
        return self._due.next_at()

    def take_due(self, now: float) -> list[Request]:
        """Take out those that are due, and give them in order."""
        taken = sorted(self._due.take(now), key=_rank)
        for request in taken:
            self.remove(request)
        return taken

    def _find(self, request: Request) -> int | None:
        index = bisect_left(self._requests, _rank(request), key=_rank)
        if index < len(self._requests) and self._requests[index] is request:
            return index
        return None
