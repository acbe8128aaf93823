"""The best fixed split of a host: what one would set up by hand, knowing the load's peak beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from controlplane import planner
from controlplane.allocation import Allocation
from controlplane.config import Planner
from controlplane.demand import DemandEstimate
from controlplane.latency import LatencyModel
from controlplane.planner import Limits, ServiceState
from evaluation.bandwidth import BandwidthTrace
from evaluation.scenario import Subject

STEP_MILLICORES = 100
# Beyond these nothing is gained: threads of one execution mostly wait for each other, larger batches cost
# either model as much a row.
_MAX_THREADS, _MAX_BATCH = 8, 8
# Enough executions that a model's cell speaks for itself.
_SAMPLES = 16
_SENDING_TIMES = 200
_NO_MEMORY_LIMIT = 1 << 50


def limits(least: int, host_millicores: int) -> Limits:
    """What a worker can run with on a host of this size, whoever decides it; `least` millicores if there are."""
    cores = max(1, -(-host_millicores // 1000))
    return Limits(
        min_millicores=min(least, host_millicores),
        max_millicores=host_millicores,
        max_instances=cores,
        max_threads=min(cores, _MAX_THREADS),
        max_batch=_MAX_BATCH,
    )


def best(
    measured: Sequence[Subject],
    peak_rates: Mapping[str, float],
    trace: BandwidthTrace,
    host_millicores: int,
) -> dict[str, Allocation]:
    """Divide the whole host as the integer program would for the peak, and shape each part best.

    The planner is told the true peak rate and the true distribution of budgets, which no operator knows so
    well. What it leaves over goes to all in proportion; then it chooses instances, threads and batch limit
    for the quota that each has got.
    """
    states = [
        _state(subject, peak_rates[subject.name], trace, limits(subject.min_millicores, host_millicores))
        for subject in measured
    ]
    plan = planner.plan(states, host_millicores, _NO_MEMORY_LIMIT, Planner())
    planned = [assignment.configuration.cpu_millicores for assignment in plan.assignments]
    left = host_millicores - sum(planned)
    return {
        state.name: shaped(
            state, millicores + left * millicores // sum(planned) // STEP_MILLICORES * STEP_MILLICORES
        )
        for state, millicores in zip(states, planned, strict=True)
    }


def shaped_for(subject: Subject, peak_rate: float, trace: BandwidthTrace, millicores: int) -> Allocation:
    """As `shaped`, for the true peak and budgets of `subject`."""
    return shaped(_state(subject, peak_rate, trace, limits(subject.min_millicores, millicores)), millicores)


def shaped(state: ServiceState, millicores: int) -> Allocation:
    """Give the instances, threads and batch limit that miss least with a quota of exactly `millicores`."""
    fixed = replace(state.limits, min_millicores=millicores, max_millicores=millicores)
    plan = planner.plan([replace(state, limits=fixed)], millicores, _NO_MEMORY_LIMIT, Planner())
    return plan.assignments[0].configuration


def _state(subject: Subject, rate: float, trace: BandwidthTrace, allowed: Limits) -> ServiceState:
    demand = DemandEstimate(rate, 0.0, 1.0, _budgets(subject, trace), 1.0)
    overhead_s = subject.request_cpu_s - subject.row_cpu_s
    return ServiceState(subject.name, _latency(subject), demand, allowed, request_overhead_s=overhead_s)


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
