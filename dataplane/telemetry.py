"""What a worker tells the control plane: everything that happened in one window, added up."""

from bisect import bisect_left
from dataclasses import dataclass, replace

from dataplane.batcher import Batcher
from dataplane.request import Completion, ExecutionRecord, Outcome, Request
from protos import control_pb2

# Upper bounds of budgets and latencies: 1 ms to 67 s, a factor of √2 apart.
BOUNDS_MS = tuple(2 ** (step / 2) for step in range(33))
_MAX_WAITING = 256
_MAX_EXECUTIONS = 64
# Clients may state any deadline; a control plane believes no duration of more than an hour.
_MAX_MS = 3_600_000.0


class _Histogram:
    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_MS) + 1)

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS_MS, seconds * 1000)] += 1

    def message(self) -> control_pb2.Histogram:
        return control_pb2.Histogram(upper_bound_ms=BOUNDS_MS, count=self._counts)


@dataclass(frozen=True, slots=True)
class Resources:
    """What the kernel says of the worker, all counters since its start. Seconds, bytes, millicores.

    `quota_millicores` is 0 where there is no quota.
    """

    cpu_s: float
    quota_millicores: int = 0
    throttled_s: float = 0.0
    periods: int = 0
    throttled_periods: int = 0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0


class Telemetry:
    """Adds up records between two samples; `sample` starts the next window."""

    _executions: list[ExecutionRecord]

    def __init__(self, now: float, resources: Resources) -> None:
        self._begin(now, resources)

    def restart(self, now: float, resources: Resources) -> None:
        """Begin the first window of a new listener: what nobody heard of is no part of it.

        Service times are true whenever they were seen, and stay, unless the quota was another.
        """
        executions = [] if self._resized(resources) else self._executions
        self._begin(now, resources)
        self._executions.extend(executions)

    def disturb(self) -> None:
        """The model has become another: executions so far say nothing of it."""
        self._executions = [replace(record, mixed=True) for record in self._executions]

    def announced(self) -> None:
        self._headers += 1

    def arrived(self, request: Request, now: float) -> None:
        self._arrivals += 1
        self._arrived_rows += request.rows
        self._budgets.add(max(0.0, request.deadline_at - now))

    def completed(self, completion: Completion) -> None:
        self._outcomes[completion.outcome] += 1
        if completion.outcome in (Outcome.ON_TIME, Outcome.LATE):
            self._latencies.add(completion.latency_s)

    def executed(self, record: ExecutionRecord) -> None:
        if len(self._executions) < _MAX_EXECUTIONS:
            self._executions.append(record)
        else:
            self._executions_rest += 1

    def sample(
        self,
        batcher: Batcher,
        resources: Resources,
        allocation: control_pb2.Allocation,
        now: float,
        *,
        starting: bool = False,
        distress: bool = False,
    ) -> control_pb2.Sample:
        """Everything since the last sample, and what waits and runs now."""
        live = [*batcher.live]
        if len(batcher.doubtful) > 0:  # more would save them
            live = sorted([*live, *batcher.doubtful], key=lambda request: request.rank_at)
        before = self._resources
        # At some time of this window, unknown which.
        resized = self._resized(resources)
        shape = batcher.shape
        sample = control_pb2.Sample(
            window_s=now - self._window_began_at,
            starting=starting,
            distress=distress,
            headers=self._headers,
            arrivals=self._arrivals,
            arrived_rows=self._arrived_rows,
            outcomes=control_pb2.Outcomes(**{outcome.value: n for outcome, n in self._outcomes.items()}),
            budget_at_arrival=self._budgets.message(),
            latency=self._latencies.message(),
            waiting=[
                control_pb2.Waiting(
                    remaining_ms=_ms(request.deadline_at - now),
                    rows=request.rows,
                    waited_ms=_ms(now - request.queued_at),
                )
                for request in live[:_MAX_WAITING]
            ],
            waiting_rest=len(batcher) - min(len(live), _MAX_WAITING),
            running=[
                control_pb2.Running(
                    elapsed_ms=_ms(now - execution.started_at),
                    rows=execution.rows,
                    threads=execution.shape.threads,
                )
                for execution in batcher.running
            ],
            executions=[_execution(record, resized) for record in self._executions],
            executions_rest=self._executions_rest,
            usage=control_pb2.Usage(
                # Counters go back where a control group could not be read, and the process's stand in.
                cpu_s=max(0.0, resources.cpu_s - before.cpu_s),
                quota_millicores=resources.quota_millicores,
                throttled_s=max(0.0, resources.throttled_s - before.throttled_s),
                periods=max(0, resources.periods - before.periods),
                throttled_periods=max(0, resources.throttled_periods - before.throttled_periods),
                memory_bytes=resources.memory_bytes,
                memory_peak_bytes=resources.memory_peak_bytes,
            ),
            applied=version(shape.version),
            acknowledged=version(batcher.acknowledged),
            allocation=allocation,
        )
        self._begin(now, resources)
        return sample

    def _begin(self, now: float, resources: Resources) -> None:
        self._window_began_at = now
        self._resources = resources
        self._headers = self._arrivals = self._arrived_rows = self._executions_rest = 0
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._budgets, self._latencies = _Histogram(), _Histogram()
        self._executions = []

    def _resized(self, resources: Resources) -> bool:
        """Whether the quota has changed since this window began."""
        return resources.quota_millicores != self._resources.quota_millicores


def version(term_epoch: tuple[int, int]) -> control_pb2.Version:
    """A version as the wire has it."""
    return control_pb2.Version(term=term_epoch[0], epoch=term_epoch[1])


def _ms(seconds: float) -> float:
    """Milliseconds as the wire has them."""
    return min(max(seconds * 1000, -_MAX_MS), _MAX_MS)


def _execution(record: ExecutionRecord, resized: bool) -> control_pb2.Execution:
    return control_pb2.Execution(
        rows=record.rows,
        threads=record.threads,
        wall_ms=_ms(record.wall_s),
        cpu_ms=_ms(record.cpu_s),
        busy=record.busy,
        mixed=record.mixed or resized,
    )
