"""The control plane's Prometheus metrics."""

from collections.abc import Iterable, Iterator

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controlplane.state import Fleet

MOST_SERVICES = 1000  # that have labels of their own, those of the configuration aside
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """Counts what the control plane does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._configured: set[str] = set()
        self._services: set[str] = set()
        self.leader = Gauge(
            "sponge_control_leader",
            "1 while this control plane leads, 0 while it stands by.",
            registry=registry,
        )
        self.decisions = Counter(
            "sponge_control_decisions",
            "Changes by service and action.",
            ["service", "action"],
            registry=registry,
        )
        self.plan_seconds = Histogram(
            "sponge_control_plan_seconds", "State to plan.", buckets=_SECONDS, registry=registry
        )
        self.actuation_seconds = Histogram(
            "sponge_control_actuation_seconds", "One change of a quota.", buckets=_SECONDS, registry=registry
        )
        self.actuation_failures = Counter(
            "sponge_control_actuation_failures",
            "Changes of a quota that its owner refused or did not answer.",
            ["actuator"],
            registry=registry,
        )
        self.replicas = Gauge(
            "sponge_control_replicas", "Replicas asked for, as last found.", ["service"], registry=registry
        )
        self.scalings = Counter(
            "sponge_control_scalings",
            "Changes of the number of replicas by service and action.",
            ["service", "action"],
            registry=registry,
        )
        self.scale_failures = Counter(
            "sponge_control_scale_failures",
            "Numbers of replicas that could not be read or changed.",
            ["service"],
            registry=registry,
        )
        self.quotas_changed = Counter(
            "sponge_control_quotas_changed",
            "Quotas that somebody else had changed, by service.",
            ["service"],
            registry=registry,
        )
        self.plan_failures = Counter(
            "sponge_control_plan_failures", "Rounds of the loop that failed.", registry=registry
        )
        self.store_failures = Counter(
            "sponge_control_store_failures",
            "Times that something could not be kept or remembered.",
            registry=registry,
        )
        self.store_rows_refused = Counter(
            "sponge_control_store_rows_refused",
            "Kept latencies and policies that cannot have been kept like that.",
            registry=registry,
        )
        self.samples_refused = Counter(
            "sponge_control_samples_refused", "Samples with absurd numbers.", ["service"], registry=registry
        )
        refused = Counter(
            "sponge_control_calls_refused",
            "Calls refused for want of a valid token, or of one that may write.",
            ["status"],
            registry=registry,
        )
        self._calls_refused = {
            code: refused.labels(code.name.lower())
            for code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        }

    def configure(self, services: Iterable[str]) -> None:
        """Services that always have a label of their own."""
        self._configured.update(services)

    def label(self, service: str) -> str:
        """The name of a service, or "", which no service has, of others that come after the first MOST_SERVICES.

        Names are what workers say, and a counter keeps for good what it has counted of each.
        """
        if service in self._configured or service in self._services:
            return service
        if len(self._services) == MOST_SERVICES:
            return ""
        self._services.add(service)
        return service

    def call_refused(self, code: grpc.StatusCode) -> None:
        """One of the two statuses that stand for a token that is missing or not enough."""
        self._calls_refused[code].inc()


class FleetCollector(Collector):
    """Reads the believed state of the fleet at scrape time, in a thread of its own."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        fleet = self._fleet
        quota = GaugeMetricFamily(
            "sponge_control_quota_cores", "CPU quota in force.", labels=["service", "worker"]
        )
        target = GaugeMetricFamily(
            "sponge_control_target_cores", "CPU quota aimed at.", labels=["service", "worker"]
        )
        rate = GaugeMetricFamily(
            "sponge_control_arrival_rate", "Requests a second.", labels=["service", "worker"]
        )
        misses = GaugeMetricFamily(
            "sponge_control_expected_misses_per_second",
            "Deadlines that the newest plan expects to be missed, each weighed as the planner does.",
            labels=["service", "worker"],
        )
        drift = GaugeMetricFamily(
            "sponge_control_drift_ratio",
            "What executions take of late, over what is believed of the model; 1 without drift.",
            labels=["service", "worker"],
        )
        overdue = GaugeMetricFamily(
            "sponge_control_overdue",
            "1 while a worker owes the acknowledgement of its allocation.",
            labels=["service", "worker"],
        )
        for worker in list(fleet.workers.values()):  # at once: workers come and go meanwhile
            labels = [worker.service, worker.worker_id]
            in_force, aim = worker.resize.in_force, worker.resize.target
            if in_force is not None and in_force.cpu_millicores is not None:
                quota.add_metric(labels, in_force.cpu_millicores / 1000)
            if aim is not None:
                target.add_metric(labels, aim.cpu_millicores / 1000)
            rate.add_metric(labels, worker.arrival_rate)
            if (expected := worker.expected_misses) is not None:
                misses.add_metric(labels, expected)
            drift.add_metric(labels, worker.drift.slower)
            overdue.add_metric(labels, float(worker.resize.overdue))
        yield from (quota, target, rate, misses, drift, overdue)
        yield from self._hosts()
        yield GaugeMetricFamily("sponge_control_workers", "Attached workers.", value=len(fleet.workers))

    def _hosts(self) -> Iterator[Metric]:
        cores = GaugeMetricFamily("sponge_control_host_cores", "CPU there is for workers.", labels=["host"])
        full = GaugeMetricFamily(
            "sponge_control_host_full",
            "1 while some service would get more on a larger host.",
            labels=["host"],
        )
        unreachable = GaugeMetricFamily(
            "sponge_control_host_unreachable",
            "1 while the owner of the quotas there does not answer.",
            labels=["host"],
        )
        for host in self._fleet.hosts.values():
            cores.add_metric([host.name], host.millicores / 1000)
            full.add_metric([host.name], float(host.full))
            unreachable.add_metric([host.name], float(bool(host.unreachable)))
        yield from (cores, full, unreachable)
