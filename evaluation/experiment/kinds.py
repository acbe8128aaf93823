"""Which code runs which kind of experiment, and with what it is called."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, cast

import msgspec

from core.config import ConfigError, load
from evaluation.experiment.finding import Finding

Kind = Literal[
    "simulation",
    "bench",
    "costs",
    "cfs-period",
    "trust",
    "learning",
    "residuals",
    "endurance",
    "overload",
    "planner",
    "monotony",
    "resizes",
    "faults",
    "soak",
]

# Imported only when one is run: each needs libraries that the others do not.
_RUNS: dict[Kind, str] = {
    "simulation": "evaluation.experiment.simulated",
    "bench": "evaluation.bench.experiment",
    "costs": "evaluation.experiment.costs",
    "cfs-period": "evaluation.experiment.cfs_period",
    "trust": "evaluation.experiment.trust",
    "learning": "evaluation.experiment.learning",
    "residuals": "evaluation.experiment.residuals",
    "endurance": "evaluation.endurance.experiment",
    "overload": "evaluation.serving.overload",
    "resizes": "evaluation.experiment.resizes",
    "planner": "evaluation.experiment.planning",
    "monotony": "evaluation.experiment.monotony",
    "faults": "evaluation.faults.experiment",
    "soak": "evaluation.faults.soaking",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of any experiment."""

    command: str  # that reproduces it
    traces: Path | None  # folder that the paths in an experiment are relative to; None if nobody named one
    jobs: int  # processes at most
    seconds: float | None  # of each run instead of what the experiment says; None for that
    progress: Callable[[str], None]  # shows a line, in the place of the one before
    only: Sequence[str] = ()  # parts of an experiment that has parts by name; none for all


# Takes the experiment's TOML, the directory for plots, and the options. Raises ConfigError for what the user can
# mend, TOML and folders included, and KeyboardInterrupt once all that it started has ended.
Run = Callable[[Path, Path, Options], Finding]


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """What every experiment's TOML begins with; the rest is its kind's own."""

    kind: Kind
    title: str
    question: str


def run_of(kind: Kind) -> Run:
    """Import what runs experiments of that kind."""
    return cast("Run", importlib.import_module(_RUNS[kind]).run)


def shipped() -> dict[str, Path]:
    """Give the experiments of this distribution by name."""
    folder = Path(str(resources.files("evaluation"))) / "experiments"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(name: str) -> Path:
    """Give the file of an experiment that is shipped, or of one named by its path. Raises ConfigError."""
    known = shipped()
    if name in known:
        return known[name]
    if name.endswith(".toml"):
        return Path(name)
    raise ConfigError(f"{name}: expected the path of a TOML file, or one of {', '.join(known)}")


def read(path: Path) -> Experiment:
    """Read what all kinds have. Raises ConfigError."""
    return load(path, Experiment)
