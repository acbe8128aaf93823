"""What the control plane believes of the fleet."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from controlplane.allocation import Allocation, Version, largest, next_term
from controlplane.cell import Cell
from controlplane.config import ServicePolicy
from controlplane.demand import Demand
from controlplane.drift import MATURE, TOLERATED, Drift, agreed
from controlplane.governor import Governor
from controlplane.latency import UPPER, LatencyModel
from controlplane.reports import allocation_of, budgets_of, check_sample, version_of
from controlplane.resize import Resize
from controlplane.stretch import beside, throttled, wall_of, work_of
from protos import control_pb2

# What finished longer ago than this does not count in the shares that people see.
_SHARE_WINDOW_S = 60.0
# A sample alone spans few executions.
_USE_WINDOW_S = 1.0
# How fast the CPU of gRPC and Python for one request is learned, per sample.
_OVERHEAD_GAIN = 0.05
_MAX_OVERHEAD_S = 0.010
_MAX_ABSENT = 1000  # models that are known without a worker


@dataclass(slots=True)
class Host:
    """What workers share, and others get nothing of: the CPU and memory of one machine that there is for them."""

    millicores: int
    memory_bytes: int
    name: str = ""  # of its engine; "" where there is only one host
    full: bool = False  # some service would get more on a larger one
    unreachable: str = (
        ""  # why the owner of its workers' quotas could not be asked the last time; "" if it could
    )


@dataclass(slots=True)
class Worker:
    """One attached worker. Times are seconds on the control plane's monotonic clock."""

    hello: control_pb2.Hello
    resize: Resize
    governor: Governor
    latency: LatencyModel
    attached_at: float
    last_seen_at: float
    starting: bool
    request_overhead_s: float
    host: Host | None  # None while it is not known, as its engine does not answer
    believed: LatencyModel | None = None  # what the newest plan was made of
    drift: Drift = field(default_factory=Drift)
    term: int = 1  # above that of what it had applied when it attached
    demand: Demand = field(default_factory=Demand)
    sample: control_pb2.Sample = field(default_factory=control_pb2.Sample)
    outcomes: control_pb2.Outcomes = field(default_factory=control_pb2.Outcomes)
    finished: deque[tuple[float, int, int]] = field(default_factory=deque)
    used: deque[tuple[float, float, float]] = field(default_factory=deque)  # at, window, CPU time
    expected_misses: float | None = None  # per second, by the newest plan; None where that left it out
    last_action: str = ""
    last_action_at: float | None = None
    failure: str = ""  # text of the last write of its quota, if that failed
    core_seconds_reserved: float = 0.0
    core_seconds_used: float = 0.0
    core_seconds_executing: float = 0.0

    @property
    def worker_id(self) -> str:
        return self.hello.worker_id

    @property
    def service(self) -> str:
        return self.hello.service

    @property
    def allocation(self) -> Allocation:
        """What it is on its way to, or came with."""
        return self.resize.target or allocation_of(self.hello.allocation)

    def memory_within(self, claimed_bytes: int) -> int:
        """As much of the memory that it claims as it can have: no more than its limit allows, or its host has.

        The larger limit of its allocation and of what is in force, as the one may be on its way to the other.
        """
        given = self.allocation.quota
        limit_bytes = largest((given, self.resize.in_force or given)).memory_bytes
        within_limit = min(claimed_bytes, limit_bytes) if limit_bytes else claimed_bytes
        return within_limit if self.host is None else min(within_limit, self.host.memory_bytes)

    @property
    def plannable(self) -> bool:
        """Whether it is warm, and has told how it is."""
        return not self.starting and self.sample.window_s > 0

    @property
    def queue_depth(self) -> int:
        return len(self.sample.waiting) + self.sample.waiting_rest

    @property
    def arrival_rate(self) -> float:
        """Requests a second, as last estimated."""
        return self.demand.estimate().rate

    def cores_used(self) -> float:
        """In the mean over the last second; 0 before the first sample."""
        seconds = sum(window_s for _, window_s, _ in self.used)
        return sum(cpu_s for _, _, cpu_s in self.used) / seconds if seconds > 0 else 0.0

    def on_time_share(self) -> float:
        """Of what finished in the last minute; 1 where nothing did."""
        total = sum(all_ for _, _, all_ in self.finished)
        return sum(on_time for _, on_time, _ in self.finished) / total if total else 1.0


