"""Leadership by a Lease of Kubernetes, of control planes on several nodes: one renews it, others wait for its end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from controlplane.election import LOOK_EVERY, RENEW_EVERY, Claim, Election

log = structlog.get_logger()


class LeaseError(Exception):
    """The Lease could not be read or written; the text is one line."""


class LeaseConflictError(LeaseError):
    """Somebody else has written it meanwhile."""


class Lease(Protocol):
    """One Lease; whoever writes says of which version, and every change makes another."""

    async def read(self) -> tuple[Claim, str]:
        """What it says, and the version. Raises LeaseError."""

    async def write(self, claim: Claim, version: str) -> str:
        """Write over that version, and give the next. Raises LeaseError, LeaseConflictError if it is not the newest."""

    async def release(self, version: str) -> None:
        """As write, of a claim that nobody holds; times of it stay. Raises LeaseError."""

    def close(self) -> None:
        """Release connections."""


class LeaseLeadership:
    """Leads while it holds the Lease; `stamp` gives the time that is written, for people to read."""

    def __init__(
        self,
        lease: Lease,
        identity: str,
        duration_s: int,
        stamp: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lease = lease
        self._election = Election(identity, duration_s)
        self._stamp = stamp
        self._clock = clock
        self._sleep = sleep
        self._claim, self._version = Claim(), ""  # as last written
        self._complaint = ""

    @property
    def held(self) -> bool:
        """Whether this process leads, and may act."""
        return self._election.leads(self._clock())

    async def gain(self) -> None:
        """Stand by until this process leads; an API server that does not answer is asked again."""
        told = False
        # An answer may come so late that what it tells is over.
        while not (await self._tried(self._take()) and self.held):
            if not told:
                log.info("standing by", reason="another control plane leads")
                told = True
            await self._sleep(LOOK_EVERY * self._election.duration_s)

    async def keep(self) -> None:
        """Renew until it is lost: whoever awaits this must act no more when it returns."""
        pause_s = RENEW_EVERY * self._election.duration_s
        while (left_s := self._election.until - self._clock()) > 0:
            await self._sleep(min(pause_s, left_s))
            left_s = self._election.until - self._clock()
            renewed = False
            try:
                # Whatever becomes of the call: at that time it is over.
                async with asyncio.timeout(max(0.0, left_s)):
                    renewed = await self._tried(self._renew())
            except TimeoutError:
                return
            pause_s = (RENEW_EVERY if renewed else LOOK_EVERY) * self._election.duration_s

    async def release(self) -> None:
        """Let another lead at once, where this process still does."""
        if not self.held:
            return
        self._election.lost()
        await self._tried(self._released())

    def close(self) -> None:
        self._lease.close()

    async def _take(self) -> bool:
        claim, version = await self._lease.read()
        if not self._election.may_write(claim, self._clock()):
            return False
        await self._write(claim, version)
        return True

    async def _renew(self) -> bool:
        """Write at once, as nobody else should have; where somebody has, look what it is."""
        try:
            await self._write(self._claim, self._version)
        except LeaseConflictError:
            claim, version = await self._lease.read()
            if claim.holder != self._election.identity:
                self._election.lost()
                return False
            await self._write(claim, version)
        return True

    async def _write(self, over: Claim, version: str) -> None:
        claim, began_at = self._election.claim(over, self._stamp()), self._clock()
        self._version = await self._lease.write(claim, version)
        self._claim = claim
        self._election.written(began_at)

    async def _released(self) -> bool:
        await self._lease.release(self._version)
        return True

    async def _tried(self, call: Awaitable[bool]) -> bool:
        """Whether it succeeded; a failure is logged when it is another than before."""
        try:
            done = await call
        except LeaseConflictError:
            return False
        except LeaseError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("lease not available", error=str(error))
            return False
        self._complaint = ""
        return done
