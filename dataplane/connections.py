"""What can be known of the time a request's header spent waiting behind other uploads."""

from collections import OrderedDict
from dataclasses import dataclass, field

# An upload this long may have held up another header on its connection.
_NOTICEABLE_S = 0.010
# For this long after its end; a header is read right behind the body that it waited for.
_SHADOW_S = 0.100
_MAX_CONNECTIONS = 10_000


@dataclass(slots=True)
class _Connection:
    least_offset_s: float | None = None
    uploads: dict[int, float] = field(default_factory=dict)
    shadow_until: float = 0.0


class Connections:
    """The uploads under way on every client connection.

    gRPC's deadline clock starts when a header arrives. A header queued behind another body on the same
    connection arrives late and unnoticed, unless the client says when it sent it: by its own clock of any
    epoch, whose offset to ours is at least the least one seen on that connection.
    """

    def __init__(self) -> None:
        self._connections: OrderedDict[str, _Connection] = OrderedDict()
        self._next_upload = 0

    def header(self, peer: str, sent_s: float | None, now: float) -> tuple[int, float, bool]:
        """A header has arrived. Returns the upload's number, the delay to charge in seconds, and
        whether its deadline is uncertain: another upload may have held it up, and it does not say.
        """
        connection = self._connections.get(peer)
        if connection is None:
            connection = self._connections[peer] = _Connection()
            if len(self._connections) > _MAX_CONNECTIONS:
                self._connections.popitem(last=False)
        else:
            self._connections.move_to_end(peer)
        delay = 0.0
        uncertain = False
        if sent_s is not None:
            offset = now - sent_s
            if connection.least_offset_s is None or offset < connection.least_offset_s:
                connection.least_offset_s = offset
            delay = offset - connection.least_offset_s
        else:
            uncertain = now < connection.shadow_until or any(
                now - began > _NOTICEABLE_S for began in connection.uploads.values()
            )
        self._next_upload += 1
        connection.uploads[self._next_upload] = now
        return self._next_upload, delay, uncertain

    def complete(self, peer: str, upload: int, now: float) -> None:
        """The body of `upload` is complete, or will never be."""
        connection = self._connections.get(peer)
        if connection is None:
            return
        began = connection.uploads.pop(upload, now)
        if now - began > _NOTICEABLE_S:
            connection.shadow_until = now + _SHADOW_S