class Fleet:
    """All workers, and what was learned of their models."""

    def __init__(
        self,
        hosts: Iterable[Host],
        default_overhead_s: float,
        latency_quantile: float = UPPER,
        period_s: float = 0.02,
    ) -> None:
        """`period_s` is that of quotas."""
        self.hosts = {host.name: host for host in hosts}
        self.paused = False
        self.term = 1
        self.workers: dict[str, Worker] = {}
        self.policies: dict[str, ServicePolicy] = {}
        self._default_overhead_s = default_overhead_s
        self._latency_quantile = latency_quantile
        self._period_s = period_s
        self._models: dict[str, LatencyModel] = {}
        self._epoch = 0

    def next_version(self, worker: Worker) -> Version:
        """The version of the next directive to `worker`.

        Of its own term: with that of all, one that claims the highest there is would be the last that others obey.
        """
        self._epoch += 1
        return Version(worker.term, self._epoch)

    def services(self) -> list[str]:
        """All that are configured or attached, by name."""
        return sorted({*self.policies, *(worker.service for worker in self.workers.values())})

    def policy(self, service: str) -> ServicePolicy:
        return self.policies.get(service, ServicePolicy())

    def most_millicores(self, service: str, host: Host | None) -> int:
        """What a worker on `host` may have, whatever it says that it has; on any, where that is not known."""
        any_of = self.hosts.values() if host is None else [host]
        return min(*(one.millicores for one in any_of), self.policy(service).max_millicores)

    def model(self, digest: str) -> LatencyModel:
        """What is known of a model; workers of the same file share it."""
        return self._models.setdefault(digest, LatencyModel(self._latency_quantile))

    @property
    def models(self) -> Mapping[str, LatencyModel]:
        """What is known of models, by digest."""
        return self._models

    def remember(self, digest: str, cells: Mapping[tuple[int, int], Cell]) -> None:
        """A worker of a model is about to attach: begin with what was known of that before.

        One that is known already stays as it is.
        """
        known = self._models.pop(digest, None)
        self._models[digest] = LatencyModel(self._latency_quantile, cells) if known is None else known
        # Of those without a worker keep the newest: of the others the store has what it was told until they went.
        used = {worker.hello.model_digest for worker in self.workers.values()}
        absent = [each for each in self._models if each not in used]
        for each in absent[:-_MAX_ABSENT]:
            del self._models[each]

    def attach(
        self,
        hello: control_pb2.Hello,
        resize: Resize,
        governor: Governor,
        now: float,
        host: Host | None = None,
    ) -> Worker:
        """A worker has opened its stream. What it is sent from now on has a term above that of what it has applied."""
        term = next_term(version_of(hello.applied))
        self.term = max(self.term, term)
        worker = Worker(
            hello=hello,
            resize=resize,
            governor=governor,
            latency=self.model(hello.model_digest),
            attached_at=now,
            last_seen_at=now,
            starting=hello.starting,
            request_overhead_s=self._default_overhead_s,
            host=host,
            term=term,
            drift=Drift(self._latency_quantile),
        )
        self.workers[hello.worker_id] = worker
        return worker

    def detach(self, worker: Worker) -> None:
        """The stream of `worker` has ended; a newer stream of the same process stays."""
        if self.workers.get(worker.worker_id) is worker:
            del self.workers[worker.worker_id]
            digest = worker.hello.model_digest
            self._models[digest] = self._models.pop(digest)  # the newest of those without a worker

    def record(self, worker: Worker, sample: control_pb2.Sample, now: float) -> None:
        """Learn from a sample. Raises AbsurdReportError, having changed nothing."""
        check_sample(sample, worker.hello)
        worker.last_seen_at = now
        worker.starting = sample.starting
        worker.sample = sample
        self._learn(worker, sample, now)
        self._count(worker, sample, now)

    def fresh(self, now: float, stale_s: float) -> list[Worker]:
        """Workers that can be planned: with a sample of the last `stale_s`; others keep what they have."""
        return [w for w in self.workers.values() if w.plannable and now - w.last_seen_at <= stale_s]

    def _learn(self, worker: Worker, sample: control_pb2.Sample, now: float) -> None:
        if not worker.drift.seen(now):
            worker.drift.end()  # for all that is known its cause is gone
        millicores = sample.usage.quota_millicores or sample.allocation.cpu_millicores
        for execution in sample.executions:
            rows, threads, busy = execution.rows, execution.threads, execution.busy
            # Of more than it can have run: of a model that it had before, or of none.
            beyond = rows > worker.hello.max_batch or threads > worker.hello.max_threads
            if execution.mixed or beyond:
                continue
            self._compare(worker, execution, millicores, now)
            work_s = work_of(execution.wall_ms / 1000, execution.cpu_ms / 1000, threads, busy, millicores)
            # What this worker alone has come to tells others nothing of the model.
            factor = worker.drift.factor(throttled(threads, busy, millicores))
            worker.latency.record(rows, threads, work_s / factor, busy, now)
        self._settle(worker, now)
        if sample.starting or sample.window_s <= 0:
            return
        worker.demand.record(sample.window_s, sample.headers, sample.arrived_rows, budgets_of(sample), now)
        # Only where one thread runs all of an execution is the rest of the CPU time known.
        complete = sample.executions_rest == 0 and all(e.threads == 1 for e in sample.executions)
        if sample.arrivals >= 1 and len(sample.executions) >= 1 and complete:
            spent = sample.usage.cpu_s - sum(e.cpu_ms for e in sample.executions) / 1000
            overhead = min(max(spent / sample.arrivals, 0.0), _MAX_OVERHEAD_S)
            worker.request_overhead_s += _OVERHEAD_GAIN * (overhead - worker.request_overhead_s)

    def _compare(self, worker: Worker, execution: control_pb2.Execution, millicores: int, now: float) -> None:
        """Hold an execution against what is believed of its size, where that is known well."""
        rows, threads, busy = execution.rows, execution.threads, max(1.0, execution.busy)
        wall_s, cpu_s = execution.wall_ms / 1000, execution.cpu_ms / 1000
        believed = worker.believed
        if believed is None or wall_s <= 0 or believed.executed(rows, threads) < MATURE:
            return
        mean_s, upper_s = beside(believed, rows, threads, busy)
        if not throttled(threads, busy, millicores):
            worker.drift.observe(wall_s, mean_s, upper_s, now)
            return
        stretched_s = wall_of(believed, rows, threads, busy, millicores, self._period_s)
        # Work that is short may meet no stand-still: that it takes less than the mean with those is no change.
        work_s = min(cpu_s, wall_s) if threads == 1 and cpu_s > 0 else mean_s
        by_work, by_wall = (work_s, mean_s, upper_s), (wall_s / TOLERATED, *stretched_s)
        worker.drift.observe(*max(by_work, by_wall, key=lambda of: of[0] / of[1]), now, throttled=True)

    def _settle(self, worker: Worker, now: float) -> None:
        """What has lasted for a half-life is how it is, as far as all workers say so that can tell."""
        if worker.drift.lasting == 1.0:
            return
        alike = [each for each in self.workers.values() if each.latency is worker.latency]
        factor = agreed([each.drift.lasting for each in alike if each.drift.tells(now)])
        if factor == 1.0:
            return
        worker.latency.scale(factor, now)
        for each in alike:
            each.believed = None
            each.drift.end()

    def _count(self, worker: Worker, sample: control_pb2.Sample, now: float) -> None:
        outcomes = sample.outcomes
        for outcome in control_pb2.Outcomes.DESCRIPTOR.fields:
            total = getattr(worker.outcomes, outcome.name) + getattr(outcomes, outcome.name)
            setattr(worker.outcomes, outcome.name, total)
        finished = (
            outcomes.on_time + outcomes.late + outcomes.refused + outcomes.queue_full + outcomes.expired
        )
        if finished:
            worker.finished.append((now, outcomes.on_time, finished))
        while worker.finished and worker.finished[0][0] < now - _SHARE_WINDOW_S:
            worker.finished.popleft()
        worker.used.append((now, sample.window_s, sample.usage.cpu_s))
        while worker.used[0][0] <= now - _USE_WINDOW_S:
            worker.used.popleft()
        worker.core_seconds_reserved += sample.allocation.cpu_millicores / 1000 * sample.window_s
        worker.core_seconds_used += sample.usage.cpu_s
        worker.core_seconds_executing += sum(e.cpu_ms for e in sample.executions) / 1000
