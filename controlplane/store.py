"""What survives a restart, in SQLite: decisions, and what was learned of models."""

import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from controlplane import decision
from controlplane.decision import COLUMNS, Decision
from protos import control_pb2

# What may be set of a policy by call: fields of SetServicePolicy, and columns, so that another one is a migration.
POLICY_KEYS = ("weight", "min_millicores", "max_millicores", "reserve")

# A decision is about 350 bytes (344 in the mean of 20,000), so these are 175 MB; and a busy fleet makes one every few
# seconds: a month of them.
_MAX_DECISIONS = 500_000

# Files without a version hold decisions, or nothing.
_DECISIONS = """
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

# `executions` is a packed `cell.Cell`, of at most 3 KiB.
_LATENCY = """
CREATE TABLE latency (
    model_digest TEXT NOT NULL,
    batch_rows INTEGER NOT NULL,
    threads INTEGER NOT NULL,
    newest_unix_s REAL NOT NULL,
    executions BLOB NOT NULL,
    PRIMARY KEY (model_digest, batch_rows, threads)
)
"""
_LATENCY_BY_AGE = "CREATE INDEX latency_by_age ON latency (newest_unix_s)"

# What was set by call and not by the configuration; NULL: as that says. `paused` has one row, or none.
_POLICIES = """
CREATE TABLE policies (
    service TEXT PRIMARY KEY,
    weight REAL,
    min_millicores INTEGER,
    max_millicores INTEGER,
    reserve REAL
)
"""
_PAUSED = "CREATE TABLE paused (only INTEGER PRIMARY KEY CHECK (only = 1), paused INTEGER NOT NULL)"

# What it was made of; NULL in decisions that were kept before. One column of JSON would need no migration for the next
# input, but make a decision 820 bytes where these make it 344, and leave names and types to whoever wrote it.
_INPUTS = tuple(
    f"ALTER TABLE decisions ADD COLUMN {column}"
    for column in (
        "before_memory_bytes INTEGER",
        "after_memory_bytes INTEGER",
        "rate_error REAL",
        "rows_per_request REAL",
        "dispersion REAL",
        "reserve REAL",
        "weight REAL",
        "min_millicores INTEGER",
        "max_millicores INTEGER",
        "budget_p5_ms REAL",
        "budget_p50_ms REAL",
        "budget_p95_ms REAL",
        "waiting_rows INTEGER",
        "first_due_ms REAL",
        "running INTEGER",
        "saturated INTEGER",
        "execution_rows INTEGER",
        "execution_mean_ms REAL",
        "execution_upper_ms REAL",
        "measured_share REAL",
        "drift REAL",
        "host_millicores INTEGER",
        "host_memory_bytes INTEGER",
        "bound TEXT",
    )
)

# What makes a file of schema n one of n + 1; the schema is the file's user_version.
_MIGRATIONS = ((_DECISIONS,), (_LATENCY, _LATENCY_BY_AGE), (_POLICIES, _PAUSED), _INPUTS)


@dataclass(frozen=True, slots=True)
class CellRecord:
    """A packed `cell.Cell` of a model, and when its newest execution was."""

    model_digest: str
    rows: int
    threads: int
    newest_unix_s: float
    executions: bytes


class Store:
    """Opens `path`, or memory where it is empty, and brings an older file up to date.

    Raises sqlite3.Error if it cannot, also for a file of a newer schema; so do the methods. Decisions, policies and a
    pause may be written and read in any thread, as that may wait for seconds until another has written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = _open(path)
        # Of all but what was learned: in memory each connection has its own tables.
        self._shared = _open(path, any_thread=True)
        self._one_at_a_time = threading.Lock()

    def add(self, decided: Sequence[tuple[float, Decision]]) -> int:
        """Append decisions, each with the Unix time when it was made: all, or none if it fails; the id of the last."""
        with self._one_at_a_time, self._shared:
            self._shared.execute("BEGIN IMMEDIATE")
            number = 0
            for unix_s, made in decided:
                cursor = self._shared.execute(
                    f"INSERT INTO decisions ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})",
                    decision.row(made, unix_s),
                )
                number = cursor.lastrowid or 0
                if number % 1000 == 0:
                    self._shared.execute("DELETE FROM decisions WHERE id <= ?", (number - _MAX_DECISIONS,))
        return number

    def last(self, count: int) -> list[control_pb2.Decision]:
        """The newest `count` decisions, oldest first."""
        return self._read("ORDER BY id DESC LIMIT ?", count)[::-1]

    def since(self, number: int, count: int) -> list[control_pb2.Decision]:
        """The first `count` decisions after `number`, oldest first."""
        return self._read("WHERE id > ? ORDER BY id LIMIT ?", number, count)

    def keep(self, cells: Iterable[CellRecord], most: int) -> None:
        """Write each cell in place of what was kept of it, in one transaction, and forget the oldest beyond `most`.

        For any thread: the disk may take its time. Without a path nothing is kept, as it would die with the process.
        """
        if not self._path:
            return
        with closing(_open(self._path)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT OR REPLACE INTO latency VALUES (?, ?, ?, ?, ?)",
                [(c.model_digest, c.rows, c.threads, c.newest_unix_s, c.executions) for c in cells],
            )
            connection.execute(
                "DELETE FROM latency WHERE rowid IN"
                " (SELECT rowid FROM latency ORDER BY newest_unix_s DESC LIMIT -1 OFFSET ?)",
                (most,),
            )

    def cells(self, model_digest: str) -> list[tuple[object, object, object]]:
        """Rows, threads and packed executions of what is kept of a model, as they are: the file may be damaged."""
        return self._connection.execute(
            "SELECT batch_rows, threads, executions FROM latency WHERE model_digest = ?", (model_digest,)
        ).fetchall()

    def set_policy(self, service: str, asked: Mapping[str, object]) -> None:
        """Keep what was set of a service's policy, in place of what was kept; forget it where nothing is."""
        with self._one_at_a_time:
            if not asked:
                self._shared.execute("DELETE FROM policies WHERE service = ?", (service,))
                return
            self._shared.execute(
                f"INSERT OR REPLACE INTO policies (service, {', '.join(POLICY_KEYS)})"
                f" VALUES (?{', ?' * len(POLICY_KEYS)})",
                (service, *(asked.get(name) for name in POLICY_KEYS)),
            )

    def policies(self) -> dict[str, dict[str, object]]:
        """What was set of each service's policy, as it is: the file may be damaged."""
        with self._one_at_a_time:
            rows = self._shared.execute(
                f"SELECT CAST(service AS TEXT), {', '.join(POLICY_KEYS)} FROM policies"
            ).fetchall()
        return {
            service: {
                name: value for name, value in zip(POLICY_KEYS, values, strict=True) if value is not None
            }
            for service, *values in rows
        }

    def set_paused(self, paused: bool) -> None:
        """Keep that somebody has paused, or resumed."""
        with self._one_at_a_time:
            self._shared.execute("INSERT OR REPLACE INTO paused VALUES (1, ?)", (paused,))

    def paused(self) -> bool | None:
        """Whether somebody has paused, and not resumed since; None if nobody ever did either."""
        with self._one_at_a_time:
            row = self._shared.execute("SELECT paused FROM paused").fetchone()
        return None if row is None else bool(row[0])

    def close(self) -> None:
        """Close the file, when no thread is at it."""
        self._connection.close()
        with self._one_at_a_time:
            self._shared.close()

    def _read(self, condition: str, *arguments: int) -> list[control_pb2.Decision]:
        query = f"SELECT id, {', '.join(COLUMNS)} FROM decisions {condition}"
        with self._one_at_a_time:
            rows = self._shared.execute(query, arguments).fetchall()
        now = time.time()
        return [decision.message(number, values, now) for number, *values in rows]


def _open(path: str, *, any_thread: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=not any_thread)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        _migrate(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    newest = len(_MIGRATIONS)
    schema = _schema(connection)
    if schema == newest:
        return
    if not 0 <= schema < newest:
        raise sqlite3.DatabaseError(f"expected a schema up to {newest}, found {schema}")
    # All or nothing: half of a migration would be a schema that nobody knows.
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for statements in _MIGRATIONS[_schema(connection) :]:  # another process may have been faster
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {newest}")


def _schema(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return number
