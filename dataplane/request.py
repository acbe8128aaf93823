"""What a worker is asked, and what became of it."""

import enum
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

Tensors = Mapping[str, np.ndarray]


class Outcome(enum.Enum):
    """How a request ended; names and meaning are those of `Outcomes` in control.proto."""

    ON_TIME = "on_time"
    LATE = "late"
    REFUSED = "refused"
    QUEUE_FULL = "queue_full"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    EXPIRED_IN_UPLOAD = "expired_in_upload"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One request in the queue. Times are seconds on the worker's monotonic clock.

    `arrived_at` is when its header was there, `queued_at` when its body was complete and decoded. `deadline_at`
    is when execution has to be over for an answer in time; until `expires_at` a late answer is still wanted.
    `rank_at` is its place in the order of service: the deadline, unless that is shorter than the service
    believes. `shape_key` is equal for requests that may share a batch, `cost_key` for those whose rows cost the
    same. `generation` is that of the model that it was checked against and is executed by (see `served.Model`);
    so it is in the records below.
    """

    sequence: int
    rows: int
    shape_key: Hashable
    arrived_at: float
    queued_at: float
    deadline_at: float
    expires_at: float
    rank_at: float
    priority: int = 0
    inputs: Tensors | None = None
    generation: int = 0
    cost_key: Hashable = None

    @property
    def wants_late(self) -> bool:
        """Whether an answer after the deadline is still worth something."""
        return self.expires_at > self.deadline_at

    @property
    def row_elements(self) -> int:
        """Elements of one row, of all inputs together; 1 where there are none."""
        inputs = self.inputs or {}
        return max(1, sum(array.size for array in inputs.values()) // self.rows)


@dataclass(frozen=True, slots=True)
class Completion:
    """One ended request: the single record that metrics and telemetry are made of.

    Seconds; `started_at` is None where nothing ran, `batch_rows` then 0; `queued_at` is None where it was
    never complete, or not valid.
    """

    outcome: Outcome
    rows: int
    arrived_at: float
    finished_at: float
    started_at: float | None = None
    batch_rows: int = 0
    queued_at: float | None = None
    generation: int = 0

    @property
    def latency_s(self) -> float:
        """Header received to answer ready, or to the end without one."""
        return self.finished_at - self.arrived_at


@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """One finished execution. `cpu_s` is the calling thread's, `busy` the mean number of busy slots
    while it ran; `mixed` marks one that a change of allocation fell into.
    """

    rows: int
    threads: int
    wall_s: float
    cpu_s: float
    busy: float
    mixed: bool
    generation: int = 0
