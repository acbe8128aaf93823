"""What was decided: kept, counted, logged, and told to whoever watches."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator

import structlog

from controlplane.metrics import Metrics
from controlplane.store import Decision, Store
from protos import control_pb2

log = structlog.get_logger()


class Decisions:
    """All of them, of this process and of those before that had the same store."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._added = asyncio.Condition()
        self._failed = False

    async def add(self, decision: Decision) -> None:
        """Record a decision; whether it can be kept is nothing to those who carry it out."""
        self._keep(decision)
        self._metrics.decisions.labels(decision.service, decision.action).inc()
        log.info(
            "decision",
            service=decision.service,
            worker=decision.worker_id,
            action=decision.action,
            reason=decision.reason,
            before=str(decision.before),
            after=str(decision.after),
        )
        async with self._added:
            self._added.notify_all()

    async def watch(self, past: int) -> AsyncGenerator[control_pb2.Decision, None]:
        """The newest `past` decisions, and then each that is made; without end."""
        last, decisions = 0, self._store.last(max(1, past))
        if past == 0 and decisions:
            last, decisions = decisions[-1].id, []
        while True:
            for decision in decisions:
                last = decision.id
                yield decision
            async with self._added:
                while not (decisions := self._store.since(last)):
                    await self._added.wait()

    def _keep(self, decision: Decision) -> None:
        try:
            self._store.add(decision)
        except sqlite3.Error as error:
            self._metrics.store_failures.inc()
            if not self._failed:
                log.warning("decision not kept", error=str(error))
            self._failed = True
        else:
            self._failed = False
