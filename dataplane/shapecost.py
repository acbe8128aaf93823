"""What executions of one shape cost beside those of another: 128 tokens a row, 8 tokens a row."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from dataplane.request import Request

# Shapes that are remembered by themselves; what others cost is told by their size.
_MAX_SHAPES = 64
# Weight of the newest execution of a shape, and in the mean of all.
_FORGETTING = 1 / 8
_MIX_FORGETTING = 1 / 64
# What is refused for its cost without having run for so long is believed to cost half.
_DOUBT_S = 1.0


@dataclass(slots=True)
class _Shape:
    elements: int
    cost: float
    seen: int = 0
    refused_since: float | None = None


class ShapeCosts:
    """Cost of each shape: its time over that of the mean of all, in batches of as many rows.

    One factor for all batch sizes: of a small transformer 128 tokens cost 3.5 to 4.5 times as much as 32, at 1
    to 8 rows. A shape that has not run costs as much as those next to it in elements a row say: between two in
    proportion to the distance, above the largest in proportion to its size, below the smallest the same.
    While there is one shape only, it costs 1, exactly.
    """

    def __init__(self) -> None:
        self._only: Hashable = None
        self._shapes: OrderedDict[Hashable, _Shape] = OrderedDict()  # least recently run first
        self._sizes: list[tuple[int, float]] = []  # elements a row and cost, as measured before serving
        self._curve: list[tuple[int, float]] | None = None
        self._mix = 1.0
        self.even = True

    def __repr__(self) -> str:
        return f"<ShapeCosts shapes={len(self._shapes)} even={self.even}>"

    def expect(self, sizes: Mapping[int, float]) -> None:
        """Say what rows of so many elements cost of a model of which nothing has been seen yet."""
        self._sizes = list(sizes.items())
        self._shapes.clear()
        self._curve, self._only, self._mix = None, None, 1.0
        self.even = len(sizes) <= 1

    def forget(self) -> None:
        """The model has become another: what was measured and seen says nothing of it."""
        self._shapes.clear()
        self._sizes = []
        self._curve = None
        self._mix = 1.0

    def meet(self, request: Request) -> None:
        """Notice a second shape."""
        if self.even and request.cost_key != self._only:
            if self._only is None:
                self._only = request.cost_key
            else:
                self.even = False

    def of(self, request: Request) -> float:
        """Cost of this request's shape."""
        if self.even:
            return 1.0
        shape = self._shapes.get(request.cost_key)
        return self._by_size(request.row_elements) if shape is None else shape.cost

    def learn(self, request: Request, cost: float) -> float:
        """An execution of this request's shape cost so much; returns what it is believed to cost from now on."""
        shape = self._remembered(request)
        self._shapes.move_to_end(request.cost_key)
        shape.seen += 1
        if not self.even:
            shape.cost += (cost - shape.cost) * max(1 / shape.seen, _FORGETTING)
            shape.refused_since = None
            self._mix += (shape.cost - self._mix) * _MIX_FORGETTING
            self._curve = None
        return shape.cost

    def refuse(self, request: Request, now: float) -> None:
        """A request of this shape was refused for what it costs.

        Were that wrong, and the slots never idle, no execution would ever correct it. So it is believed to cost
        half after every second of refusals in which none ran, until one does, and that one decides.
        """
        if self.even:
            return
        shape = self._remembered(request)
        if shape.refused_since is None:
            shape.refused_since = now
        elif now - shape.refused_since >= _DOUBT_S:
            shape.refused_since = now
            shape.cost /= 2
            shape.seen = 0
            self._curve = None

    def restart(self) -> None:
        """From now on the mean of all is that of what has run of late."""
        mix, self._mix = self._mix, 1.0
        for shape in self._shapes.values():
            shape.cost /= mix
        self._sizes = [(elements, cost / mix) for elements, cost in self._sizes]
        self._curve = None

    def _remembered(self, request: Request) -> _Shape:
        shape = self._shapes.get(request.cost_key)
        if shape is None:
            shape = _Shape(request.row_elements, self.of(request))
            if len(self._shapes) == _MAX_SHAPES:
                self._shapes.popitem(last=False)
            self._shapes[request.cost_key] = shape
            # Until it has run it is the next to go: shapes that are only asked for displace none but each other.
            self._shapes.move_to_end(request.cost_key, last=False)
        return shape

    def _by_size(self, elements: int) -> float:
        if self._curve is None:
            learned = {shape.elements: shape.cost for shape in self._shapes.values() if shape.seen}
            self._curve = sorted((dict(self._sizes) | learned).items())
        curve = self._curve
        if not curve:
            return 1.0
        at = bisect_left(curve, (elements, 0.0))
        if at == len(curve):
            largest, cost = curve[-1]
            return cost * elements / largest
        above, cost = curve[at]
        if at == 0 or above == elements:
            return cost
        below, cost_below = curve[at - 1]
        return cost_below + (cost - cost_below) * (elements - below) / (above - below)
