"""What a measured run yields: everything that a table or a report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.rows import Row


@dataclass(frozen=True, slots=True)
class Point:
    """One service at one moment of a run; `at_s` from the run's start."""

    at_s: float
    service: str
    cpu_millicores: int
    instances: int
    threads: int
    max_batch: int
    queue_depth: int
    arrival_rate: float
    cores_used: float
    throttled_share: float
    # Of the service since its run was first looked at, in core-seconds.
    reserved_so_far: float = 0.0
    used_so_far: float = 0.0
    executing_so_far: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """One decision of the control plane."""

    at_s: float
    service: str
    action: str
    reason: str
    before_millicores: int
    after_millicores: int


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU of one service over a run, in core-seconds: the integral of its quota, and the kernel's counter.

    `executing` is the part of `used` that executions took, on the threads that started them.
    """

    reserved: float
    used: float
    executing: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """One policy over the whole workload."""

    policy: str  # "sponge" or "best fixed split"
    rows: Sequence[Row]
    points: Sequence[Point]
    changes: Sequence[Change]
    cost: Mapping[str, Cost]  # by service
    generator_cpu_s: float  # of load generator and emulated links
    host_busy_share: float  # of all CPUs, over the run
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """All runs of one workload on one machine.

    `settings` are printed as they are (rates, seeds, host, versions); `slo_ms` and `minimum_service_ms`
    (the fastest execution of one row, below which a budget is dead on arrival) are by service.
    `holds_quota` is False where workers only paced themselves: their cost is then "asked for", not "reserved".
    """

    settings: Mapping[str, str]
    slo_ms: Mapping[str, float]
    minimum_service_ms: Mapping[str, float]
    holds_quota: bool
    runs: Sequence[Run]
