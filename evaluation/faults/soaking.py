"""Experiment «soak»: the demo's services for minutes or hours, and what has grown."""

import tempfile
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from core.config import ConfigError, Section, load
from evaluation import process
from evaluation.experiment.finding import Finding, machine
from evaluation.experiment.kinds import Options
from evaluation.faults.experiment import goal, table
from evaluation.faults.soak import soak
from evaluation.process import StartError
from evaluation.simulation.offered import RatesError


class Settings(Section, frozen=True, kw_only=True):
    """A whole soak.toml."""

    kind: Literal["soak"]
    title: str
    question: str
    seconds: Annotated[float, Meta(gt=0)]
    arrivals: str  # a file of rates in the folder of traces


def run(toml: Path, _output: Path, options: Options) -> Finding:
    """Serve for as long as the options say, or else the file. Raises ConfigError, KeyboardInterrupt."""
    settings = load(toml, Settings)
    seconds = options.seconds or settings.seconds
    trace = None if options.traces is None else options.traces / settings.arrivals
    with tempfile.TemporaryDirectory(prefix="sponge-soak-") as folder:
        try:
            outcome = process.run(soak(Path(folder), seconds, trace, progress=options.progress))
        except (StartError, RatesError, OSError, ValueError) as error:
            raise ConfigError(str(error)) from error
    return Finding(
        experiment="soak",
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings=machine(),
        tables=[table([outcome])],
        goals=[goal(outcome)],
    )
