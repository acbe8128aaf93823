"""`sponge profile`: a model's executions measured, in the terminal and as a file that `sponge simulate` reads."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dataplane.execution import EngineError, ModelError

if TYPE_CHECKING:  # it brings ONNX Runtime, which no other command should wait for
    from evaluation.profiling import Profile

_MAX_THREADS, _MAX_BATCH, _MAX_INSTANCES = 1024, 65_536, 256
_MIN_QUOTA, _MAX_QUOTA = 50, 1_024_000  # millicores; a kernel takes no less of a period of 20 ms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `sponge profile`."""
    cpus = len(os.sched_getaffinity(0))
    threads = [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= cpus]
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument(
        "--threads",
        type=partial(_counts, most=_MAX_THREADS),
        default=threads,
        metavar="LIST",
        help=f"intra-op threads, 1 always among them; here: {','.join(map(str, threads))}",
    )
    parser.add_argument(
        "--batches",
        type=partial(_counts, most=_MAX_BATCH),
        default=[1, 2, 4, 8],
        metavar="LIST",
        help="rows of an execution, 1 always among them; default: 1,2,4,8",
    )
    parser.add_argument(
        "--instances",
        type=partial(_counts, most=_MAX_INSTANCES),
        default=[1],
        metavar="LIST",
        help="executions at a time, 1 always among them; default: 1",
    )
    parser.add_argument(
        "--quotas",
        type=_quotas,
        default=[],
        metavar="LIST",
        help="millicores, each measured beside no quota, as 500,1000; takes a control group; default: none",
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=2.0, help="for each combination of these; default: 2"
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        type=_shape,
        metavar="INPUT=SIZES",
        help="sizes of one row of an input, where the file leaves them open: image=224,224,3",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: MODEL.profile.csv, here")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="a picture; default: beside the output, as PNG"
    )


def run(parsed: argparse.Namespace, root: Path = Path("/")) -> int:
    """Measure, write and print; 2 and one line on stderr for a model that cannot be measured.

    `root` is where control groups are looked for.
    """
    from evaluation import profile_plot, profiling
    from evaluation.slices import QuotaError

    written, flag = Path(), "--output"
    output: Path = parsed.output or Path(f"{parsed.model.stem}.profile.csv")
    plot: Path = parsed.plot or output.with_suffix(".png")
    grid = profiling.Grid(parsed.threads, parsed.batches, parsed.instances, parsed.quotas)
    console = Console()
    try:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
        ) as bar:
            task = bar.add_task(f"profiling {parsed.model.name}", total=None)
            profile = profiling.measure(
                parsed.model,
                grid,
                parsed.seconds,
                dict(parsed.shape),
                lambda done, total: bar.update(task, completed=done, total=total),
                root,
            )
        written = output
        profile.write(output)
        written, flag = plot, "--plot"
        profile_plot.plot(plot, parsed.model.stem, profile.cells)
    except (ModelError, EngineError) as error:
        print(f"sponge profile: {error}{_advice(error)}", file=sys.stderr)
        return 2
    except QuotaError as error:
        print(f"sponge profile: --quotas: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"sponge profile: {flag}: {written}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:  # a suffix that is no picture's
        print(f"sponge profile: {flag}: {written}: {error}", file=sys.stderr)
        return 2
    console.print(_table(profile))
    console.print(f"profile: {output}\nplot: {plot}", highlight=False, soft_wrap=True)
    return 0


def _advice(error: Exception) -> str:
    """Sizes of a row are a setting of workers, and a flag here."""
    return " (here: --shape INPUT=SIZES)" if "one row" in str(error) else ""


def _table(profile: "Profile") -> Table:
    wide = len({(cell.instances, cell.millicores) for cell in profile.cells}) > 1
    # All of them would not fit into a terminal; the file has all.
    names = ("instances", "quota", "throttled") if wide else ("p50 ms", "ms a row")
    table = Table(
        "rows",
        "threads",
        *names,
        "mean ms",
        "p95 ms",
        "p99 ms",
        "runs",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in table.columns:
        column.justify = "right"
    for cell in profile.cells:
        quota = (str(cell.millicores), f"{cell.throttled_share:.0%}") if cell.millicores else ("–", "–")
        more = (str(cell.instances), *quota) if wide else _ms(cell.p50_ms, cell.mean_ms / cell.rows)
        times = _ms(cell.mean_ms, cell.p95_ms, cell.p99_ms)
        table.add_row(str(cell.rows), str(cell.threads), *more, *times, str(cell.count))
    return table


def _ms(*times_ms: float) -> tuple[str, ...]:
    return tuple(f"{time_ms:.2f}" for time_ms in times_ms)


def _counts(text: str, most: int) -> list[int]:
    """Whole numbers with commas between, and 1, which every reader of a profile expects."""
    counts = {int(part) for part in text.split(",")}
    if not all(1 <= count <= most for count in counts):
        raise argparse.ArgumentTypeError(f"expected numbers of 1 to {most}, as in 1,2,4, got {text}")
    return sorted({1, *counts})


def _quotas(text: str) -> list[int]:
    """Whole millicores with commas between."""
    quotas = {int(part) for part in text.split(",")}
    if not all(_MIN_QUOTA <= quota <= _MAX_QUOTA for quota in quotas):
        raise argparse.ArgumentTypeError(
            f"expected millicores of {_MIN_QUOTA} to {_MAX_QUOTA}, as in 500,1000, got {text}"
        )
    return sorted(quotas)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds above 0 and up to 3600, got {text}")
    return seconds


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not (name and shape) or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"expected INPUT=SIZES, as in image=224,224,3, got {text}")
    return name, shape
