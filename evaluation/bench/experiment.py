"""Experiments on real workers: the kind `bench` of `sponge experiment`."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from core.config import ConfigError, Section, load
from evaluation import cache
from evaluation.bench import description
from evaluation.bench.cli import MENDABLE, line
from evaluation.bench.description import Description
from evaluation.bench.summary import recorded, summarise
from evaluation.bench.workload import DAY
from evaluation.experiment.finding import Finding
from evaluation.experiment.kinds import Options


class Experiment(Section, frozen=True, kw_only=True):
    """A whole experiment's TOML; paths in `bench` are relative to the folder of traces."""

    kind: str
    title: str
    question: str
    bench: Description
    notes: Sequence[str] = ()


def run(toml: Path, output: Path, options: Options) -> Finding:
    """Run all rounds, and give the finding; what they recorded goes to `output`/NAME-recorded.

    Raises ConfigError, and KeyboardInterrupt once all that it started has ended.
    """
    experiment = load(toml, Experiment)
    name = toml.stem
    described = _placed(experiment.bench, name, options.traces)
    if options.seconds is not None:
        described = msgspec.structs.replace(described, seconds=options.seconds)
    directory = output / f"{name}-recorded"
    try:
        description.measured(
            described,
            cache.models(),
            directory,
            options.command,
            lambda stage: options.progress(line(stage)),
        )
        bench, events = recorded(directory)
    except MENDABLE as error:
        raise ConfigError(f"{name}: {error}") from error
    return summarise(
        bench,
        events,
        output,
        name=name,
        title=experiment.title,
        question=" ".join(experiment.question.split()),
        notes=experiment.notes,
    )


def _placed(described: Description, name: str, traces: Path | None) -> Description:
    if described.bandwidth is None and described.arrivals == DAY:
        return described
    if traces is None:
        raise ConfigError(
            f"{name}: needs a folder of measured traces: --traces DIR or SPONGE_TRACES names it"
        )
    return description.within(described, traces)
