"""The best fixed split of a host: what one would set up by hand, knowing the load's peak beforehand."""

from collections.abc import Mapping, Sequence

import numpy as np

from controlplane import planner
from controlplane.config import Planner
from controlplane.demand import DemandEstimate
from controlplane.latency import LatencyModel
from controlplane.planner import Configuration, Limits, ServiceState
from evaluation.bandwidth import BandwidthTrace
from evaluation.scenario import MIN_MILLICORES, Subject

_STEP_MILLICORES = 100
# Enough executions that a model's cell speaks for itself.
_SAMPLES = 16
_SENDING_TIMES = 200


def best(
    measured: Sequence[Subject],
    peak_rates: Mapping[str, float],
    trace: BandwidthTrace,
    host_millicores: int,
) -> dict[str, Configuration]:
    """Give each service what the integer program gives it for the peak, and divide the rest of the host.

    The planner is told the true peak rate and the true distribution of budgets, which no operator knows so
    well; what it leaves over goes to all in proportion, so that the whole host is in use.
    """
    states = []
    for subject in measured:
        rate = peak_rates[subject.name]
        demand = DemandEstimate(rate, rate, 1.0, _budgets(subject, trace), 1.0)
        limits = Limits(min_millicores=MIN_MILLICORES[subject.name])
        states.append(ServiceState(subject.name, _latency(subject), demand, limits))
    plan = planner.plan(states, host_millicores, 1 << 50, Planner())
    chosen = [assignment.configuration for assignment in plan.assignments]
    left = host_millicores - sum(c.cpu_millicores for c in chosen)
    total = sum(c.cpu_millicores for c in chosen)
    split = {}
    for subject, configuration in zip(measured, chosen, strict=True):
        extra = left * configuration.cpu_millicores // total // _STEP_MILLICORES * _STEP_MILLICORES
        millicores = configuration.cpu_millicores + extra
        # As many executions at once as the quota has room for; one more where a fraction is left.
        instances = max(configuration.instances, -(-millicores // 1000) if millicores % 1000 > 100 else 1)
        split[subject.name] = Configuration(
            millicores, instances, configuration.threads, configuration.max_batch
        )
    return split


def _latency(subject: Subject) -> LatencyModel:
    model = LatencyModel()
    for _ in range(_SAMPLES):
        model.record(1, 1, subject.row_cpu_s, 1.0, 0.0)
    return model


def _budgets(subject: Subject, trace: BandwidthTrace) -> tuple[tuple[float, float], ...]:
    """Remaining time on arrival of payloads of all sizes, sent all over the trace; in twenty quantiles."""
    left = [
        subject.slo_ms / 1000 - (trace.finish(at_s, len(payload.request)) - at_s)
        for at_s in np.linspace(0, trace.length_s, _SENDING_TIMES, endpoint=False)
        for payload in subject.payloads
    ]
    quantiles = np.quantile(left, (np.arange(20) + 0.5) / 20)
    return tuple((float(max(0.0, budget)), 1 / 20) for budget in quantiles)
