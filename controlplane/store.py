"""Decisions, kept in SQLite so that they survive a restart."""

import sqlite3
import time
from dataclasses import dataclass

from controlplane.resize import Allocation, Version
from protos import control_pb2

# A decision is about 300 bytes, and a busy fleet makes one every few seconds: a month of them.
_MAX_DECISIONS = 500_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    decided_unix_s REAL NOT NULL,
    worker_id TEXT NOT NULL,
    service TEXT NOT NULL,
    term INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    before_millicores INTEGER NOT NULL,
    before_instances INTEGER NOT NULL,
    before_threads INTEGER NOT NULL,
    before_max_batch INTEGER NOT NULL,
    after_millicores INTEGER NOT NULL,
    after_instances INTEGER NOT NULL,
    after_threads INTEGER NOT NULL,
    after_max_batch INTEGER NOT NULL,
    action TEXT NOT NULL,
    reason TEXT NOT NULL,
    arrival_rate REAL NOT NULL,
    queue_depth INTEGER NOT NULL,
    expected_misses REAL NOT NULL,
    host_full INTEGER NOT NULL
)
"""


@dataclass(frozen=True, slots=True)
class Decision:
    """One change of one worker, with what led to it. Rates per second; `action` is a `governor.Action` value."""

    worker_id: str
    service: str
    version: Version
    before: Allocation
    after: Allocation
    action: str
    reason: str
    arrival_rate: float
    queue_depth: int
    expected_misses: float
    host_full: bool


class Store:
    """The decision log. Opens `path`, or memory where it is empty; raises sqlite3.Error if it cannot."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(_SCHEMA)

    def add(self, decision: Decision) -> int:
        """Append a decision; returns its id."""
        before, after = decision.before, decision.after
        cursor = self._connection.execute(
            f"INSERT INTO decisions VALUES (NULL{', ?' * 19})",
            (
                time.time(),
                decision.worker_id,
                decision.service,
                decision.version.term,
                decision.version.epoch,
                before.cpu_millicores,
                before.instances,
                before.threads,
                before.max_batch,
                after.cpu_millicores,
                after.instances,
                after.threads,
                after.max_batch,
                decision.action,
                decision.reason,
                decision.arrival_rate,
                decision.queue_depth,
                decision.expected_misses,
                decision.host_full,
            ),
        )
        number = cursor.lastrowid or 0
        if number % 1000 == 0:
            self._connection.execute("DELETE FROM decisions WHERE id <= ?", (number - _MAX_DECISIONS,))
        return number

    def last(self, count: int) -> list[control_pb2.Decision]:
        """The newest `count` decisions, oldest first."""
        return self._read("ORDER BY id DESC LIMIT ?", count)[::-1]

    def since(self, number: int) -> list[control_pb2.Decision]:
        """All decisions after `number`, oldest first."""
        return self._read("WHERE id > ? ORDER BY id", number)

    def close(self) -> None:
        self._connection.close()

    def _read(self, condition: str, argument: int) -> list[control_pb2.Decision]:
        now = time.time()
        return [
            control_pb2.Decision(
                id=row[0],
                age_s=now - row[1],
                worker_id=row[2],
                service=row[3],
                version=control_pb2.Version(term=row[4], epoch=row[5]),
                before=_allocation(row[6:10]),
                after=_allocation(row[10:14]),
                action=row[14],
                reason=row[15],
                arrival_rate=row[16],
                queue_depth=row[17],
                expected_misses=row[18],
                host_full=bool(row[19]),
            )
            for row in self._connection.execute(f"SELECT * FROM decisions {condition}", (argument,))
        ]


def _allocation(columns: tuple[int, int, int, int]) -> control_pb2.Allocation:
    millicores, instances, threads, max_batch = columns
    return control_pb2.Allocation(
        cpu_millicores=millicores, instances=instances, threads=threads, max_batch=max_batch
    )
