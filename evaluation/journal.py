"""What happened at a worker, request by request: kept beside a real one and a simulated one alike."""

import argparse
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dataplane.__main__ import run
from dataplane.request import Completion, ExecutionRecord, Outcome, Request


class Served(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One request, in seconds of the worker's clock; `started_s` is None and `batch_rows` 0 where it never ran."""

    header_s: float
    arrived_s: float  # complete at the worker, and queued
    deadline_s: float
    expires_s: float
    rows: int
    outcome: Outcome
    finished_s: float
    started_s: float | None
    batch_rows: int

    @property
    def latency_s(self) -> float:
        """From the queue to the answer, or to the end without one."""
        return self.finished_s - self.arrived_s


class Executed(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One execution: it held its slot for `slot_s` from `started_s` on; the rest is as in ExecutionRecord."""

    started_s: float
    slot_s: float
    rows: int
    threads: int
    wall_s: float
    cpu_s: float
    busy: float
    mixed: bool


class Journal:
    """An observer that forgets nothing: every request that was queued and has ended, every execution."""

    def __init__(self) -> None:
        self.served: list[Served] = []
        self.executions: list[Executed] = []
        # What has not ended, by the receipt of its header, which a completion repeats.
        self._open: dict[float, deque[tuple[Request, float]]] = {}
        self._record: ExecutionRecord | None = None

    def announced(self) -> None:
        """Of a header its request tells, once that is queued."""

    def arrived(self, request: Request, now: float) -> None:
        self._open.setdefault(request.arrived_at, deque()).append((request, now))

    def executed(self, record: ExecutionRecord) -> None:
        # The completions of its requests follow at once, and tell when it was.
        self._record = record

    def completed(self, completion: Completion) -> None:
        if completion.arrived_at not in self._open:  # it never got as far as the queue
            return
        same = self._open[completion.arrived_at]
        request, queued_at = same.popleft()
        if not same:
            del self._open[completion.arrived_at]
        self.served.append(
            Served(
                header_s=request.arrived_at,
                arrived_s=queued_at,
                deadline_s=request.deadline_at,
                expires_s=request.expires_at,
                rows=request.rows,
                outcome=completion.outcome,
                finished_s=completion.finished_at,
                started_s=completion.started_at,
                batch_rows=completion.batch_rows,
            )
        )
        if self._record is not None and completion.started_at is not None:
            record, self._record = self._record, None
            self.executions.append(
                Executed(
                    started_s=completion.started_at,
                    slot_s=completion.finished_at - completion.started_at,
                    rows=record.rows,
                    threads=record.threads,
                    wall_s=record.wall_s,
                    cpu_s=record.cpu_s,
                    busy=record.busy,
                    mixed=record.mixed,
                )
            )


class Pages(msgspec.Struct, frozen=True, kw_only=True):
    """A journal as a file has it; times are on the monotonic clock of the host."""

    served: list[Served]
    executions: list[Executed]


def read(path: Path) -> Pages:
    """Read what the worker of `main` has left. Raises OSError, and ValueError for anything else."""
    return msgspec.json.decode(path.read_bytes(), type=Pages)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker as `python -m dataplane` does, and write its journal when it has ended."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.journal", description=__doc__)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parsed = parser.parse_args(arguments)
    journal = Journal()
    code = run(parsed.config, [journal])
    pages = Pages(served=journal.served, executions=journal.executions)
    parsed.journal.write_bytes(msgspec.json.encode(pages))
    return code


if __name__ == "__main__":
    sys.exit(main())
