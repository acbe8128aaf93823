"""What people set by call: policies and a pause, over what the configuration says, and kept for the next process."""

import sqlite3
from collections.abc import Callable, Mapping

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

    What cannot be kept is in force all the same; that is counted and logged. Without `store` it counts in this process.
    """

    def __init__(
        self, configured: Mapping[str, ServicePolicy], fleet: Fleet, store: Store | None, metrics: Metrics
    ) -> None:
        self._configured = configured
        self._fleet = fleet
        self._store = store
        self._metrics = metrics
        self._set: dict[str, dict[str, object]] = {}

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
        self._keep(lambda store: store.set_policy(service, self._set.get(service, {})))
        return after

    def pause(self, paused: bool) -> None:
        self._fleet.paused = paused
        self._keep(lambda store: store.set_paused(paused))

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
        if self._store is None:
            return
        try:
            write(self._store)
        except sqlite3.Error as error:
            self._metrics.store_failures.inc()
            log.warning("policy not kept", error=str(error))
