"""One simulated host: its services, their limits, and how fast anything can be changed."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evaluation.bandwidth import BandwidthTrace
from evaluation.paper import Point
from evaluation.simulation.offered import Mix, Offered
from evaluation.simulation.profile import Truth


class Order(enum.Enum):
    """Which waiting request runs first."""

    EDF = "edf"
    FIFO = "fifo"


Work = Callable[[int, int, float], float]


@dataclass(frozen=True, slots=True)
class Service:
    """One service with one worker; `profile` is what policies are told, `truth` what happens."""

    name: str
    profile: Sequence[Point]
    truth: Truth
    link: BandwidthTrace
    payload_bytes: Mix
    slo_s: Mix
    offered: Offered
    max_cores: int
    max_batch: int
    start_cores: int
    weight: float = 1.0
    max_instances: int | None = None  # of ours; None: as many as cores
    # Seconds of an undisturbed execution of (rows, threads) that begins now; None: the truth, with noise.
    work: Work | None = None
    request_cpu_s: float = 0.0  # of a worker for each request, besides executions

    @property
    def mean_rate(self) -> float:
        """Requests/s over the whole run."""
        times = self.offered.schedule_s
        return len(times) / max(times[-1], 1.0) if times else 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """What every policy faces alike; durations in seconds."""

    services: tuple[Service, ...]
    host_cores: int
    seconds: float
    seed: int = 1
    noise: float = 0.0  # coefficient of variation of executions
    contention: float = 0.04  # κ: per other busy instance of the host
    actuation_s: float = 0.03  # a quota is in force so long after it was asked for
    cold_start_s: float = 5.0  # of a new replica
    interval_s: float = 1.0  # between decisions
    report_s: float = 0.2  # between samples
    distress: bool = True  # whether a worker in need reports at once
    grace_s: float = 0.0  # for so long after its deadline an answer is still wanted
    patience_s: float = 0.25  # that workers have with what cannot make its deadline as things are
    order: Order = Order.EDF

    def alone(self, index: int) -> "Scenario":
        """Give the same with one of the services only."""
        return replace(self, services=(self.services[index],))
