"""When a plan is put in force: growth at once, a shrink after it has held."""

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from controlplane.allocation import Allocation

# Memory in use moves all the time; a limit follows when it is too low, or higher than need be by this share.
_MEMORY_BAND = 0.75
_MAX_INSTANCES = 64
# A few windows: in the first of a worker by chance nothing may have come.
OBSERVED_S = 0.5


class Action(enum.Enum):
    """What a decision does to a worker."""

    GROW = "grow"
    SHRINK = "shrink"
    RESHAPE = "reshape"


class Hold(enum.Enum):
    """Why a plan that differs from what a worker has was not put in force."""

    SETTLING = "settling"  # an earlier change is under way
    DEAD_BAND = "dead band"  # it is hardly less
    HELD = "held"  # a larger one still counts, or none has been there for long enough


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to put in force now."""

    action: Action
    allocation: Allocation


class Governor:
    """Of one worker. A late answer costs more than a second of an idle core: growth is never delayed.

    A plan counts until it is `shrink_hold_s` old, and a worker shrinks to no less than the largest that counts,
    so that a demand that comes and goes within it does not swing the quota: with the default only what distress
    made of the second before. Meanwhile it runs in the shape that is planned where its own, which suited another
    demand, is what it cannot live with.
    """

    def __init__(
        self, shrink_hold_s: float, dead_band_millicores: int, max_instances: int = _MAX_INSTANCES
    ) -> None:
        self._shrink_hold_s = shrink_hold_s
        self._dead_band = dead_band_millicores
        self._max_instances = max_instances
        self._plans: deque[tuple[float, Allocation]] = deque()
        self._began_at: float | None = None
        self.hold: Hold | None = None  # what kept the last plan from being put in force, or in full

    def decide(
        self,
        current: Allocation,
        planned: Allocation,
        now: float,
        *,
        settled: bool,
        crowded: bool = False,
        urgent: bool = False,
    ) -> Verdict | None:
        """Whether and how to leave `current`; `settled` says that no earlier change is under way.

        `crowded`: others grow into what this one is planned to leave, so it waits for no more than OBSERVED_S.
        `urgent`: `current` would miss much that `planned` would not, for all its CPU.
        """
        self.hold = None
        if self._began_at is None:
            self._began_at = now
        self._plans.append((now, planned))
        while len(self._plans) > 1 and self._plans[0][0] <= now - self._shrink_hold_s:
            self._plans.popleft()
        if planned.cpu_millicores > current.cpu_millicores:
            return Verdict(Action.GROW, planned)
        if _short(current, planned):
            # It costs nothing to those who wait, and who runs out of memory is killed.
            return Verdict(Action.GROW, replace(current, memory_bytes=planned.memory_bytes))
        if not settled:
            self.hold = None if _fits(current, planned) else Hold.SETTLING
            return None
        if crowded and now - self._began_at >= OBSERVED_S and planned.cpu_millicores < current.cpu_millicores:
            return Verdict(Action.SHRINK, planned)
        if now - self._began_at >= self._shrink_hold_s:
            # The newest of the largest: its shape fits what is going on now.
            largest = max((plan for _, plan in reversed(self._plans)), key=lambda plan: plan.cpu_millicores)
            if largest.cpu_millicores <= current.cpu_millicores - max(1, self._dead_band):
                self.hold = Hold.HELD if largest.cpu_millicores > planned.cpu_millicores else None
                return Verdict(Action.SHRINK, largest)
        if planned.cpu_millicores == current.cpu_millicores:
            return None if _fits(current, planned) else Verdict(Action.RESHAPE, planned)
        hardly_less = planned.cpu_millicores > current.cpu_millicores - max(1, self._dead_band)
        self.hold = Hold.DEAD_BAND if hardly_less else Hold.HELD
        if urgent:
            return Verdict(Action.RESHAPE, self._widened(planned, current))
        return None

    def _widened(self, planned: Allocation, current: Allocation) -> Allocation:
        """`planned` on the larger quota of `current`, all of which its instances can use."""
        instances = min(current.cpu_millicores // (1000 * planned.threads), self._max_instances)
        return replace(
            planned,
            cpu_millicores=current.cpu_millicores,
            instances=max(planned.instances, instances),
            memory_bytes=max(planned.memory_bytes, current.memory_bytes),
        )


def urgent(spared: float, rate: float) -> bool:
    """Whether a shape cannot wait: staying would miss one in twenty of `rate` requests/s more, or more than that."""
    return spared > 0.05 * max(rate, 1.0)


def rest_s(host_full: bool, least_s: float) -> float:
    """How long after a plan the next may follow, whatever distress there is; at the least `least_s`.

    Distress that no plan can help must not keep the planner busy. On a full host a plan can only take from one what
    it gives to another, and back.
    """
    return 5 * least_s if host_full else least_s


def crowded(changes: Iterable[tuple[Allocation, Allocation]], millicores: int) -> bool:
    """Whether growing at once and shrinking later would promise more than there is.

    `changes` are the (current, planned) of all workers that share `millicores`.
    """
    return sum(max(now.cpu_millicores, then.cpu_millicores) for now, then in changes) > millicores


def _short(current: Allocation, planned: Allocation) -> bool:
    """Whether `current` has a limit of memory, and too low a one."""
    return 0 < current.memory_bytes < planned.memory_bytes


def _fits(current: Allocation, planned: Allocation) -> bool:
    """Whether `current` does for `planned`: the same shape, and about its memory."""
    enough = _MEMORY_BAND * current.memory_bytes <= planned.memory_bytes <= current.memory_bytes
    return enough and replace(planned, memory_bytes=current.memory_bytes) == current
