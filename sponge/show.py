"""A measured run in the terminal: progress, then the table and where the report is."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from evaluation import report, table
from evaluation.admin import ControlPlaneError
from evaluation.bandwidth import TraceError
from evaluation.measure import Stage
from evaluation.process import StartError
from evaluation.result import Result

Measure = Callable[[Callable[[Stage], None]], Awaitable[Result]]


def measured(measure: Measure, output: Path | None, *, as_json: bool) -> int:
    """Run `measure` under a progress bar, write its report into `output`, print its numbers.

    Exit code 2 and one line if it cannot be run. The bar and the table of a JSON run go to standard error.
    Raises KeyboardInterrupt once it has stopped for Ctrl-C, SIGTERM or SIGHUP.
    """
    console = Console(stderr=as_json)
    try:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
        ) as bar:
            result = asyncio.run(_run(measure, bar))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except (StartError, ControlPlaneError, TraceError, OSError) as error:
        print(f"sponge: {error}", file=sys.stderr)
        return 2
    for name, value in result.settings.items():
        console.print(f"[dim]{name}:[/dim] {value}", highlight=False)
    console.print(table.rich_table(result))
    if output is not None:
        path = report.write(result, output)
        console.print(f"report: {path}", highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(table.as_json(result)))
    return 0


async def _run(measure: Measure, bar: Progress) -> Result:
    tasks: dict[str, TaskID] = {}

    def show(stage: Stage) -> None:
        if stage.name not in tasks:
            for task in bar.tasks:  # the stages before are over
                bar.update(task.id, completed=task.total)
                bar.stop_task(task.id)
            tasks[stage.name] = bar.add_task(stage.name, total=stage.total)
        bar.update(tasks[stage.name], completed=stage.done)

    return await measure(show)
