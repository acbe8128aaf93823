"""Experiment «endurance»: a worker under load that is resized every second, and its memory in the long run."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from matplotlib.figure import Figure
from msgspec import Meta

from core.config import ConfigError, Section, load
from evaluation import direct, journal
from evaluation.endurance import bed, memory, steady, swaps
from evaluation.endurance.memory import Levels, Reading
from evaluation.endurance.seesaw import CONFIGURATIONS
from evaluation.endurance.steady import Answers
from evaluation.endurance.swaps import Stall, Swap
from evaluation.experiment.finding import Finding, Goal, Plot, Table, machine
from evaluation.experiment.kinds import Options
from evaluation.process import StartError
from evaluation.serving import client, subjects
from evaluation.serving.recipes import Dialect
from evaluation.serving.subjects import Subject

GROWTH_GOAL = 0.03
_TIMEOUT_S = 10.0
_LEAST_SECONDS = 5.0
# CPU of gRPC and Python for one request, about; and what the event loop needs of a small quota.
_OVERHEAD_S, _LOOP_CORES = 0.0015, 0.1
_SAMPLE_S = 0.25
_CLIENTS = 16

Positive = Annotated[int, Meta(ge=1)]
Progress = Callable[[str], None]


class Resize(Section, frozen=True, kw_only=True):
    """A worker under a Poisson load that the smallest of its configurations is just able to take."""

    model: str
    seconds: Annotated[float, Meta(gt=0)]
    utilisation: Annotated[float, Meta(gt=0, le=1)]  # of the smallest configuration, without batches


class Memory(Section, frozen=True, kw_only=True):
    """A worker under as much load as clients that wait for their answers make."""

    model: str
    requests: Positive
    swaps: Positive
    after: Positive  # requests, when memory is looked at first


class Settings(Section, frozen=True, kw_only=True):
    """A whole endurance.toml."""

    kind: Literal["endurance"]
    title: str
    question: str
    resize: Resize
    memory: Memory


def run(toml: Path, output: Path, options: Options) -> Finding:
    """Run both parts. Raises ConfigError, KeyboardInterrupt."""
    settings = load(toml, Settings)
    try:
        return asyncio.run(_run(settings, output, options))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except (StartError, OSError) as error:
        raise ConfigError(str(error)) from error


async def _run(settings: Settings, output: Path, options: Options) -> Finding:
    resize, lasting = settings.resize, settings.memory
    share = 1.0
    if options.seconds is not None:
        share = max(options.seconds, _LEAST_SECONDS) / resize.seconds
    with tempfile.TemporaryDirectory(prefix="sponge-endurance-") as name:
        folder = Path(name)
        subject = subjects.build(resize.model, folder)
        resized = await resizing(
            subject, folder / "resize", resize.seconds * share, resize.utilisation, options.progress
        )
        subject = subjects.build(lasting.model, folder)
        remembered = await remembering(
            subject,
            folder / "memory",
            requests=max(1, round(lasting.requests * share)),
            swaps=max(1, round(lasting.swaps * share)),
            after=max(1, round(lasting.after * share)),
            progress=options.progress,
        )
    plot = _plot(remembered.readings, output / "endurance-memory.png")
    return Finding(
        experiment="endurance",
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings=machine()
        | {
            "configurations, in turn": ", ".join(
                f"{c.cpu_millicores} m: {c.instances} × {c.threads}, batch {c.max_batch}"
                for c in CONFIGURATIONS
            ),
        },
        tables=[resized.table(), remembered.table()],
        goals=[*resized.goals(), remembered.goal()],
        plots=[plot],
    )


class Resized:
    """What a while of swaps did to those who were served meanwhile."""

    def __init__(
        self,
        answers: Answers,
        rate: float,
        applied: Sequence[Swap],
        beside: Sequence[Stall],
        elsewhere: Stall,
    ) -> None:
        self.answers = answers
        self.applied = applied
        self.beside = beside
        self._rate = rate
        self._elsewhere = elsewhere

    @property
    def worst(self) -> float:
        """The longest wait beside an idle slot near a swap, over the longest execution near it."""
        return max((stall.idle_s / stall.batch_s for stall in self.beside if stall.batch_s), default=0.0)

    def table(self) -> Table:
        """Waits, gaps and executions, beside swaps and elsewhere."""
        parts = {
            "longest wait beside an idle slot": [stall.idle_s for stall in self.beside],
            "longest time without an end, somebody waiting": [stall.gap_s for stall in self.beside],
            "longest execution": [stall.batch_s for stall in self.beside],
        }
        elsewhere = self._elsewhere
        apart = (elsewhere.idle_s, elsewhere.gap_s, elsewhere.batch_s)
        return Table(
            title="Beside a swap, milliseconds",
            columns=["of each swap", "median", "99 %", "most", "most elsewhere"],
            rows=[
                [name, *(1000 * float(value) for value in (*np.quantile(seen, [0.5, 0.99, 1.0]), other))]
                for (name, seen), other in zip(parts.items(), apart, strict=True)
            ],
            note=f"{len(self.applied)} swaps, {self.answers.total} requests at {self._rate:.0f} a second. A wait "
            "counts while a slot stands idle. A swap's time begins with its decision, before a session is built, and "
            "ends an execution after it is in force.",
        )

    def goals(self) -> list[Goal]:
        """What is promised of resizing."""
        failed = ", ".join(f"{count} {status}" for status, count in self.answers.failed.items())
        return [
            Goal(
                goal="no failed request while it is resized every second",
                measured=f"{failed or 'none'} of {self.answers.total}, {len(self.applied)} swaps",
                met=not self.answers.failed,
            ),
            Goal(
                goal="no answer delayed by a swap itself by more than one batch",
                measured=f"{self.worst:.2f} of the longest batch beside it at most",
                met=self.worst <= 1.0,
            ),
        ]


async def resizing(
    subject: Subject, folder: Path, seconds: float, utilisation: float, progress: Progress
) -> Resized:
    """Put a worker under load that is resized every second, for so long. Raises StartError."""
    smallest = CONFIGURATIONS[0].cpu_millicores / 1000
    rate = utilisation * (smallest - _LOOP_CORES) / (_row_s(subject) + _OVERHEAD_S)
    async with bed.seesawing(subject, folder, journal=True) as worker:
        began_s = time.monotonic()

        def over(answers: Answers) -> bool:
            progress(f"resize: {time.monotonic() - began_s:.0f} of {seconds:.0f} s, {answers.total} answers")
            return time.monotonic() - began_s >= seconds

        async with client.connect(Dialect.GRPC, worker.address) as way:
            answers = await steady.offer(way, subject, rate, _TIMEOUT_S, seed=1, over=over)
        ended_s = time.monotonic()
    applied = [swap for swap in worker.swaps() if began_s <= swap.applied_s <= ended_s]
    pages = journal.read(worker.journal)
    beside, elsewhere = swaps.stalls(applied, pages.served, pages.executions)
    return Resized(answers, rate, applied, beside, elsewhere)


def _row_s(subject: Subject) -> float:
    """CPU seconds of one row on one thread."""
    session = direct.session(subject.path)
    direct.run(session, subject.payloads[0].rows)
    before = time.thread_time()
    for payload in subject.payloads:
        direct.run(session, payload.rows)
    return (time.thread_time() - before) / len(subject.payloads)


class Remembered:
    """The memory of a worker in the long run."""

    def __init__(self, answers: Answers, readings: list[Reading], peak_bytes: int, after: int) -> None:
        self.answers = answers
        self.readings = readings
        self._peak_bytes = peak_bytes
        self._after = after

    @property
    def levels(self) -> Levels:
        """Raises ValueError for readings that are too few."""
        return memory.levels(self.readings, self._after)

    def table(self) -> Table:
        """Levels in MiB."""
        levels = self.levels
        last = self.readings[-1]
        mib = [
            value / 2**20
            for value in (levels.early_bytes, levels.late_bytes, levels.most_bytes, self._peak_bytes)
        ]
        return Table(
            title="Memory of the worker",
            columns=[
                "requests",
                "swaps",
                "MiB early",
                "MiB at the end",
                "MiB at most",
                "MiB ever",
                "growth, %",
            ],
            rows=[[last.requests, last.swaps, *mib, 100 * levels.growth]],
            note=f"Resident memory, medians: early from {self._after} to {2 * self._after} requests, at the end over "
            "as many. Ever includes loading and warming up.",
        )

    def goal(self) -> Goal:
        """What is promised of memory."""
        last = self.readings[-1]
        growth = self.levels.growth
        return Goal(
            goal=f"memory after {last.requests} requests and {last.swaps} swaps within {GROWTH_GOAL:.0%} of that after "
            f"{self._after} requests",
            measured=f"{growth:+.1%}",
            met=abs(growth) <= GROWTH_GOAL and not self.answers.failed,
        )


async def remembering(
    subject: Subject, folder: Path, *, requests: int, swaps: int, after: int, progress: Progress
) -> Remembered:
    """Watch the memory of a worker over so many requests and swaps at least. Raises StartError."""
    readings: list[Reading] = []
    async with bed.seesawing(subject, folder, journal=False) as worker:
        pid, answers = worker.process.process.pid, Answers()
        swapped = 0

        def over(so_far: Answers) -> bool:
            nonlocal answers
            answers = so_far
            return so_far.total >= requests and swapped >= swaps

        async def watch() -> None:
            nonlocal swapped
            while True:
                swapped = len(worker.swaps())
                readings.append(Reading(answers.total, swapped, memory.rss_bytes(pid)))
                progress(f"memory: {answers.total} of {requests} requests, {swapped} of {swaps} swaps")
                await asyncio.sleep(_SAMPLE_S)

        watching = asyncio.create_task(watch())
        try:
            async with client.connect(Dialect.GRPC, worker.address) as way:
                await steady.ask(way, subject, _CLIENTS, _TIMEOUT_S, over)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        readings.append(Reading(answers.total, len(worker.swaps()), memory.rss_bytes(pid)))
        peak_bytes = memory.peak_bytes(pid)
    return Remembered(answers, readings, peak_bytes, after)


def _plot(readings: Sequence[Reading], path: Path) -> Plot:
    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    axis.plot([one.requests for one in readings], [one.rss_bytes / 2**20 for one in readings])
    axis.set(xlabel="requests", ylabel="resident, MiB", ylim=(0, None))
    figure.savefig(path, dpi=110)
    return Plot(file=path.name, caption="Memory of a worker that is resized every second")
