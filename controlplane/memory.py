"""What was learned of models: read when one comes back, and kept for the next process."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping

import structlog

from controlplane import config
from controlplane.cell import Cell
from controlplane.latency import MOST_ROWS, MOST_THREADS, LatencyModel
from controlplane.metrics import Metrics
from controlplane.store import CellRecord, Store

log = structlog.get_logger()


class Memory:
    """Between latency models, whose times are of `clock`, and the store, whose times are of `wall`.

    Failures are counted and logged, and cost no more than what is not remembered.
    """

    def __init__(
        self,
        store: Store,
        settings: config.Store,
        metrics: Metrics,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._kept_at = clock()  # what is newer is not in the store
        self._logged: set[str] = set()

    def recall(self, digest: str) -> Mapping[tuple[int, int], Cell]:
        """What an earlier process has kept of a model; what it cannot have kept is left out."""
        now = self._clock()
        epoch_s = self._wall() - now
        cells: dict[tuple[int, int], Cell] = {}
        try:
            found = self._store.cells(digest)
        except sqlite3.Error as error:
            self._fail("latency not read", error)
            return {}
        for rows, threads, executions in found:
            try:
                key = _size(rows, MOST_ROWS), _size(threads, MOST_THREADS)
                cells[key] = Cell.unpack(_packed(executions), epoch_s, now)
            except ValueError as error:
                self._metrics.store_rows_refused.inc()
                self._log_once("kept latency refused", str(error))
        if cells:
            age_s = now - max(max(cell.at) for cell in cells.values())
            log.info("latency remembered", model=digest, cells=len(cells), age_s=round(age_s, 1))
        return cells

    async def run(self, models: Mapping[str, LatencyModel]) -> None:
        """Keep what is learned of `models` every interval; until cancelled."""
        while True:
            await asyncio.sleep(self._settings.latency_interval_s)
            try:
                await self.keep(models)
            except Exception:  # planning does not depend on it
                self._metrics.store_failures.inc()
                log.exception("latency not kept")

    async def keep(self, models: Mapping[str, LatencyModel]) -> None:
        """Keep what has been learned since the last time, in one transaction."""
        now = self._clock()
        epoch_s = self._wall() - now
        learned = [
            CellRecord(digest, rows, threads, epoch_s + cell.at[-1], cell.pack(epoch_s))
            for digest, model in models.items()
            for (rows, threads), cell in model.cells.items()
            if max(cell.at[-1], model.scaled_at) >= self._kept_at
        ]
        if not learned:
            return
        try:
            await asyncio.to_thread(self._store.keep, learned, self._settings.latency_cells)
        except sqlite3.Error as error:
            self._fail("latency not kept", error)
        else:
            self._kept_at = now
            self._logged.discard("latency not kept")

    def _fail(self, event: str, error: sqlite3.Error) -> None:
        self._metrics.store_failures.inc()
        self._log_once(event, str(error))

    def _log_once(self, event: str, text: str) -> None:
        if event not in self._logged:
            self._logged.add(event)
            log.warning(event, error=text)


def _size(value: object, most: int) -> int:
    """A number of rows or threads. SQLite keeps whatever it is given, whatever the type of the column."""
    if not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"batch_rows, threads: expected an integer from 1 to {most}, got {value!r}")
    return value


def _packed(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"executions: expected bytes, got {type(value).__name__}")
    return value
