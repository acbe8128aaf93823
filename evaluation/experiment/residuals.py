"""Experiment «residuals»: executions under quotas, predicted from executions without one."""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from controlplane.latency import LatencyModel
from core.cgroup import MIN_QUOTA_US, CgroupError
from core.config import ConfigError, Section, load
from dataplane.execution import EngineError, ModelError
from evaluation import slices
from evaluation.experiment import footprint, residual, residual_models, residual_plot, residual_tables
from evaluation.experiment.finding import Finding, Plot, machine
from evaluation.experiment.kinds import Options
from evaluation.experiment.residual import Patience, Residual
from evaluation.slices import PERIOD_US, QuotaError, Setting

Counts = Annotated[list[Annotated[int, Meta(ge=1, le=64)]], Meta(min_length=1)]
Seconds = Annotated[float, Meta(gt=0)]
_LEAST_QUOTA = -(-1000 * MIN_QUOTA_US // PERIOD_US)


class Settings(Section, frozen=True, kw_only=True):
    """A whole residuals.toml."""

    kind: Literal["residuals"]
    title: str
    question: str
    seed: Annotated[int, Meta(ge=0)]
    models: Annotated[list[Literal["resnet50", "squeezenet", "minilm", "silero-vad"]], Meta(min_length=1)]
    instances: Counts
    threads: Counts
    batches: Counts
    quotas_millicores: Annotated[list[Annotated[int, Meta(ge=_LEAST_QUOTA)]], Meta(min_length=1)]
    rounds: Annotated[int, Meta(ge=1)]
    executions: Annotated[int, Meta(ge=1)]
    least_seconds: Seconds
    most_seconds: Seconds
    notes: tuple[str, ...] = ()


def run(toml: Path, output: Path, options: Options) -> Finding:
    """Measure each model, and predict it. Raises ConfigError."""
    settings = load(toml, Settings)
    if 1 not in settings.instances:
        raise ConfigError(f"{toml}: instances: expected 1 among them, which the others are compared with")
    host = footprint.HostLoad()
    found: dict[str, list[Residual]] = {}
    learned: dict[str, LatencyModel] = {}
    missing = []
    with tempfile.TemporaryDirectory(prefix="sponge-residuals-") as folder:
        for name in settings.models:
            try:
                learned[name], found[name] = _measure(toml, Path(folder), name, settings, options)
            except ModuleNotFoundError as error:
                missing.append(f"Not measured: {error}.")
            except (QuotaError, CgroupError, EngineError, ModelError) as error:
                raise ConfigError(f"{name}: {error}") from error
    if not found:
        raise ConfigError(" ".join(missing))
    file = f"{toml.stem}.png"
    residual_plot.plot(output / file, found)
    return Finding(
        experiment=toml.stem,
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings=machine()
        | {
            "settings": f"instances {_told(settings.instances)}; threads {_told(settings.threads)}; rows "
            f"{_told(settings.batches)}; millicores {_told(settings.quotas_millicores)}, of periods of "
            f"{PERIOD_US // 1000} ms",
            "load": "each instance executes without a pause, on zeros",
            "rounds": f"{settings.rounds}, in random order, together {settings.executions} executions of each "
            f"setting and instance within {settings.least_seconds:g} to "
            f"{options.seconds or settings.most_seconds:g} s; seed {settings.seed}",
            "host": f"{host.share():.0%} busy",
        },
        tables=residual_tables.tables(found, learned),
        goals=residual_tables.goals(found),
        plots=[
            Plot(
                file=file,
                caption="95 % quantiles under quotas, predicted against observed; dots that are filled are settings "
                "that the planner could choose. Grey: within 15 %.",
            )
        ],
        notes=[*settings.notes, *residual_tables.notes(found), *missing],
    )


def _measure(
    toml: Path, folder: Path, name: str, settings: Settings, options: Options
) -> tuple[LatencyModel, list[Residual]]:
    path, shapes = residual_models.build(name, folder)
    most_s = options.seconds or settings.most_seconds
    patience = Patience(settings.rounds, settings.executions, min(settings.least_seconds, most_s), most_s)
    every = [
        Setting(rows, threads, instances, millicores)
        for millicores in (0, *settings.quotas_millicores)
        for instances in settings.instances
        for threads in settings.threads
        for rows in settings.batches
    ]
    random = np.random.default_rng(settings.seed)
    with slices.child(path, shapes, len(settings.threads)) as runs:
        observed = residual.measure(
            runs,
            every,
            patience,
            random,
            lambda done, total: options.progress(f"{toml.stem}: {name}: {done} of {total}"),
        )
    model = residual.learned(observed, len(os.sched_getaffinity(0)))
    return model, residual.residuals(model, observed)


def _told(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
