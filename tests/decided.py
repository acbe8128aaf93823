"""A decision with all its inputs, and a store that takes as long as a test wants."""

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import replace

from controlplane.allocation import Allocation, Version
from controlplane.decision import Decision, Inputs
from controlplane.store import Store
from protos import control_pb2
from tests.processes import PATIENCE_S

INPUTS = Inputs(
    rate_error=1.25,
    rows_per_request=1.5,
    dispersion=0.9,
    reserve=0.25,
    weight=2.0,
    min_millicores=300,
    max_millicores=64_000,
    budget_p5_ms=250.0,
    budget_p50_ms=700.0,
    budget_p95_ms=900.0,
    waiting_rows=5,
    first_due_ms=120.5,
    running=1,
    saturated=True,
    execution_rows=2,
    execution_mean_ms=42.1,
    execution_upper_ms=55.2,
    measured_share=0.5,
    drift=1.1,
    host_millicores=7700,
    host_memory_bytes=31 << 30,
    bound="budget",
)


def decision(epoch: int, **changes: object) -> Decision:
    """Change 500 millicores to 1100, and 512 MiB to 768."""
    made = Decision(
        worker_id="78c6a08007a3-3215d547",
        service="vision",
        version=Version(1, epoch),
        before=Allocation(500, 1, 1, 1, 512 << 20),
        after=Allocation(1100, 2, 3, 4, 768 << 20),
        action="grow",
        reason="needed",
        arrival_rate=7.5,
        queue_depth=3,
        expected_misses=0.25,
        host_full=True,
        inputs=INPUTS,
    )
    return replace(made, **changes)


class SlowStore(Store):
    """Adds and reads decisions when it may, and gives up as one does that another writer keeps waiting."""

    def __init__(self, path: str = "") -> None:
        super().__init__(path)
        self.may_add, self.may_read = threading.Event(), threading.Event()

    def add(self, decided: Sequence[tuple[float, Decision]]) -> int:
        _wait(self.may_add)
        return super().add(decided)

    def last(self, count: int) -> list[control_pb2.Decision]:
        _wait(self.may_read)
        return super().last(count)


def _wait(until: threading.Event) -> None:
    if not until.wait(PATIENCE_S):
        raise sqlite3.OperationalError("database is locked")
