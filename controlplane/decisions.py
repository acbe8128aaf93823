"""What was decided: kept, counted, logged, and told to whoever watches."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from controlplane.decision import Decision
from controlplane.metrics import Metrics
from controlplane.store import Store
from protos import control_pb2

# Most past decisions that one call is told: 3.5 MB on the wire, and 0.2 s to read.
MOST_PAST = 10_000
_PAGE = 1000  # read at once, for one who has fallen behind

log = structlog.get_logger()


class Decisions:
    """All of them, of this process and of those before that had the same store.

    The disk may take its time, and others may write: nothing here has the event loop wait for the store.
    """

    def __init__(self, store: Store, metrics: Metrics, wall: Callable[[], float] = time.time) -> None:
        self._store = store
        self._metrics = metrics
        self._wall = wall
        self._made: list[tuple[float, Decision]] = []  # and not given to the store yet, in order
        self._keeping: asyncio.Task[None] | None = None
        self._newest = 0  # id of the last that this process has kept
        self._added = asyncio.Condition()
        self._failed = False
        # One for all who watch, and not of those that plan and write quotas: who may read must not keep those busy.
        self._reader = ThreadPoolExecutor(1, "decisions")

    def add(self, decision: Decision) -> None:
        """Record a decision; whether it can be kept is nothing to those who carry it out."""
        self._made.append((self._wall(), decision))
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep())
        self._metrics.decisions.labels(self._metrics.label(decision.service), decision.action).inc()
        log.info(
            "decision",
            service=decision.service,
            worker=decision.worker_id,
            action=decision.action,
            reason=decision.reason,
            before=str(decision.before),
            after=str(decision.after),
        )

    async def kept(self) -> None:
        """Wait until all that was decided is in the store, or could not be kept."""
        if self._keeping is not None:
            await asyncio.wait([self._keeping])

    async def watch(self, past: int) -> AsyncGenerator[control_pb2.Decision, None]:
        """The newest `past` decisions, and then each that is kept; without end."""
        last, decisions = self._newest, []
        if past or not last:  # of earlier processes only the store knows
            decisions = await self._read(self._store.last, max(1, past))
        if past == 0 and decisions:
            last, decisions = decisions[-1].id, []
        while True:
            for decision in decisions:
                last = decision.id
                yield decision
            async with self._added:
                while self._newest <= last:
                    await self._added.wait()
                newest = self._newest
            decisions = await self._read(self._store.since, last, _PAGE)
            if not decisions:  # somebody else has removed them
                last = newest

    async def _read(
        self, read: Callable[..., list[control_pb2.Decision]], *arguments: int
    ) -> list[control_pb2.Decision]:
        return await asyncio.get_running_loop().run_in_executor(self._reader, read, *arguments)

    async def _keep(self) -> None:
        """Give the store what was made, in order; what was made while it was busy at once."""
        while self._made:
            made, self._made = self._made, []
            try:
                newest = await asyncio.to_thread(self._store.add, made)
            except sqlite3.Error as error:
                self._metrics.store_failures.inc(len(made))
                if not self._failed:
                    log.warning("decision not kept", error=str(error))
                self._failed = True
                continue
            except Exception:  # those that come after are to be kept
                self._metrics.store_failures.inc(len(made))
                log.exception("decision not kept")
                continue
            self._failed = False
            async with self._added:
                self._newest = newest
                self._added.notify_all()
