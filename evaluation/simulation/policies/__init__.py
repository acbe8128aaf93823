"""Who decides what each worker runs with. All act through the same resizing rule, queue and batcher."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from controlplane.allocation import Allocation
from controlplane.state import Fleet, Worker
from evaluation.simulation.scenario import Scenario, Service


@dataclass(frozen=True, slots=True)
class Target:
    """What a worker is to run with, and the cores that this reserves."""

    allocation: Allocation
    reserved_cores: float


@dataclass(frozen=True, slots=True)
class Seen:
    """One service at a decision. `used_cores` is the mean since the last one; threads count while they run,
    as spinning ones do.
    """

    service: Service
    worker: Worker
    used_cores: float


class Policy(Protocol):
    """One policy for all services of a host; decides when asked, and owns no clock."""

    @property
    def listens(self) -> bool:
        """Whether it learns from the workers' reports, and is called at once on distress."""

    def interval_s(self, scenario: Scenario) -> float | None:
        """Between decisions; None if `start` was the only one."""

    def start(self, scenario: Scenario) -> list[Target]:
        """What each service starts with."""

    def decide(self, fleet: Fleet, seen: Sequence[Seen], now: float) -> list[Target | None]:
        """What each service is to have now; None changes nothing."""


def whole(instances: int, threads: int, batch: int) -> Target:
    """Give n instances of t threads n·t cores."""
    cores = instances * threads
    return Target(Allocation(1000 * cores, instances, threads, batch), cores)


def fit(wanted: Sequence[int], host_cores: int) -> list[int]:
    """Cut whole cores down to the host: one each, and the rest in proportion to what is wanted beyond."""
    if sum(wanted) <= host_cores:
        return list(wanted)
    spare = max(0, host_cores - len(wanted))
    beyond = sum(wanted) - len(wanted)
    return [1 + (cores - 1) * spare // beyond for cores in wanted]
