"""What workers say of themselves: refused where none can mean it, and taken from messages into values."""

import itertools
import math
from collections.abc import Iterable

from controlplane.allocation import Allocation, Version
from controlplane.latency import MOST_ROWS, MOST_THREADS
from protos import control_pb2

# A worker that says more than this of one window is not believed.
_MAX_COUNT = 1_000_000
# As the protocol says; what waits is walked for every shape there is.
_MAX_WAITING = 256
_MAX_EXECUTIONS = 64
_MAX_BOUNDS = 64
# A report out of turn may follow another at once. But two readings of a clock that differ do so by more than this, as
# they are floats, and to divide by the square of much less overflows.
_LEAST_WINDOW_S = 1e-18
_LEAST_MS = 1e-9  # of an execution: clocks tell nanoseconds
_MAX_MS = 3_600_000.0
_MAX_NAME = 256
_MAX_PATH = 4096  # PATH_MAX of Linux
_MAX_SLOTS = 1024
_MAX_MILLICORES = 10_000_000
_MAX_BYTES = 1 << 50
_MAX_VERSION = 1 << 62


class AbsurdReportError(ValueError):
    """A report with numbers that cannot be; the text names the field."""


def check_hello(hello: control_pb2.Hello) -> None:
    """Raises AbsurdReportError for a hello that no worker can mean."""
    # Of each worker they are kept as long as it is attached, and go into logs.
    for name, least, most in (
        ("worker_id", 1, _MAX_NAME),
        ("service", 1, _MAX_NAME),
        ("container_id", 0, _MAX_NAME),
        ("cgroup_path", 0, _MAX_PATH),
        ("model_digest", 1, _MAX_NAME),
        ("model_name", 0, _MAX_NAME),
    ):
        length = len(getattr(hello, name))
        if not least <= length <= most:
            raise AbsurdReportError(f"hello.{name}: expected {least} to {most} characters, got {length}")
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
    """Raises AbsurdReportError for numbers that no worker can mean, or not the one that said `hello`.

    What waits or runs may have more rows than `hello.max_batch`: of a model that the worker had before.
    """
    _at_most("waiting", len(sample.waiting), _MAX_WAITING)
    _at_most("running", len(sample.running), hello.max_instances)
    _at_most("executions", len(sample.executions), _MAX_EXECUTIONS)
    for name in ("budget_at_arrival", "latency"):
        _check_histogram(name, getattr(sample, name))
    _measured("window_s", sample.window_s, _LEAST_WINDOW_S, _MAX_MS / 1000)
    for name in ("headers", "arrivals", "arrived_rows", "waiting_rest", "executions_rest"):
        _within(name, getattr(sample, name), 0, _MAX_COUNT)
    for outcome in control_pb2.Outcomes.DESCRIPTOR.fields:
        _within(f"outcomes.{outcome.name}", getattr(sample.outcomes, outcome.name), 0, _MAX_COUNT)
    for execution in sample.executions:
        _measured("executions.wall_ms", execution.wall_ms, _LEAST_MS, _MAX_MS)
        _measured("executions.cpu_ms", execution.cpu_ms, _LEAST_MS, _MAX_MS)
    _all_within("executions.busy", (e.busy for e in sample.executions), 0, 1024)
    _all_within("executions.rows", (e.rows for e in sample.executions), 1, _MAX_COUNT)
    _all_within("executions.threads", (e.threads for e in sample.executions), 1, 1024)
    _all_within("waiting.remaining_ms", (w.remaining_ms for w in sample.waiting), -_MAX_MS, _MAX_MS)
    _all_within("waiting.waited_ms", (w.waited_ms for w in sample.waiting), 0, _MAX_MS)
    _all_within("waiting.rows", (w.rows for w in sample.waiting), 1, MOST_ROWS)
    _all_within("running.elapsed_ms", (r.elapsed_ms for r in sample.running), 0, _MAX_MS)
    _all_within("running.rows", (r.rows for r in sample.running), 1, MOST_ROWS)
    # Of each request its budget and its rows are counted at once.
    complete = sum(count for _, count in budgets_of(sample))
    _within("arrived_rows", sample.arrived_rows, 0, hello.max_batch * complete)
    _within("usage.cpu_s", sample.usage.cpu_s, 0, _MAX_MS)
    _within("usage.throttled_s", sample.usage.throttled_s, 0, _MAX_MS)
    _within("usage.quota_millicores", sample.usage.quota_millicores, 0, _MAX_MILLICORES)
    _within("usage.memory_bytes", sample.usage.memory_bytes, 0, _MAX_BYTES)
    _within("usage.memory_peak_bytes", sample.usage.memory_peak_bytes, 0, _MAX_BYTES)
    _within("allocation.cpu_millicores", sample.allocation.cpu_millicores, 0, _MAX_MILLICORES)


def _check_histogram(name: str, histogram: control_pb2.Histogram) -> None:
    """Raises AbsurdReportError unless it is empty, or has ascending bounds and one count more."""
    bounds, counts = histogram.upper_bound_ms, histogram.count
    _at_most(f"{name}.upper_bound_ms", len(bounds), _MAX_BOUNDS)
    _at_most(f"{name}.count", len(counts), _MAX_BOUNDS + 1)
    _all_within(f"{name}.upper_bound_ms", bounds, 0, _MAX_MS)
    _all_within(f"{name}.count", counts, 0, _MAX_COUNT)
    if any(lower >= upper for lower, upper in itertools.pairwise(bounds)):
        raise AbsurdReportError(f"{name}.upper_bound_ms: expected them ascending")
    if (bounds or counts) and len(counts) != len(bounds) + 1:
        raise AbsurdReportError(f"{name}.count: expected {len(bounds) + 1}, got {len(counts)}")


def _at_most(name: str, found: int, most: int) -> None:
    if found > most:
        raise AbsurdReportError(f"{name}: expected at most {most}, got {found}")


def _measured(name: str, value: float, least: float, high: float) -> None:
    """Raises AbsurdReportError unless it is 0, which stands for none, or from `least` to `high`."""
    _within(name, value, 0, high)
    if 0 < value < least:
        raise AbsurdReportError(f"{name}: expected 0, or at least {least:g}, got {value!r}")


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
