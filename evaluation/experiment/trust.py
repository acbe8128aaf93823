"""Experiment «trust»: real runs recorded, run again in the simulator, and compared."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from matplotlib.figure import Figure
from msgspec import Meta

from core.config import ConfigError, Section, load
from evaluation import cache, recording
from evaluation.admin import ControlPlaneError
from evaluation.experiment.finding import Cell, Finding, Goal, Plot, Table, machine
from evaluation.experiment.kinds import Options
from evaluation.measure import Stage
from evaluation.process import StartError
from evaluation.recording import Recording
from evaluation.simulation import replay
from evaluation.simulation.replay import Run

CORES_GOAL, MISSED_GOAL = 0.10, 0.01
# With less of the host left over, others decided how long an execution took.
_BUSY = 0.9

_QUANTITIES: dict[str, Callable[[Run], float]] = {
    "mean quota, millicores": lambda run: 1000 * run.mean_cores,
    "on time, %": lambda run: 100 * run.on_time,
    "late, %": lambda run: 100 * run.late,
    "refused, %": lambda run: 100 * run.refused,
    "median latency, ms": lambda run: run.p50_ms,
    "95 % latency, ms": lambda run: run.p95_ms,
    "99 % latency, ms": lambda run: run.p99_ms,
    "resizes": lambda run: run.resizes,
    "rows of an execution": lambda run: run.mean_batch,
}


class Settings(Section, frozen=True, kw_only=True):
    """A whole trust.toml."""

    kind: Literal["trust"]
    title: str
    question: str
    service: Literal["vision", "magika"]
    seconds: Annotated[float, Meta(gt=0)]
    seeds: Annotated[list[int], Meta(min_length=1)]
    replays: Annotated[int, Meta(ge=1)]


def run(toml: Path, output: Path, options: Options) -> Finding:
    """Record a run for each seed, into `output` too, and replay each. Raises ConfigError, KeyboardInterrupt."""
    settings = load(toml, Settings)
    recordings = []
    for number, seed in enumerate(settings.seeds, 1):
        name = f"recording {number} of {len(settings.seeds)}"

        def progress(stage: Stage, name: str = name) -> None:
            options.progress(f"{name}: {stage.name} {stage.done}/{stage.total}")

        wanted = recording.Options(
            cache.models(), settings.service, seconds=options.seconds or settings.seconds, seed=seed
        )
        try:
            recordings.append(asyncio.run(recording.record(wanted, progress)))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        except (StartError, ControlPlaneError) as error:
            raise ConfigError(str(error)) from error
        recordings[-1].write(output / f"trust-{number}.json.gz")
    options.progress("replaying")
    return compare(settings, recordings, output, options.command)


def compare(settings: Settings, recordings: Sequence[Recording], output: Path, command: str) -> Finding:
    """Replay each recording and say how far that is from what was measured; the plot goes to `output`."""
    pairs = [
        (replay.measured(one), [replay.replay(one, seed) for seed in range(settings.replays)])
        for one in recordings
    ]
    picture = "trust-quota.png"
    _plot(pairs, output / picture)
    return Finding(
        experiment="trust",
        title=settings.title,
        question=settings.question,
        command=command,
        settings={
            **machine(),
            **{name: text for name, text in recordings[0].about.items() if name not in machine()},
        },
        tables=[
            _table(f"Recording {number}", real, replays, one)
            for number, (one, (real, replays)) in enumerate(zip(recordings, pairs, strict=True), 1)
        ],
        goals=goals(
            [pair for one, pair in zip(recordings, pairs, strict=True) if one.host_busy_share <= _BUSY]
        ),
        plots=[Plot(file=picture, caption="CPU quota over time, measured and in the first replay.")],
        notes=_notes(recordings),
    )


def goals(pairs: Sequence[tuple[Run, Sequence[Run]]]) -> list[Goal]:
    """Compare each measured run with the mean of its replays: all have to be near. No runs, no goals."""
    if not pairs:
        return []
    cores = [
        float(np.mean([one.mean_cores for one in replays])) / real.mean_cores - 1 for real, replays in pairs
    ]
    missed = [float(np.mean([one.missed for one in replays])) - real.missed for real, replays in pairs]
    return [
        Goal(
            goal=f"mean cores within {CORES_GOAL:.0%}",
            measured=", ".join(f"{off:+.1%}" for off in cores),
            met=all(abs(off) <= CORES_GOAL for off in cores),
        ),
        Goal(
            goal=f"late and refused within {100 * MISSED_GOAL:g} percentage point",
            measured=", ".join(f"{100 * off:+.2f}" for off in missed),
            met=all(abs(off) <= MISSED_GOAL for off in missed),
        ),
    ]


def _table(title: str, real: Run, replays: Sequence[Run], one: Recording) -> Table:
    rows: list[list[Cell]] = []
    for name, of in _QUANTITIES.items():
        values = [of(run) for run in replays]
        rows.append(
            [name, *(_finite(v) for v in (of(real), float(np.mean(values)), min(values), max(values)))]
        )
    return Table(
        title=title,
        columns=["", "measured", "simulated, mean", "least", "most"],
        rows=rows,
        note=f"{real.requests} requests in {one.seconds:.0f} s, {len(replays)} replays; latencies from the queue to "
        f"the answer. Clients saw {one.client.on_time} of {one.client.offered} on time, {one.client.dead} dead on "
        f"arrival. The host was {one.host_busy_share:.0%} busy.",
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _notes(recordings: Sequence[Recording]) -> list[str]:
    notes = [
        "Both sides run the same planner, governor, resizing rule, queue and batcher, from the same start. The "
        "simulator does not know CFS periods (a quota slows it evenly), the time that a plan takes, or the event "
        "loop's share of a worker's quota; a second replay differs from the first only in the draws.",
    ]
    if busy := [str(n) for n, one in enumerate(recordings, 1) if one.host_busy_share > _BUSY]:
        notes.append(
            f"The host was more than {_BUSY:.0%} busy in recording {', '.join(busy)}: no claim is made of it."
        )
    return notes


def _plot(pairs: Sequence[tuple[Run, Sequence[Run]]], path: Path) -> None:
    figure = Figure(figsize=(8, 2.2 * len(pairs)), layout="constrained")
    axes = figure.subplots(len(pairs), squeeze=False)[:, 0]
    for number, (axis, (real, replays)) in enumerate(zip(axes, pairs, strict=True), 1):
        for run, label in ((real, "measured"), (replays[0], "simulated")):
            edges = [0.0, *(span.until_s for span in run.quota)]
            axis.stairs([span.cores[0] for span in run.quota], edges, baseline=None, label=label)
        axis.set(ylabel="cores", title=f"Recording {number}", ylim=(0, None))
        axis.legend(loc="lower right")
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=110)
