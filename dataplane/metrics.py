"""A worker's Prometheus metrics."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dataplane.batcher import Batcher
from dataplane.request import Completion, ExecutionRecord, Outcome, Request
from dataplane.telemetry import Resources

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts every record; an observer of the worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        requests = Counter(
            "sponge_worker_requests", "Ended requests by outcome.", ["outcome"], registry=registry
        )
        self._outcomes = {outcome: requests.labels(outcome.value) for outcome in Outcome}
        self._latency = Histogram(
            "sponge_worker_latency_seconds",
            "Header received to answer ready.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._budget = Histogram(
            "sponge_worker_budget_seconds",
            "Time to the deadline when a request is queued.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_rows = Histogram(
            "sponge_worker_batch_rows", "Rows of an execution.", buckets=_ROWS, registry=registry
        )
        self._service = Histogram(
            "sponge_worker_service_seconds", "Duration of an execution.", buckets=_SECONDS, registry=registry
        )
        self._announced = Counter(
            "sponge_worker_headers", "Requests whose header has arrived.", registry=registry
        )
        self._uncertain = Counter(
            "sponge_worker_uncertain_deadlines",
            "Requests whose header may have waited behind another upload and that do not say.",
            registry=registry,
        )
        self._unauthenticated = Counter(
            "sponge_worker_unauthenticated",
            "Calls refused for want of a valid token.",
            registry=registry,
        )

    def announced(self) -> None:
        self._announced.inc()

    def arrived(self, request: Request, now: float) -> None:
        self._budget.observe(max(0.0, request.deadline_at - now))

    def completed(self, completion: Completion) -> None:
        self._outcomes[completion.outcome].inc()
        if completion.outcome in (Outcome.ON_TIME, Outcome.LATE):
            self._latency.observe(completion.latency_s)

    def executed(self, record: ExecutionRecord) -> None:
        self._batch_rows.observe(record.rows)
        self._service.observe(record.wall_s)

    def uncertain_deadline(self) -> None:
        self._uncertain.inc()

    def unauthenticated(self) -> None:
        self._unauthenticated.inc()


class StateCollector(Collector):
    """Reads at scrape time what has a state rather than events."""

    def __init__(
        self,
        batcher: Batcher,
        resources: Callable[[], Resources],
        rung_bytes: Callable[[], Mapping[int, int]],
        clock: Callable[[], float],
    ) -> None:
        self._batcher = batcher
        self._rung_bytes = rung_bytes
        self._resources = resources
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        batcher, resources = self._batcher, self._resources()
        oldest = batcher.oldest_at
        for name, text, value in (
            ("queue_depth", "Requests that wait.", len(batcher)),
            (
                "queue_oldest_seconds",
                "Age of what has waited longest.",
                0.0 if oldest is None else self._clock() - oldest,
            ),
            ("executions_running", "Busy execution slots.", len(batcher.running)),
            ("instances", "Execution slots.", batcher.shape.instances),
            ("threads", "Intra-op threads of an execution.", batcher.shape.threads),
            ("max_batch", "Most rows of an execution.", batcher.shape.max_batch),
            ("cpu_quota_cores", "CPU quota; 0 for none.", resources.quota_millicores / 1000),
            ("memory_bytes", "Memory in use.", resources.memory_bytes),
        ):
            yield GaugeMetricFamily(f"sponge_worker_{name}", text, value=value)
        rungs = GaugeMetricFamily(
            "sponge_worker_rung_memory_bytes",
            "Memory that the session of so many threads took when it was made and warmed.",
            labels=["threads"],
        )
        for threads, taken in self._rung_bytes().items():
            rungs.add_metric([str(threads)], taken)
        yield rungs
        yield CounterMetricFamily("sponge_worker_cpu_seconds", "CPU time used.", value=resources.cpu_s)
        yield CounterMetricFamily(
            "sponge_worker_throttled_seconds",
            "Time that the quota kept runnable threads waiting.",
            value=resources.throttled_s,
        )
