"""One decision with its inputs: as it is made, as it is kept, and as it is told."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from controlplane.allocation import Allocation, Version
from protos import control_pb2


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a decision was made of. The fields are columns of the store and fields of the message `Inputs`.

    None is what there was none of: no arrivals to have budgets, nothing that waits to be due.
    """

    rate_error: float  # standard deviation of the arrival rate, per second
    rows_per_request: float
    dispersion: float
    reserve: float
    weight: float
    min_millicores: int
    max_millicores: int
    budget_p5_ms: float | None  # at arrival
    budget_p50_ms: float | None
    budget_p95_ms: float | None
    waiting_rows: int
    first_due_ms: float | None
    running: int
    saturated: bool
    execution_rows: int
    execution_mean_ms: float
    execution_upper_ms: float
    measured_share: float  # of those times, 0 to 1; the rest is by the curve
    drift: float
    host_millicores: int
    host_memory_bytes: int
    bound: str  # a `planner.Bound` value


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
    inputs: Inputs


_AS_KEPT = ("worker_id", "service", "action", "reason", "arrival_rate", "queue_depth", "expected_misses")
_INPUTS = tuple(field.name for field in fields(Inputs))
_ALLOCATION = ("millicores", "instances", "threads", "max_batch", "memory_bytes")  # as `Allocation` has them
COLUMNS = (
    "decided_unix_s",
    "worker_id",
    "service",
    "term",
    "epoch",
    *(f"before_{name}" for name in _ALLOCATION),
    *(f"after_{name}" for name in _ALLOCATION),
    "action",
    "reason",
    "arrival_rate",
    "queue_depth",
    "expected_misses",
    "host_full",
    *_INPUTS,
)


def row(of: Decision, unix_s: float) -> tuple[object, ...]:
    """What is kept of a decision that was made at `unix_s`: a value for each of COLUMNS."""
    return (
        unix_s,
        of.worker_id,
        of.service,
        *astuple(of.version),
        *astuple(of.before),
        *astuple(of.after),
        of.action,
        of.reason,
        of.arrival_rate,
        of.queue_depth,
        of.expected_misses,
        of.host_full,
        *astuple(of.inputs),
    )


def message(number: int, values: Sequence[Any], now_unix_s: float) -> control_pb2.Decision:
    """What is told of a kept decision: its id, and a value for each of COLUMNS.

    One that was kept before inputs were has none, and tells nothing of memory.
    """
    kept = dict(zip(COLUMNS, values, strict=True))
    told = control_pb2.Decision(
        id=number,
        age_s=now_unix_s - kept["decided_unix_s"],
        version=control_pb2.Version(term=kept["term"], epoch=kept["epoch"]),
        before=_allocation(kept, "before"),
        after=_allocation(kept, "after"),
        host_full=bool(kept["host_full"]),
        **{name: kept[name] for name in _AS_KEPT},
    )
    if kept["bound"] is not None:
        inputs = {name: kept[name] for name in _INPUTS if kept[name] is not None}
        told.inputs.CopyFrom(control_pb2.Inputs(**inputs | {"saturated": bool(kept["saturated"])}))
    return told


def _allocation(kept: dict[str, Any], which: str) -> control_pb2.Allocation:
    millicores, *shape, memory_bytes = (kept[f"{which}_{name}"] for name in _ALLOCATION)
    instances, threads, max_batch = shape
    return control_pb2.Allocation(
        cpu_millicores=millicores,
        instances=instances,
        threads=threads,
        max_batch=max_batch,
        memory_bytes=memory_bytes or 0,
    )
