"""How long a model's executions take on this machine, by rows, threads, instances and quota."""

import csv
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from core.cgroup import CgroupError
from evaluation import slices
from evaluation.experiment import finding
from evaluation.slices import PAUSE_S, QuotaError, Runs, Setting, Sizes, Slice

_LEAST_RUNS = 5
# Of a turn under a quota: some periods of it.
_TURN_S = 0.2
_COLUMNS = (
    "rows", "threads", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "count",
    "instances", "millicores", "throttled_share", "throttled_ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grid:
    """What to measure; 1 instance, 1 thread and 1 row are always a part. Quotas in millicores, none is another."""

    threads: Sequence[int]
    batches: Sequence[int]
    instances: Sequence[int] = (1,)
    quotas: Sequence[int] = ()

    def settings(self, *, batched: bool) -> list[Setting]:
        """All of it, but for what never pays under a quota; a model without a batch dimension has batch 1 only."""
        sizes = sorted(set(self.batches)) if batched else [1]
        return [
            Setting(rows, count, instances, millicores)
            for millicores in (0, *sorted(set(self.quotas)))
            for instances in sorted(set(self.instances))
            for count in sorted(set(self.threads))
            for rows in sizes
            if not (millicores and dominated(count * instances, millicores))
        ]


def dominated(runnable: int, millicores: int) -> bool:
    """Whether a thread less would do as much under such a quota: what the planner never gives."""
    return 1000 * runnable >= millicores + 1000


@dataclass(frozen=True, slots=True)
class Cell:
    """Executions of one setting; milliseconds.

    Quantiles are the smallest observation at or above their rank: of fewer than a hundred executions the
    99 % quantile is the longest. Throttled: the share of the quota's periods in which it was used up, and for how
    long in all it stopped the threads, counted by CPU.
    """

    rows: int
    threads: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    count: int
    instances: int = 1
    millicores: int = 0
    throttled_share: float = 0.0
    throttled_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """A whole grid, and what it was measured of and on: `about` by name, in words."""

    about: Mapping[str, str]
    cells: Sequence[Cell]

    def write(self, path: Path) -> None:
        """Write CSV: a comment line for each part of `about`, the header, a line for each cell. Raises OSError."""
        with path.open("w", newline="", encoding="utf-8") as file:
            file.writelines(f"# {name}: {text}\n" for name, text in self.about.items())
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            for cell in self.cells:
                values = (getattr(cell, name) for name in _COLUMNS)
                writer.writerow(f"{value:.4f}" if isinstance(value, float) else value for value in values)


def measure(
    model: Path,
    grid: Grid,
    seconds: float,
    shapes: Sizes,
    progress: Callable[[int, int], None],
    root: Path = Path("/"),
) -> Profile:
    """Run `model` as a worker would, `seconds` for each setting of the grid but five times at least.

    Inputs are zeros; `shapes` gives the sizes of one row of inputs whose file leaves them free. All settings take
    turns, so that a machine that drifts drifts for all of them alike. Without a quota each execution follows a
    pause; under one they follow each other, as a quota binds only who is busy, in a child that has a control group
    of its own. `progress` is told how many of how many seconds have passed. `root` is where control groups are
    looked for. Raises ModelError, EngineError, QuotaError.
    """
    most_rungs = len(set(grid.threads))
    if not grid.quotas:
        return _measure(slices.Here.load(model, shapes, most_rungs), model.name, grid, seconds, progress)
    try:
        with slices.child(model, shapes, most_rungs, root) as runs:
            return _measure(runs, model.name, grid, seconds, progress)
    except CgroupError as error:
        raise QuotaError(str(error)) from error


def _measure(
    runs: Runs, name: str, grid: Grid, seconds: float, progress: Callable[[int, int], None]
) -> Profile:
    settings = grid.settings(batched=runs.batched)
    seen: dict[Setting, list[Slice]] = {setting: [] for setting in settings}
    total_s = seconds * len(settings)
    began = time.monotonic()
    for turn in itertools.count():
        if time.monotonic() - began >= total_s and turn >= _LEAST_RUNS:
            break
        for setting, observed in seen.items():
            progress(min(int(time.monotonic() - began), int(total_s)), int(total_s))
            turn_s, pause_s = (min(seconds, _TURN_S), 0.0) if setting.millicores else (0.0, PAUSE_S)
            observed.append(runs.run(setting, turn_s, pause_s))
    about = {
        "model": f"{name}, SHA-256 {runs.digest}",
        "measured": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        **finding.machine(),
    }
    return Profile(about, [_cell(setting, observed) for setting, observed in seen.items()])


def _cell(setting: Setting, observed: Sequence[Slice]) -> Cell:
    walls_ms = 1000 * np.concatenate([part.walls_s for part in observed])
    p50, p95, p99 = np.quantile(walls_ms, [0.5, 0.95, 0.99], method="higher").tolist()
    return Cell(
        setting.rows,
        setting.threads,
        float(walls_ms.mean()),
        p50,
        p95,
        p99,
        len(walls_ms),
        setting.instances,
        setting.millicores,
        sum(part.throttled_periods for part in observed) / max(1, sum(part.periods for part in observed)),
        1000 * sum(part.throttled_s for part in observed),
    )
