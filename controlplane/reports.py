"""What workers say of themselves: refused where none can mean it, and taken from messages into values."""

import math
from collections.abc import Iterable

from controlplane.allocation import Allocation, Version
from controlplane.latency import MOST_ROWS, MOST_THREADS
from protos import control_pb2

# A worker that says more than this of one window is not believed.
_MAX_COUNT = 1_000_000
_MAX_MS = 3_600_000.0
_MAX_NAME = 256
_MAX_SLOTS = 1024
_MAX_MILLICORES = 10_000_000
_MAX_BYTES = 1 << 50
_MAX_VERSION = 1 << 62


class AbsurdReportError(ValueError):
    """A report with numbers that cannot be; the text names the field."""


def check_hello(hello: control_pb2.Hello) -> None:
    """Raises AbsurdReportError for a hello that no worker can mean."""
    for name in ("worker_id", "service", "model_digest"):
        value = getattr(hello, name)
        if not 0 < len(value) <= _MAX_NAME:
            raise AbsurdReportError(f"hello.{name}: expected 1 to {_MAX_NAME} characters, got {len(value)}")
    # Tables are as large as these say.
    for name, most in (
        ("max_instances", _MAX_SLOTS),
        ("max_threads", MOST_THREADS),
        ("max_batch", MOST_ROWS),
    ):
        _within(f"hello.{name}", getattr(hello, name), 1, most)
    allocation = hello.allocation
    _within("hello.allocation.cpu_millicores", allocation.cpu_millicores, 1, _MAX_MILLICORES)
    _within("hello.allocation.instances", allocation.instances, 1, _MAX_SLOTS)
    _within("hello.allocation.threads", allocation.threads, 1, hello.max_threads)
    _within("hello.allocation.max_batch", allocation.max_batch, 1, hello.max_batch)
    _within("hello.allocation.memory_bytes", allocation.memory_bytes, 0, _MAX_BYTES)
    _within("hello.applied.term", hello.applied.term, 0, _MAX_VERSION)
    _within("hello.applied.epoch", hello.applied.epoch, 0, _MAX_VERSION)


def check_sample(sample: control_pb2.Sample, hello: control_pb2.Hello) -> None:
    """Raises AbsurdReportError for numbers that no worker can mean, or not the one that said `hello`."""
    _within("window_s", sample.window_s, 0, _MAX_MS / 1000)
    for name in ("headers", "arrivals", "arrived_rows", "waiting_rest", "executions_rest"):
        _within(name, getattr(sample, name), 0, _MAX_COUNT)
    for outcome in control_pb2.Outcomes.DESCRIPTOR.fields:
        _within(f"outcomes.{outcome.name}", getattr(sample.outcomes, outcome.name), 0, _MAX_COUNT)
    _all_within("executions.wall_ms", (e.wall_ms for e in sample.executions), 0, _MAX_MS)
    _all_within("executions.cpu_ms", (e.cpu_ms for e in sample.executions), 0, _MAX_MS)
    _all_within("executions.busy", (e.busy for e in sample.executions), 0, 1024)
    _all_within("executions.rows", (e.rows for e in sample.executions), 1, _MAX_COUNT)
    _all_within("executions.threads", (e.threads for e in sample.executions), 1, 1024)
    _all_within("waiting.remaining_ms", (w.remaining_ms for w in sample.waiting), -_MAX_MS, _MAX_MS)
    _all_within("waiting.waited_ms", (w.waited_ms for w in sample.waiting), 0, _MAX_MS)
    _all_within("waiting.rows", (w.rows for w in sample.waiting), 1, _MAX_COUNT)
    _all_within("running.elapsed_ms", (r.elapsed_ms for r in sample.running), 0, _MAX_MS)
    _all_within("running.rows", (r.rows for r in sample.running), 1, _MAX_COUNT)
    _all_within("budget_at_arrival.upper_bound_ms", sample.budget_at_arrival.upper_bound_ms, 0, _MAX_MS)
    _all_within("budget_at_arrival.count", sample.budget_at_arrival.count, 0, _MAX_COUNT)
    # Of each request its budget and its rows are counted at once.
    complete = sum(count for _, count in budgets_of(sample))
    _within("arrived_rows", sample.arrived_rows, 0, hello.max_batch * complete)
    _within("usage.cpu_s", sample.usage.cpu_s, 0, _MAX_MS)
    _within("usage.throttled_s", sample.usage.throttled_s, 0, _MAX_MS)
    _within("usage.quota_millicores", sample.usage.quota_millicores, 0, _MAX_MILLICORES)
    _within("usage.memory_bytes", sample.usage.memory_bytes, 0, _MAX_BYTES)
    _within("usage.memory_peak_bytes", sample.usage.memory_peak_bytes, 0, _MAX_BYTES)
    _within("allocation.cpu_millicores", sample.allocation.cpu_millicores, 0, _MAX_MILLICORES)


def _all_within(name: str, values: Iterable[float], low: float, high: float) -> None:
    for value in values:
        _within(name, value, low, high)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise AbsurdReportError(f"{name}: expected {low:g} to {high:g}, got {value!r}")


def budgets_of(sample: control_pb2.Sample) -> list[tuple[float, int]]:
    """Upper bounds in ms, and how many requests arrived with less; the last bound is infinite."""
    budgets = sample.budget_at_arrival
    return list(zip((*budgets.upper_bound_ms, math.inf), budgets.count, strict=False))


def allocation_of(message: control_pb2.Allocation) -> Allocation:
    return Allocation(
        message.cpu_millicores, message.instances, message.threads, message.max_batch, message.memory_bytes
    )


def allocation_message(allocation: Allocation) -> control_pb2.Allocation:
    return control_pb2.Allocation(
        cpu_millicores=allocation.cpu_millicores,
        instances=allocation.instances,
        threads=allocation.threads,
        max_batch=allocation.max_batch,
        memory_bytes=allocation.memory_bytes,
    )


def version_of(message: control_pb2.Version) -> Version:
    return Version(message.term, message.epoch)
