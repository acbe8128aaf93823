"""How long a model's executions take on this machine: every batch size on every number of threads."""

import csv
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from dataplane.engine import Engine
from dataplane.execution import ModelError
from dataplane.warmup import Warmup
from evaluation.experiment import finding

# As between requests: without a pause caches and clocks stay warmer than they are under load.
_PAUSE_S = 0.02
_LEAST_RUNS = 5
_COLUMNS = ("rows", "threads", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "count")


@dataclass(frozen=True, slots=True)
class Cell:
    """Executions of `rows` rows on `threads` threads, one at a time and nothing beside them; milliseconds.

    Quantiles are the smallest observation at or above their rank: of fewer than a hundred executions the
    99 % quantile is the longest.
    """

    rows: int
    threads: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    count: int


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
                times = (cell.mean_ms, cell.p50_ms, cell.p95_ms, cell.p99_ms)
                writer.writerow(
                    (cell.rows, cell.threads, *(f"{time_ms:.4f}" for time_ms in times), cell.count)
                )


def measure(
    model: Path,
    threads: Sequence[int],
    batches: Sequence[int],
    seconds: float,
    shapes: Mapping[str, Sequence[int]],
    progress: Callable[[int, int], None],
) -> Profile:
    """Run `model` as a worker would, `seconds` for each cell of `threads` × `batches` but five times at least.

    Inputs are zeros; `shapes` gives the sizes of one row of inputs whose file leaves them free. All cells take
    turns, so that a machine that drifts drifts for all of them alike. A model without a batch dimension has
    batch 1 only. `progress` is told how many of how many seconds have passed. Raises ModelError, EngineError.
    """
    engine = Engine(model, model.stem, "1", shapes, max_rungs=len(set(threads)))
    warmup = Warmup(engine.signature.inputs, shapes)
    if warmup.guessed:
        raise ModelError(
            f"{model}: {warmup.guessed[0]}: expected the sizes of one row, which the file leaves open"
        )
    sizes = sorted(set(batches)) if engine.signature.batched else [1]
    for count in sorted(set(threads)):
        engine.prepare(count, sizes)
    walls_s: dict[tuple[int, int], list[float]] = {
        (rows, count): [] for count in sorted(set(threads)) for rows in sizes
    }
    feeds = {rows: warmup.zeros(rows) for rows in sizes}
    total_s = seconds * len(walls_s)
    began = time.monotonic()
    for turn in itertools.count():
        elapsed_s = time.monotonic() - began
        if elapsed_s >= total_s and turn >= _LEAST_RUNS:
            break
        progress(min(int(elapsed_s), int(total_s)), int(total_s))
        for (rows, count), seen in walls_s.items():
            time.sleep(_PAUSE_S)
            seen.append(engine.run(count, [feeds[rows]]).wall_s)
    cells = [_cell(rows, count, seen) for (rows, count), seen in walls_s.items()]
    about = {
        "model": f"{model.name}, SHA-256 {engine.digest}",
        "measured": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        **finding.machine(),
    }
    return Profile(about, cells)


def _cell(rows: int, threads: int, walls_s: Sequence[float]) -> Cell:
    walls_ms = 1000 * np.array(walls_s)
    p50, p95, p99 = np.quantile(walls_ms, [0.5, 0.95, 0.99], method="higher").tolist()
    return Cell(rows, threads, float(walls_ms.mean()), p50, p95, p99, len(walls_s))
