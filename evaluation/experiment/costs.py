"""Experiment «costs»: what Sponge itself takes of a machine, and how soon a decision of it is in force."""

import tempfile
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from core.config import ConfigError, Section, load
from evaluation import process
from evaluation.experiment import (
    cost_plots,
    cost_tables,
    effect_time,
    footprint,
    telemetry_size,
)
from evaluation.experiment.cost_tables import EFFECT_GOALS_MS, Measured
from evaluation.experiment.effect_time import Effect
from evaluation.experiment.finding import Finding, Plot, machine
from evaluation.experiment.footprint import ControlPlane, Worker
from evaluation.experiment.kinds import Options
from evaluation.experiment.spinner import Unavailable
from evaluation.process import StartError

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]


class Telemetry(Section, frozen=True, kw_only=True):
    """Samples to weigh."""

    rates: list[Annotated[float, Meta(ge=0)]]
    queue: list[NonNegative]


class Footprint(Section, frozen=True, kw_only=True):
    """Planes to weigh, for how long."""

    workers: list[NonNegative]
    rate: Annotated[float, Meta(ge=0)]
    seconds: Seconds
    max_batch: Positive


class EffectTimes(Section, frozen=True, kw_only=True):
    """How often to resize."""

    resizes: Positive


class Settings(Section, frozen=True, kw_only=True):
    """A whole costs.toml."""

    kind: str
    title: str
    question: str
    seed: int
    telemetry: Telemetry
    footprint: Footprint
    effect: EffectTimes


def run(toml: Path, output: Path, options: Options) -> Finding:
    """Measure everything, one after the other. Raises ConfigError."""
    settings = load(toml, Settings)
    host = footprint.HostLoad()
    try:
        measured = measure(settings, options)
    except StartError as error:
        raise ConfigError(str(error)) from error
    plots = []
    if measured.effects:
        effects = "costs-effect.png"
        cost_plots.effects(output / effects, measured.effects)
        plots.append(Plot(file=effects, caption="Time until the larger quota is in force, share of resizes."))
    return Finding(
        experiment=toml.stem,
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings=machine() | {"host": f"{host.share():.0%} busy", "seed": str(settings.seed)},
        tables=cost_tables.tables(measured, settings.footprint.rate, settings.footprint.max_batch),
        goals=cost_tables.goals(measured),
        plots=plots,
        notes=[*cost_tables.notes(measured), *(f"Not measured: {text}." for text in measured.unavailable)],
    )


def measure(settings: Settings, options: Options) -> Measured:
    """Raises StartError."""
    sizes = list(telemetry_size.samples(settings.telemetry.rates, settings.telemetry.queue))
    with tempfile.TemporaryDirectory(prefix="sponge-costs-") as folder:
        control_planes, workers, effects, unavailable = process.run(
            _processes(Path(folder), settings, options)
        )
    return Measured(
        sizes=sizes,
        control_planes=control_planes,
        workers=workers,
        effects=effects,
        unavailable=unavailable,
    )


async def _processes(
    folder: Path, settings: Settings, options: Options
) -> tuple[list[ControlPlane], list[Worker], list[Effect], list[str]]:
    """Measure what takes real processes; everything started ends."""
    seconds = options.seconds or settings.footprint.seconds
    options.progress("making models")
    workers = []
    for model in footprint.demo_models(folder):
        options.progress(f"weighing a worker of {model.service}")
        workers.append(await footprint.worker(folder, model, settings.footprint.max_batch, seconds))
    control_planes = []
    for count in settings.footprint.workers:
        options.progress(f"weighing a control plane with {count} workers")
        control_planes.append(await footprint.control_plane(folder, count, settings.footprint.rate, seconds))
    effects, unavailable = [], []
    for way in EFFECT_GOALS_MS:
        try:
            effects += await effect_time.measure(
                way, folder, settings.effect.resizes, settings.seed, options.progress
            )
        except Unavailable as error:
            unavailable.append(f"actuator {way.value}: {error}")
    return control_planes, workers, effects, unavailable
