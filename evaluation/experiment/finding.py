"""What an experiment found: the one document that its report, its page and its summary are made of."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Self

import msgspec

Cell = str | int | float | None

_PACKAGES = ("sponge-serving", "grpcio", "numpy", "onnxruntime", "ortools")


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Numbers of one kind; every row has a cell for each column, None where there is no such number."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.title}: expected {len(self.columns)} cells in each row")


class Goal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something promised, what was measured, and whether that keeps the promise; None where nothing tried it."""

    goal: str
    measured: str
    met: bool | None


class Plot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A picture beside the document; `file` is its name there."""

    file: str
    caption: str

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file:
            raise ValueError(f"expected a name without folders, got {self.file!r}")


class Finding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One experiment as run once. `command` reproduces it; `settings` are printed as they are."""

    experiment: str
    title: str
    question: str
    command: str
    settings: Mapping[str, str]
    tables: Sequence[Table]
    goals: Sequence[Goal] = ()
    plots: Sequence[Plot] = ()
    notes: Sequence[str] = ()  # each a sentence or two, for people: where it loses, what limits it

    def __post_init__(self) -> None:
        if len({table.title for table in self.tables}) < len(self.tables):
            raise ValueError("tables: expected titles that differ")

    def write(self, directory: Path) -> Path:
        """Write `directory`/EXPERIMENT.json, and give its path. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.experiment}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote. Raises OSError, and ValueError, naming the file, for anything else."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}: {error}") from error


def machine() -> dict[str, str]:
    """Where and with what this runs, as `settings`."""
    found = {
        "machine": f"{_cpus()}, {platform.system()} {platform.release()}",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in _PACKAGES)]
        ),
    }
    if commit := _commit():
        found["commit"] = commit
    return found


def _cpus() -> str:
    return f"{len(os.sched_getaffinity(0))} CPUs, {platform.machine()}"


def _commit() -> str:
    """The commit of the checkout this is run from, marked where files differ; empty outside of one."""
    root = Path(__file__).resolve().parents[2]
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() if described.returncode == 0 else ""
