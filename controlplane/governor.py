"""When a plan is put in force: growth at once, a shrink after it has held."""

import enum
from collections import deque
from dataclasses import dataclass

from controlplane.resize import Allocation


class Action(enum.Enum):
    """What a decision does to a worker."""

    GROW = "grow"
    SHRINK = "shrink"
    RESHAPE = "reshape"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to put in force now."""

    action: Action
    allocation: Allocation


class Governor:
    """Of one worker. A late answer costs more than a second of an idle core: growth is never delayed.

    `shrink_hold_s` is how long every plan must have been smaller; the worker then gets the largest of
    those, so that a demand that comes and goes within it does not swing the quota.
    """

    def __init__(self, shrink_hold_s: float, dead_band_millicores: int) -> None:
        self._shrink_hold_s = shrink_hold_s
        self._dead_band = dead_band_millicores
        self._plans: deque[tuple[float, Allocation]] = deque()
        self._began_at: float | None = None

    def decide(
        self, current: Allocation, planned: Allocation, now: float, *, settled: bool
    ) -> Verdict | None:
        """Whether and how to leave `current`; `settled` says that no earlier change is under way."""
        if self._began_at is None:
            self._began_at = now
        self._plans.append((now, planned))
        while self._plans[0][0] < now - self._shrink_hold_s:
            self._plans.popleft()
        if planned.cpu_millicores > current.cpu_millicores:
            return Verdict(Action.GROW, planned)
        if not settled:
            return None
        if now - self._began_at >= self._shrink_hold_s:
            # The newest of the largest: its shape fits what is going on now.
            largest = max((plan for _, plan in reversed(self._plans)), key=lambda plan: plan.cpu_millicores)
            if largest.cpu_millicores <= current.cpu_millicores - self._dead_band:
                return Verdict(Action.SHRINK, largest)
        if planned != current and planned.cpu_millicores == current.cpu_millicores:
            return Verdict(Action.RESHAPE, planned)
        return None
