"""Thresholds of CPU use: at the pace of Kubernetes, and at ours with instances following."""

import math
from collections import deque
from collections.abc import Sequence

from controlplane.state import Fleet
from evaluation.simulation.policies import Seen, Target, fit, whole
from evaluation.simulation.profile import cheapest_batch
from evaluation.simulation.scenario import Scenario

TARGET = 0.8

# kube-controller-manager's defaults: --horizontal-pod-autoscaler-sync-period, -tolerance, -downscale-stabilization;
# and the default policy of scaling up, by the larger of 100 % and 4 in 15 s (autoscaling/v2 HPAScalingRules).
_SYNC_S, _TOLERANCE, _STABILIZATION_S, _MOST_AT_ONCE = 15.0, 0.1, 300.0, 4
# Of the threshold at our interval. With one second it misses half again as much, at 7 % fewer cores.
_HOLD_S = 2.0


class Usage:
    """One execution on c cores, c := ⌈c·(use/target)⌉, at the pace of Kubernetes.

    The formula and the defaults are those of its Horizontal Pod Autoscaler ("Algorithm details"), on cores for
    replicas, as a vertical one in its in-place mode would have to do it. A shrink goes to the largest
    recommendation of the last five minutes. In its favour resizing is in place, and a thread counts as used while its
    execution runs, so that it notices an execution that cannot keep up.
    """

    listens = False

    def __init__(self, target: float = TARGET) -> None:
        self._target = target
        self._host_cores = 0
        self._recommended: list[deque[tuple[float, int]]] = []

    def interval_s(self, scenario: Scenario) -> float | None:
        return _SYNC_S

    def start(self, scenario: Scenario) -> list[Target]:
        self._host_cores = scenario.host_cores
        cores = fit([s.start_cores for s in scenario.services], scenario.host_cores)
        self._recommended = [deque([(0.0, c)]) for c in cores]
        return [whole(1, c, s.max_batch) for s, c in zip(scenario.services, cores, strict=True)]

    def decide(self, fleet: Fleet, seen: Sequence[Seen], now: float) -> list[Target | None]:
        wanted = []
        for one, recommended in zip(seen, self._recommended, strict=True):
            current = one.worker.allocation.threads
            ratio = one.used_cores / current / self._target
            desired = current if abs(ratio - 1) <= _TOLERANCE else math.ceil(current * ratio - 1e-9)
            desired = min(desired, max(2 * current, current + _MOST_AT_ONCE), one.service.max_cores)
            recommended.append((now, max(1, desired)))
            while recommended[0][0] < now - _STABILIZATION_S:
                recommended.popleft()
            stable = max(cores for _, cores in recommended)
            wanted.append(desired if desired >= current else min(current, stable))
        cores = fit([max(1, c) for c in wanted], self._host_cores)
        return [whole(1, c, one.service.max_batch) for c, one in zip(cores, seen, strict=True)]


class UsageInstances:
    """n instances of one thread, n := ⌈cores used/target⌉, at our interval, actuation delay and hold.

    The threshold of `Usage` with all that Sponge has but its planner: growth at once, a shrink to the largest
    recommendation of the last two seconds; batches only where they save a tenth of the CPU.
    """

    listens = False

    def __init__(self, target: float = TARGET) -> None:
        self._target = target
        self._host_cores = 0
        self._recommended: list[deque[tuple[float, int]]] = []

    def interval_s(self, scenario: Scenario) -> float | None:
        return scenario.interval_s

    def start(self, scenario: Scenario) -> list[Target]:
        self._host_cores = scenario.host_cores
        cores = fit([s.start_cores for s in scenario.services], scenario.host_cores)
        self._recommended = [deque([(0.0, c)]) for c in cores]
        return [
            whole(c, 1, cheapest_batch(s.profile, s.max_batch))
            for s, c in zip(scenario.services, cores, strict=True)
        ]

    def decide(self, fleet: Fleet, seen: Sequence[Seen], now: float) -> list[Target | None]:
        wanted = []
        for one, recommended in zip(seen, self._recommended, strict=True):
            desired = max(1, math.ceil(one.used_cores / self._target - 1e-9))
            recommended.append((now, min(desired, one.service.max_cores)))
            while recommended[0][0] < now - _HOLD_S:
                recommended.popleft()
            wanted.append(max(cores for _, cores in recommended))
        cores = fit(wanted, self._host_cores)
        return [whole(c, 1, one.worker.allocation.max_batch) for c, one in zip(cores, seen, strict=True)]
