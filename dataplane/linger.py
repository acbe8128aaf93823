"""Whether the first of a batch waits for others that are about to come."""

# A call takes the event loop some six turns from its header to the queue. After so many without one, none is coming.
_QUIET_TURNS = 8
# So many of the last waits tell what the next is worth; where none was worth it, one of so many requests tries.
_REMEMBERED = 8
_PROBES = 16


class Linger:
    """How many turns of the event loop a batch that would gain by growing waits for what the loop is taking in.

    A loop takes in one call after the other, over several turns each: of requests that were sent together the first
    is queued while the last is still in a socket, and executions of one row each would be all that there is CPU for.
    It is turns that count, and not time: those of a loop that has nothing to do are over at once. Where requests come
    one by one nothing ever joins the first, and it does not wait.
    """

    def __init__(self) -> None:
        self._worth = 1.0
        self._skipped = 0
        self._turns_left = 0
        self._joined = False

    def arrived(self) -> None:
        """A request was queued."""
        if self._turns_left > 0:
            self._joined = True
            self._turns_left = _QUIET_TURNS
            return
        self._skipped += 1
        if self._worth * _REMEMBERED >= 1.0 or self._skipped >= _PROBES:
            self._skipped = 0
            self._joined = False
            self._turns_left = _QUIET_TURNS

    def waits(self) -> bool:
        """The loop has turned once more: whether what is queued should wait for another turn."""
        if self._turns_left > 0:
            self._turns_left -= 1
            if self._turns_left == 0:
                self._learn()
        return self._turns_left > 0

    def end(self) -> None:
        """What is queued need not wait."""
        if self._turns_left > 0:
            self._turns_left = 0
            self._learn()

    def _learn(self) -> None:
        self._worth += (self._joined - self._worth) / _REMEMBERED
