"""A worker whose executions take longer for a minute, as the control plane's drift follows it. Virtual time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.governor import Governor
from controlplane.latency import LatencyModel
from controlplane.resize import Resize
from controlplane.state import Fleet, Host, Worker
from protos import control_pb2

BEFORE_S, SLOWED_S, AFTER_S = 60.0, 60.0, 60.0
NEAR = 0.1  # of the truth: then the estimate is right
_REPORT_S, _PLAN_S = 0.2, 1.0
# Milliseconds of one row on one thread, the scatter of the logarithm, and how many take three times as long.
_WORK_MS, _SCATTER, _OUTLIERS = 50.0, 0.1, 0.01


@dataclass(frozen=True, slots=True)
class Slowed:
    """What came of it when a `share` of executions took `factor` times as long.

    Seconds are from when that began, or ended; None: never.

    `above` are the shares of the executions meanwhile that took longer than the upper estimate that was planned with.
    """

    factor: float
    share: float
    rate: float
    widened_s: float | None
    right_s: float | None  # until the mean is within NEAR of the truth
    above: float
    above_undetected: float  # by a model that only learns
    right_undetected_s: float | None
    over_s: float | None  # until it is right again


def follow(factor: float, share: float, rate: float, seed: int) -> Slowed:
    """Run `rate` executions a second, one row on one thread, regularly."""
    rng = np.random.default_rng(seed)
    fleet, worker = _worker()
    plain = LatencyModel()
    told = _Estimates([], [], [], [])
    undetected = _Estimates([], [], [], [])
    ends_s = BEFORE_S + SLOWED_S + AFTER_S
    run = 0
    for step in range(1, round(ends_s / _REPORT_S) + 1):
        now = step * _REPORT_S
        executions = []
        while (run + 1) / rate <= now:
            run += 1
            slowed = BEFORE_S < run / rate <= BEFORE_S + SLOWED_S
            longer = slowed and rng.random() < share
            wall_ms = _WORK_MS * math.exp(rng.normal(0.0, _SCATTER)) * (factor if longer else 1.0)
            wall_ms *= 3.0 if rng.random() < _OUTLIERS else 1.0
            executions.append(control_pb2.Execution(rows=1, threads=1, wall_ms=wall_ms, busy=1))
            if slowed:
                for estimates in (told, undetected):
                    estimates.above.append(bool(estimates.upper_s and wall_ms / 1000 > estimates.upper_s[-1]))
        sample = control_pb2.Sample(window_s=_REPORT_S, executions=executions)
        sample.allocation.cpu_millicores = 1100
        fleet.record(worker, sample, now)
        for execution in executions:
            plain.record(1, 1, execution.wall_ms / 1000, 1.0, now)
        if step % round(_PLAN_S / _REPORT_S) == 0 and worker.latency.known:
            worker.believed = worker.latency.snapshot()
            drift = worker.drift
            mean_s, upper_s = worker.believed.mean(1, 1), worker.believed.upper(1, 1)
            told.add(now, mean_s * drift.slower, upper_s * drift.wider)
            undetected.add(now, plain.mean(1, 1), plain.upper(1, 1))
    usual_s = _WORK_MS / 1000 * math.exp(_SCATTER**2 / 2) * (1 + 2 * _OUTLIERS)
    slow, slow_s = (BEFORE_S, BEFORE_S + SLOWED_S), (1 + share * (factor - 1)) * usual_s
    return Slowed(
        factor=factor,
        share=share,
        rate=rate,
        widened_s=told.widened_s(*slow, factor),
        right_s=told.right_s(*slow, slow_s),
        above=sum(told.above) / len(told.above),
        above_undetected=sum(undetected.above) / len(undetected.above),
        right_undetected_s=undetected.right_s(*slow, slow_s),
        over_s=told.right_s(slow[1], ends_s, usual_s),
    )


@dataclass(frozen=True, slots=True)
class _Estimates:
    """What plans were made with, and of the executions that were slowed, whether each took longer than that."""

    at_s: list[float]
    mean_s: list[float]
    upper_s: list[float]
    above: list[bool]

    def add(self, at_s: float, mean_s: float, upper_s: float) -> None:
        self.at_s.append(at_s)
        self.mean_s.append(mean_s)
        self.upper_s.append(upper_s)

    def widened_s(self, from_s: float, until_s: float, factor: float) -> float | None:
        """Until the upper estimate has risen by half of what executions have, in logarithms."""
        before = self.upper_s[max(0, int(np.searchsorted(self.at_s, from_s)) - 1)]
        within = self._within(from_s, until_s)
        wanted = before * math.sqrt(factor)
        return next((self.at_s[i] - from_s for i in within if self.upper_s[i] >= wanted), None)

    def right_s(self, from_s: float, until_s: float, true_s: float) -> float | None:
        """Until the mean is near to the truth."""
        within = self._within(from_s, until_s)
        return next((self.at_s[i] - from_s for i in within if abs(self.mean_s[i] / true_s - 1) <= NEAR), None)

    def _within(self, from_s: float, until_s: float) -> Sequence[int]:
        return [i for i, at_s in enumerate(self.at_s) if from_s < at_s <= until_s]


def _worker() -> tuple[Fleet, Worker]:
    host = Host(4000, 0)
    fleet = Fleet([host], default_overhead_s=0.0)
    hello = control_pb2.Hello(worker_id="w", service="w", model_digest="w", max_threads=1, max_batch=1)
    return fleet, fleet.attach(hello, Resize(), Governor(1.0, 100), 0.0, host)
