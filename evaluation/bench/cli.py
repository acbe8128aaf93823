"""`sponge bench`: flags to rounds, and what they recorded to tables."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from core.config import ConfigError, convert
from evaluation.admin import ControlPlaneError
from evaluation.bandwidth import TraceError
from evaluation.bench import description
from evaluation.bench.description import Description
from evaluation.bench.policy import PolicyError
from evaluation.bench.summary import recorded, summarise
from evaluation.experiment import text
from evaluation.experiment.finding import Finding
from evaluation.measure import Stage
from evaluation.netns import NetworkError
from evaluation.process import StartError
from evaluation.simulation.offered import RatesError

# What a user can mend, each with one line.
MENDABLE = (
    ConfigError,
    PolicyError,
    RatesError,
    TraceError,
    StartError,
    ControlPlaneError,
    NetworkError,
    OSError,
)

_NOT_SHOWN = ("run", "models", "output", "recorded", "json")
_ERASE = "\r\x1b[K"


def run(parsed: argparse.Namespace) -> int:
    """Run all rounds, or read what a bench recorded; 2 and one line on stderr for what the user can mend."""
    try:
        directory: Path = parsed.recorded or parsed.output
        if parsed.recorded is None:
            _measure(parsed)
        finding = summarise(*recorded(directory), directory)
        written = finding.write(directory)
    except (*MENDABLE, ValueError) as error:
        print(f"sponge bench: {error}", file=sys.stderr)
        return 2
    _show(finding, written, as_json=parsed.json)
    return 0


def _measure(parsed: argparse.Namespace) -> None:
    given = {name: value for name, value in vars(parsed).items() if name not in _NOT_SHOWN}
    described = convert(given, Description, "flags")
    shown = _Progress()
    try:
        description.measured(described, parsed.models, parsed.output, _command(given), shown)
    finally:
        shown.erase()


def _command(given: Mapping[str, Any]) -> str:
    """What to type for the same rounds; where they go changes none."""
    words = ["sponge", "bench"]
    for name, value in given.items():
        flag = "--policy" if name == "policies" else f"--{name.replace('_', '-')}"
        values: Sequence[Any] = value if isinstance(value, list) else [value]
        for each in values:
            words += [flag] if each is True else [flag, f"{each}"]
    return shlex.join(words)


def _show(finding: Finding, written: Path, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(finding).decode())
        return
    print(f"{text.render(finding)}\n\nfinding: {written}")


class _Progress:
    """On a terminal one line in the place of the one before; nothing otherwise."""

    def __call__(self, stage: Stage) -> None:
        if sys.stderr.isatty():
            print(f"{_ERASE}{line(stage)}", end="", file=sys.stderr, flush=True)

    def erase(self) -> None:
        """Leave nothing of it."""
        if sys.stderr.isatty():
            print(_ERASE, end="", file=sys.stderr, flush=True)


def line(stage: Stage) -> str:
    """Where a measurement is, for people."""
    return f"{stage.name}: {stage.done} of {stage.total}" if stage.total > 1 else stage.name
