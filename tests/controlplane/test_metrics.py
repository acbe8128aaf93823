"""What Prometheus is told of the fleet, while the loop goes on in another thread."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from controlplane.allocation import Allocation, Quota, Version
from controlplane.demand import Demand, DemandEstimate
from controlplane.governor import Governor
from controlplane.metrics import MOST_SERVICES, FleetCollector, Metrics
from controlplane.resize import Resize
from controlplane.state import Fleet, Host
from protos import control_pb2 as pb

ALLOCATION = Allocation(1000, 1, 1, 1)


def attach(fleet: Fleet, worker_id: str, resize: Resize | None = None):
    hello = pb.Hello(worker_id=worker_id, service="vision", model_digest="d", max_batch=1)
    return fleet.attach(hello, resize or Resize(), Governor(4.0, 100), 0.0)


class Interrupted(Demand):
    """One that another worker attaches beside whenever it is asked."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__()
        self._fleet = fleet

    def estimate(self) -> DemandEstimate:
        attach(self._fleet, f"w{len(self._fleet.workers)}")
        return super().estimate()


class Interrupting(float):
    """A time that has `interrupt` called when it is reckoned with."""

    interrupt: Callable[[], object] | None = None

    def __add__(self, other: float) -> float:
        if self.interrupt is not None:
            self.interrupt()
        return float(self) + other


def test_workers_that_come_while_they_are_read_fail_no_scrape():
    fleet = Fleet([Host(4000, 1 << 33)], 0.001)
    registry = CollectorRegistry()
    registry.register(FleetCollector(fleet))
    attach(fleet, "w0").demand = Interrupted(fleet)
    attach(fleet, "w1")
    rates = [
        sample.labels["worker"]
        for metric in registry.collect()
        if metric.name == "sponge_control_arrival_rate"
        for sample in metric.samples
    ]
    assert rates == ["w0", "w1"]
    assert list(fleet.workers) == ["w0", "w1", "w2"]


def test_directives_that_are_sent_while_they_are_read_fail_no_scrape():
    resize = Resize()
    resize.attached(None, ALLOCATION, Quota(1000), 0.0)
    sent_at = Interrupting(0.0)
    resize.retarget(ALLOCATION, Version(1, 1), sent_at)
    sent_at.interrupt = lambda: resize.retarget(ALLOCATION, Version(1, 2), 1.0)
    assert not resize.overdue
    assert resize.unacknowledged == (Version(1, 1), Version(1, 2))


def test_of_however_many_services_workers_tell_a_bounded_number_has_labels():
    metrics = Metrics(CollectorRegistry())
    for number in range(MOST_SERVICES + 3):
        metrics.samples_refused.labels(metrics.label(f"s{number}")).inc()
    metrics.samples_refused.labels(metrics.label("s0")).inc()
    metrics.configure(["late"])
    assert metrics.label("late") == "late"
    [counter] = metrics.samples_refused.collect()
    counted = {one.labels["service"]: one.value for one in counter.samples if one.name.endswith("_total")}
    assert len(counted) == MOST_SERVICES + 1
    assert (counted["s0"], counted[f"s{MOST_SERVICES - 1}"], counted[""]) == (2, 1, 3)
