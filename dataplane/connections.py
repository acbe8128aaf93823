"""What can be known of the time a request's header spent waiting behind other uploads."""

from collections import OrderedDict
from dataclasses import dataclass, field

# An upload this long may have held up another header on its connection.
_NOTICEABLE_S = 0.010
# For this long after its end; a header is read right behind the body that it waited for.
_SHADOW_S = 0.100
# Two quartz clocks drift apart by up to 0.1 ms a second: a least offset older than this is forgotten.
_OFFSET_AGE_S = 60.0
# How much longer than its connection was busy a header may seem to have waited: the network's jitter.
_JITTER_S = 0.5
_MAX_CONNECTIONS = 10_000


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of one header.

    `upload` numbers it for `Connections.complete`. `delay_s` is how long it was held up; `uncertain` says
    that it may have been for longer: another upload was in its way, and nothing tells when it was sent.
    """

    upload: int
    delay_s: float
    uncertain: bool


@dataclass(slots=True)
class _Connection:
    """`least_s` is the least of our clock minus the client's since `least_since`, `older_least_s` of the time
    before; None where no header said. `uploads` tells since when each is known to have been on its way;
    the first of those that ended lately, since `shadow_since`.
    """

    least_s: float | None = None
    older_least_s: float | None = None
    least_since: float = 0.0
    uploads: dict[int, float] = field(default_factory=dict)
    shadow_since: float = 0.0
    shadow_until: float = 0.0

    def excess_s(self, sent_s: float, now: float) -> float | None:
        """Seconds above the least seen between sending and receipt; None where none was seen before."""
        offset = now - sent_s
        if now - self.least_since > _OFFSET_AGE_S:
            self.older_least_s, self.least_s, self.least_since = self.least_s, None, now
        seen = [least for least in (self.least_s, self.older_least_s) if least is not None]
        self.least_s = offset if self.least_s is None else min(self.least_s, offset)
        return max(0.0, offset - min(seen)) if seen else None

    def longest_wait_s(self, now: float) -> float:
        """How long a header that arrives now may have waited behind other uploads at the most."""
        began = min(self.uploads.values(), default=now)
        if now < self.shadow_until:
            began = min(began, self.shadow_since)
        return now - began if now - began > _NOTICEABLE_S else 0.0

    def ended(self, began: float, now: float) -> None:
        """An upload is over that might have held up others."""
        self.shadow_since = min(began, self.shadow_since) if now < self.shadow_until else began
        self.shadow_until = now + _SHADOW_S


class Connections:
    """The uploads under way on every client connection.

    gRPC's deadline clock starts when a header arrives. A header queued behind another body on the same
    connection arrives late and unnoticed, unless the client says when it sent it: by its own clock of any
    epoch, whose offset to ours is at least the least one seen on that connection.

    A proxy sends many clients over one connection, each with a clock of its own. Hence no header is charged for
    more than the uploads ahead of it took, and what says much more is another clock: it tells nothing.
    """

    def __init__(self) -> None:
        self._connections: OrderedDict[str, _Connection] = OrderedDict()
        self._uploads = 0

    def header(self, peer: str, sent_s: float | None, now: float) -> Header:
        """A header has arrived that was sent at `sent_s` by the client's clock, None if it does not say."""
        connection = self._connections.get(peer)
        if connection is None:
            connection = self._connections[peer] = _Connection(least_since=now)
            if len(self._connections) > _MAX_CONNECTIONS:
                self._connections.popitem(last=False)
        else:
            self._connections.move_to_end(peer)
        longest_s = connection.longest_wait_s(now)
        excess_s = None if sent_s is None else connection.excess_s(sent_s, now)
        known = excess_s is not None and excess_s <= longest_s + _JITTER_S
        delay_s = min(excess_s, longest_s) if excess_s is not None and known else 0.0
        self._uploads += 1
        # What is behind it on the connection was sent no earlier.
        connection.uploads[self._uploads] = now - delay_s
        return Header(self._uploads, delay_s, uncertain=not known and longest_s > 0)

    def complete(self, peer: str, upload: int, now: float) -> None:
        """The body of `upload` is complete, or will never be."""
        connection = self._connections.get(peer)
        if connection is None:
            return
        began = connection.uploads.pop(upload, now)
        if now - began > _NOTICEABLE_S:
            connection.ended(began, now)
