"""Small scenarios: one service, a link that never changes, a profile one can reckon with."""

from dataclasses import replace

from evaluation.bandwidth import BandwidthTrace
from evaluation.paper import Point
from evaluation.simulation.offered import Mix, offer
from evaluation.simulation.profile import Truth
from evaluation.simulation.scenario import Scenario, Service

# 100 ms for a row on one core; of that 80 ms are divided by threads. Batches save nothing.
PROFILE = tuple(Point(b, c, b * (20 + 80 / c)) for b in (1, 2, 4) for c in (1, 2, 4, 8))
LINK = BandwidthTrace.constant(1e6)


def service(
    sent_s, *, name="service", slo_s=1.0, payload_bytes=1.0, link=LINK, max_cores=8, max_batch=4, **kw
):
    """One service whose requests are sent at the given times."""
    payload, slo = Mix((payload_bytes,), (1.0,)), Mix((slo_s,), (1.0,))
    truth = Truth.grid(PROFILE, max_cores, max_batch)
    offered = offer(sent_s, link, payload, slo, (1,))
    fields = {"start_cores": 1, "weight": 1.0} | kw
    return Service(name, PROFILE, truth, link, payload, slo, offered, max_cores, max_batch, **fields)


def scenario(*services, seconds=10.0, **kw):
    """A host just large enough for its largest service, without contention or delay unless asked for."""
    host_cores = kw.pop("host_cores", max(s.max_cores for s in services))
    calm = {"contention": 0.0, "actuation_s": 0.0}
    return replace(Scenario(services, host_cores, seconds), **{**calm, **kw})


def every(interval_s, seconds):
    """Send times from 0 on."""
    return [i * interval_s for i in range(round(seconds / interval_s))]
