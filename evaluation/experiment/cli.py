"""`sponge experiment`: one experiment by name, its finding into a directory and onto the terminal."""

import argparse
import os
import shlex
import sys
from pathlib import Path

import msgspec

from core.config import ConfigError
from evaluation.experiment import kinds, text
from evaluation.experiment.kinds import Options

_ERASE = "\r\x1b[K"


def run(parsed: argparse.Namespace) -> int:
    """Run one, or list all; 2 and one line on stderr for what the user can mend."""
    try:
        if parsed.list:
            for name, path in kinds.shipped().items():
                print(f"{name:<12} {kinds.read(path).title}")
            return 0
        if parsed.name is None:
            raise ConfigError(
                f"NAME: expected one of {', '.join(kinds.shipped())}, or the path of a TOML file"
            )
        return _run(parsed)
    except (ConfigError, OSError) as error:
        print(f"sponge experiment: {error}", file=sys.stderr)
        return 2


def _run(parsed: argparse.Namespace) -> int:
    path = kinds.find(parsed.name)
    experiment = kinds.read(path)
    if parsed.only and experiment.kind != "faults":
        raise ConfigError(f"--only: expected with experiments of the kind faults, not {experiment.kind}")
    output: Path = parsed.output
    output.mkdir(parents=True, exist_ok=True)
    options = Options(
        command=_command(parsed),
        traces=parsed.traces or _traces(),
        jobs=parsed.jobs or len(os.sched_getaffinity(0)),
        seconds=parsed.seconds,
        progress=_progress,
        only=parsed.only,
    )
    try:
        finding = kinds.run_of(experiment.kind)(path, output, options)
    finally:
        _progress("")
    written = finding.write(output)
    if parsed.json:
        print(msgspec.json.encode(finding).decode())
    else:
        print(f"{text.render(finding)}\n\nfinding: {written}")
    return 0


def _traces() -> Path | None:
    named = os.environ.get("SPONGE_TRACES")
    return Path(named) if named else None


def _command(parsed: argparse.Namespace) -> str:
    """What to type for the same numbers; how many processes it takes and where it goes changes none."""
    words = ["sponge", "experiment", parsed.name]
    if parsed.traces is not None:
        words += ["--traces", "DIR"]
    if parsed.seconds is not None:
        words += ["--seconds", f"{parsed.seconds:g}"]
    for name in parsed.only:
        words += ["--only", name]
    return shlex.join(words)


def _progress(line: str) -> None:
    """On a terminal in the place of the line before; nothing otherwise."""
    if sys.stderr.isatty():
        print(f"{_ERASE}{line}", end="", file=sys.stderr, flush=True)
