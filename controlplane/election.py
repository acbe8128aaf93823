"""When a control plane may lead by a Lease: the rules of client-go's leader election, but for two.

Nobody's clock is trusted but one's own: a Lease is followed by the changes that are seen of it, never by the times that
it tells. A leader leads for `RENEWED_WITHIN` of the Lease's duration after it *began* the last write that succeeded,
where client-go counts from the end of that; another waits for the whole duration after it has *seen* a change. So the
one stops before the other begins, as long as their clocks run equally fast to within a third. And a Lease is never
made, as one that is taken away and comes back would be free while somebody leads: it is part of the manifests.
"""

import math
from dataclasses import dataclass

# Shares of the Lease's duration.
RENEWED_WITHIN = 3 / 4
RENEW_EVERY = 1 / 4
LOOK_EVERY = 1 / 16


@dataclass(frozen=True, slots=True)
class Claim:
    """What a Lease says: who holds it, "" for nobody, and for how long after a renewal others are to keep away."""

    holder: str = ""
    renewed: str = ""  # only compared: it is a time of another clock
    duration_s: int = 0
    transitions: int = 0


class Election:
    """One candidate's view of one Lease; `now` is its own monotonic clock, in seconds."""

    def __init__(self, identity: str, duration_s: int) -> None:
        self.identity = identity
        self.duration_s = duration_s
        self.until = -math.inf  # so long it leads
        self._seen: Claim | None = None
        self._free_at = math.inf

    def __repr__(self) -> str:
        return f"Election(identity={self.identity}, until={self.until}, seen={self._seen})"

    def leads(self, now: float) -> bool:
        """Whether it does, and may act."""
        return now < self.until

    def may_write(self, claim: Claim, now: float) -> bool:
        """Whether to write itself into a Lease that said this when the answer was there, at `now`."""
        if claim != self._seen:
            self._seen = claim
            # What its holder says, as that is what it goes by; of one that says nothing, one's own.
            self._free_at = now + (claim.duration_s if claim.duration_s > 0 else self.duration_s)
        # Its own, of which it has not heard that it was written.
        return claim.holder in ("", self.identity) or now >= self._free_at

    def claim(self, over: Claim, renewed: str) -> Claim:
        """What to write over what is there."""
        transitions = over.transitions + (over.holder != self.identity)
        return Claim(self.identity, renewed, self.duration_s, transitions)

    def written(self, began_at: float) -> None:
        """A write of its claim has succeeded that was begun at `began_at`."""
        self.until = began_at + RENEWED_WITHIN * self.duration_s

    def lost(self) -> None:
        """Another holds it."""
        self.until = -math.inf
