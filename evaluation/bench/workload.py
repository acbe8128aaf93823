"""What a bench offers: models, rates that vary around a mean, the network, and what the host has for workers."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from controlplane.allocation import Allocation
from evaluation import scenario, split, workload
from evaluation.bandwidth import BandwidthTrace
from evaluation.bench.policy import Policy
from evaluation.measure import Offered
from evaluation.scenario import Subject
from evaluation.simulation import offered
from evaluation.workload import Phase

# The planes' own needs and whatever else the host runs.
RESERVED_MILLICORES = 300
# What a worker starts with where its policy decides afterwards: one core's worth at most.
_START_MILLICORES = 700
DAY = "day"


@dataclass(frozen=True, slots=True)
class Workload:
    """The same for every policy. `rates` are in requests/s in the mean after the warm-up, by service."""

    offered: Offered
    rates: Mapping[str, float]
    peak_rates: Mapping[str, float]
    host_millicores: int

    @property
    def subjects(self) -> Sequence[Subject]:
        return self.offered.subjects

    def start(self, policy: Policy) -> dict[str, Allocation]:
        """What each service begins with. Raises PolicyError for a split that cannot be."""
        count = len(self.subjects)
        if not policy.fixed:
            millicores = min(_START_MILLICORES, self.host_millicores // count)
            return {subject.name: Allocation(millicores, 1, 1, 1) for subject in self.subjects}
        fixed = policy.millicores(self.host_millicores, count)
        trace = self.offered.trace
        if isinstance(fixed, int):
            return split.best(self.subjects, self.peak_rates, trace, fixed)
        return {
            subject.name: split.shaped_for(subject, self.peak_rates[subject.name], trace, millicores)
            for subject, millicores in zip(self.subjects, fixed, strict=True)
        }


def pattern(arrivals: str, seconds: float) -> tuple[Phase, ...]:
    """Give `seconds` of `arrivals`, with factors of 1 in the mean.

    `arrivals` is `day` (see `workload.day`), or the file of a rate per second, which starts again at its end. Raises
    offered.RatesError.
    """
    if arrivals == DAY:
        return workload.day(seconds)
    rates = offered.read_rates(Path(arrivals))
    series = [rates[second % len(rates)] for second in range(math.ceil(seconds))]
    if sum(series) <= 0:
        raise offered.RatesError(f"{arrivals}: expected some rate above zero in the first {len(series)} s")
    factors = [rate * len(series) / sum(series) for rate in series]
    return workload.phases(factors, interval_s=seconds / len(series))


def later(phases: Sequence[Phase], share: float) -> tuple[Phase, ...]:
    """Begin a pattern `share` of its length later in it, and end with what was skipped."""
    skipped_s = share * sum(phase.duration_s for phase in phases)
    first, then = [], []
    for phase in phases:
        before_s = min(phase.duration_s, skipped_s)
        skipped_s -= before_s
        then.append(Phase(before_s, phase.factor))
        first.append(Phase(phase.duration_s - before_s, phase.factor))
    return tuple(phase for phase in (*first, *then) if phase.duration_s > 0)


def cpus() -> int:
    """Of this host, as far as this process may use them."""
    return len(os.sched_getaffinity(0))


def host_millicores(measured: Sequence[Subject], rates: Mapping[str, float]) -> int:
    """What the reserve and the load generator, at twice the mean rates, leave of this host to workers."""
    generated = sum(2000 * rates[s.name] * scenario.GENERATOR_S[s.name] for s in measured)
    free = 1000 * cpus() - RESERVED_MILLICORES - generated
    return max(split.STEP_MILLICORES, int(free) // split.STEP_MILLICORES * split.STEP_MILLICORES)


def make(
    measured: Sequence[Subject],
    rates: Mapping[str, float],
    host: int,
    phases: Sequence[Phase],
    trace: BandwidthTrace,
    seed: int,
    *,
    warmup_s: float = 0.0,
    stagger: bool = False,
) -> Workload:
    """Draw the requests of all services, each with a seed of its own, after `warmup_s` at the mean rate.

    With `stagger` the services go through the phases one behind the other, evenly spread: their peaks differ.
    """
    warm = [Phase(warmup_s, 1.0)] if warmup_s > 0 else []
    schedules = []
    for index, subject in enumerate(measured):
        own = later(phases, index / len(measured)) if stagger else phases
        rate, payloads = rates[subject.name], len(subject.payloads)
        schedules.append(workload.schedule(subject.name, rate, [*warm, *own], payloads, seed=seed + index))
    schedule = workload.merge(*schedules)
    seconds = warmup_s + sum(phase.duration_s for phase in phases)
    highest = max(phase.factor for phase in phases)
    peak = {name: highest * rate for name, rate in rates.items()}
    return Workload(Offered(measured, schedule, trace, seconds), rates, peak, host)
