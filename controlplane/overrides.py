"""What people set by call: policies and a pause, over what the configuration says, and kept for the next process."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import structlog

from controlplane.config import ServicePolicy
from controlplane.metrics import Metrics
from controlplane.shape import CORE_MILLICORES
from controlplane.state import Fleet
from controlplane.store import Store

log = structlog.get_logger()


class PolicyError(ValueError):
    """A policy that cannot be; the text is one line and names the field."""


class Overrides:
    """Puts what is set into `fleet`, and keeps it in `store`: it counts until it is set again, or reset.

    It is in force at once, and written beside the event loop, as the disk may take its time. What cannot be kept is in
    force all the same; that is counted and logged. Without `store` it counts in this process.
    """

    def __init__(
        self, configured: Mapping[str, ServicePolicy], fleet: Fleet, store: Store | None, metrics: Metrics
    ) -> None:
        self._configured = configured
        self._fleet = fleet
        self._store = store
        self._metrics = metrics
        self._set: dict[str, dict[str, object]] = {}
        self._writer = ThreadPoolExecutor(1, "policies")  # one, so that what was set last is written last
        self._last: Future[None] | None = None  # write, of those that were given to it

    def recall(self) -> None:
        """Put in force what an earlier process was told; what can no longer be is left out, and stays in the store."""
        if self._store is None:
            return
        try:
            policies, paused = self._store.policies(), self._store.paused()
        except sqlite3.Error as error:
            self._metrics.store_failures.inc()
            log.warning("policies not read", error=str(error))
            return
        for service, asked in policies.items():
            try:
                self._put(service, asked)
            except PolicyError as error:
                self._metrics.store_rows_refused.inc()
                log.warning("kept policy refused", service=service, error=str(error))
        if paused is not None:
            self._fleet.paused = paused
        if policies or paused:
            log.info("policies remembered", services=sorted(self._set), paused=self._fleet.paused)

    def set_policy(self, service: str, asked: Mapping[str, object], *, reset: bool = False) -> ServicePolicy:
        """Set the keys of `asked`, and forget first what was set if `reset`; gives what counts now.

        Raises PolicyError, having changed nothing.
        """
        kept = {} if reset else self._set.get(service, {})
        after = self._put(service, {**kept, **asked})
        # Never changed, only replaced: the writer's thread may read it later.
        now_set = self._set.get(service, {})
        self._keep(lambda store: store.set_policy(service, now_set))
        return after

    def pause(self, paused: bool) -> None:
        self._fleet.paused = paused
        self._keep(lambda store: store.set_paused(paused))

    async def kept(self) -> None:
        """Wait until all that was set is in the store, or could not be kept; who gives up waiting stops no write."""
        if self._last is not None:
            await asyncio.shield(asyncio.wrap_future(self._last))

    def _put(self, service: str, asked: Mapping[str, object]) -> ServicePolicy:
        configured = self._configured.get(service)
        try:
            after = msgspec.convert(
                msgspec.to_builtins(configured or ServicePolicy()) | dict(asked), ServicePolicy
            )
        except msgspec.ValidationError as error:
            raise PolicyError(str(error)) from error
        if after.min_millicores > after.max_millicores:
            raise PolicyError(f"min_millicores: expected at most max_millicores = {after.max_millicores}")
        if after.whole_cores and after.max_millicores < CORE_MILLICORES:
            raise PolicyError(f"max_millicores: expected at least {CORE_MILLICORES} with whole_cores")
        if asked:
            self._set[service] = dict(asked)
            self._fleet.policies[service] = after
        else:
            self._set.pop(service, None)
            if configured is None:
                self._fleet.policies.pop(service, None)
            else:
                self._fleet.policies[service] = configured
        return after

    def _keep(self, write: Callable[[Store], None]) -> None:
        if self._store is not None:
            self._last = self._writer.submit(self._write, self._store, write)

    def _write(self, store: Store, write: Callable[[Store], None]) -> None:
        try:
            write(store)
        except sqlite3.Error as error:
            self._metrics.store_failures.inc()
            log.warning("policy not kept", error=str(error))
