"""What became of each request: one row each, as CSV, and summed up by service."""

import csv
import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TIGHT_FACTOR = 1.5  # of the cheapest execution of one row: who arrives with less is tight


class Outcome(enum.Enum):
    """How a request ended, as its client saw it."""

    ON_TIME = "on_time"  # right, and complete at the client by its deadline
    LATE = "late"  # right but after the deadline, or not there when the grace ended
    REFUSED = "refused"  # RESOURCE_EXHAUSTED
    DEAD = "dead"  # late or refused, but the network alone had left too little: no server could help
    FAILED = "failed"  # any other status, or never sent
    WRONG = "wrong"  # differs from the direct run of the model


@dataclass(frozen=True, slots=True)
class Row:
    """One request offered; times in seconds of the run, which are those of the bandwidth trace."""

    service: str
    scheduled_s: float
    sent_s: float  # when the client began; later than scheduled only if the generator itself was late
    finished_s: float  # complete at the client, or given up
    deadline_s: float  # scheduled_s + SLO
    slo_ms: float
    size_bytes: int  # of the upload
    outcome: Outcome
    # SLO less the time that the trace needs for the upload; negative: nothing is left.
    budget_on_arrival_ms: float
    answered: bool  # with a result, right or wrong
    status: str = "OK"  # gRPC's name
    detail: str = ""
    # When it was complete at the worker and its execution began, of answered requests where the worker tells;
    # late by the answer's way home, see `load.run`.
    arrived_s: float | None = None
    started_s: float | None = None

    @property
    def latency_s(self) -> float:
        """From the schedule to the complete answer; ∞ without a right one."""
        served = self.answered and self.outcome is not Outcome.WRONG
        return self.finished_s - self.scheduled_s if served else math.inf


def judge(row: Row, minimum_service_ms: float) -> Row:
    """Call a late or refused request dead if less than `minimum_service_ms` was left on arrival."""
    if row.outcome in (Outcome.LATE, Outcome.REFUSED) and row.budget_on_arrival_ms < minimum_service_ms:
        return dataclasses.replace(row, outcome=Outcome.DEAD)
    return row


@dataclass(frozen=True, slots=True)
class Summary:
    """One service over one run; counts are of requests, and the outcomes add up to `offered`."""

    service: str
    offered: int
    on_time: int
    late: int
    refused: int
    dead: int
    failed: int
    wrong: int
    # Those that arrived with at least the least service time, but less than 1.5 × it.
    tight: int
    tight_on_time: int
    # End to end over all offered, unanswered ones as ∞; the smallest observation at or above the quantile's
    # rank (numpy's "higher"), so that nothing is interpolated with ∞.
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @property
    def attainment(self) -> float:
        """Share on time of all offered; 1 where none were."""
        return self.on_time / self.offered if self.offered else 1.0


def summarise(rows: Iterable[Row], minimum_service_ms: Mapping[str, float]) -> dict[str, Summary]:
    """Sum up by service, in the order of first appearance.

    `minimum_service_ms`: the fastest execution of one row at the largest allocation, by service; what arrives
    with less is dead on arrival. Services without one have 0.
    """
    by_service: dict[str, list[Row]] = {}
    for row in rows:
        by_service.setdefault(row.service, []).append(judge(row, minimum_service_ms.get(row.service, 0.0)))
    return {
        service: _summary(service, judged, minimum_service_ms.get(service, 0.0))
        for service, judged in by_service.items()
    }


def _summary(service: str, rows: list[Row], minimum_ms: float) -> Summary:
    count = {outcome: sum(row.outcome is outcome for row in rows) for outcome in Outcome}
    tight = [row for row in rows if minimum_ms <= row.budget_on_arrival_ms < TIGHT_FACTOR * minimum_ms]
    latencies_ms = [1000 * row.latency_s for row in rows]
    p50, p95, p99 = np.quantile(latencies_ms, [0.5, 0.95, 0.99], method="higher").tolist()
    return Summary(
        service=service,
        offered=len(rows),
        on_time=count[Outcome.ON_TIME],
        late=count[Outcome.LATE],
        refused=count[Outcome.REFUSED],
        dead=count[Outcome.DEAD],
        failed=count[Outcome.FAILED],
        wrong=count[Outcome.WRONG],
        tight=len(tight),
        tight_on_time=sum(row.outcome is Outcome.ON_TIME for row in tight),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
    )


_FIELDS = [column.name for column in dataclasses.fields(Row)]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV with a header; what is not known is an empty field."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_FIELDS)
        for row in rows:
            values = dataclasses.asdict(row) | {"outcome": row.outcome.value, "answered": int(row.answered)}
            writer.writerow([values[name] for name in _FIELDS])


def read(path: Path) -> tuple[Row, ...]:
    """Read what `write` wrote. Raises ValueError, naming file and line, for anything else."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != _FIELDS:
            raise ValueError(f"{path}: line 1: expected the columns {','.join(_FIELDS)}")
        rows = []
        for fields in reader:
            try:
                rows.append(_row(fields))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}: line {reader.line_num}: {error}") from error
        return tuple(rows)


def _row(fields: dict[str, str]) -> Row:
    return Row(
        service=fields["service"],
        scheduled_s=float(fields["scheduled_s"]),
        sent_s=float(fields["sent_s"]),
        finished_s=float(fields["finished_s"]),
        deadline_s=float(fields["deadline_s"]),
        slo_ms=float(fields["slo_ms"]),
        size_bytes=int(fields["size_bytes"]),
        outcome=Outcome(fields["outcome"]),
        budget_on_arrival_ms=float(fields["budget_on_arrival_ms"]),
        answered=fields["answered"] == "1",
        status=fields["status"],
        detail=fields["detail"],
        arrived_s=float(fields["arrived_s"]) if fields["arrived_s"] else None,
        started_s=float(fields["started_s"]) if fields["started_s"] else None,
    )
