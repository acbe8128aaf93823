"""Experiment «faults»: each fault in full, what had to hold, and whether it did."""

import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from core.config import ConfigError, Section, load
from evaluation import process
from evaluation.experiment.finding import Finding, Goal, Table, machine
from evaluation.experiment.kinds import Options
from evaluation.faults import clock, dockerd, engines, killed, liar, neighbour, telemetry
from evaluation.faults.bed import NeverHeld
from evaluation.faults.engines import Fault
from evaluation.faults.liar import Lie
from evaluation.faults.outcome import Check, Outcome
from evaluation.process import StartError
from evaluation.serving import subjects
from evaluation.serving.subjects import Subject

Seconds = Annotated[float, Meta(gt=0)]


class Settings(Section, frozen=True, kw_only=True):
    """A whole faults.toml."""

    kind: Literal["faults"]
    title: str
    question: str
    model: str
    kills: Annotated[int, Meta(ge=1)]
    engine_s: Seconds  # that the engine is not what it should be
    delay_s: Seconds  # by which it answers late
    telemetry_s: Seconds
    lie_s: Seconds
    clock_s: Seconds  # before it is stepped back
    neighbour_s: Seconds


@dataclass(frozen=True, slots=True)
class Size:
    """What a scenario is run with."""

    subject: Subject
    folder: Path
    settings: Settings


Scenario = Callable[[Size], Coroutine[Any, Any, Outcome]]


def _engine(fault: Fault) -> Scenario:
    return lambda size: engines.disturbed(
        size.subject, size.folder, fault, size.settings.engine_s, size.settings.delay_s
    )


def _lie(lie: Lie) -> Scenario:
    return lambda size: liar.plausible(size.subject, size.folder, size.settings.lie_s, lie)


async def _restarted(size: Size) -> Outcome:
    async with dockerd.own() as own:
        return await engines.disturbed(
            size.subject, size.folder, Fault.RESTARTED, size.settings.engine_s, dockerd=own
        )


# By the name that --only takes.
SCENARIOS: Mapping[str, Scenario] = {
    "control-killed": lambda size: killed.control_plane(size.subject, size.folder, size.settings.kills),
    "worker-killed": lambda size: engines.worker_killed(size.subject, size.folder),
    "engine-restarted": _restarted,
    "engine-stopped": _engine(Fault.STOPPED),
    "engine-slow": _engine(Fault.SLOW),
    "engine-refusing": _engine(Fault.REFUSING),
    "recreated": lambda size: engines.recreated(size.subject, size.folder),
    "limits-changed": lambda size: engines.limits_changed(size.subject, size.folder),
    "telemetry-lost": lambda size: telemetry.lost(size.subject, size.folder, size.settings.telemetry_s),
    "telemetry-delayed": lambda size: telemetry.delayed(size.subject, size.folder, size.settings.telemetry_s),
    "absurd": lambda size: liar.absurd(size.subject, size.folder, size.settings.lie_s),
    **{f"lie-{lie.name.lower()}": _lie(lie) for lie in Lie},
    "clock": lambda size: clock.stepped(size.subject, size.folder, size.settings.clock_s),
    "host": lambda size: neighbour.shrinks(size.subject, size.folder, size.settings.neighbour_s),
}


def run(toml: Path, _output: Path, options: Options) -> Finding:
    """Make each fault, one after the other. Raises ConfigError, KeyboardInterrupt."""
    settings = load(toml, Settings)
    unknown = sorted(set(options.only) - set(SCENARIOS))
    if unknown:
        raise ConfigError(f"--only {unknown[0]}: expected one of {', '.join(SCENARIOS)}")
    names = [name for name in SCENARIOS if not options.only or name in options.only]
    try:
        outcomes = process.run(_run(names, settings, options))
    except (StartError, OSError) as error:
        raise ConfigError(str(error)) from error
    return Finding(
        experiment="faults",
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings=machine(),
        tables=[table(outcomes)],
        goals=[goal(outcome) for outcome in outcomes],
    )


async def _run(names: Sequence[str], settings: Settings, options: Options) -> list[Outcome]:
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="sponge-faults-") as temporary:
        folder = Path(temporary)
        subject = subjects.build(settings.model, folder)
        for number, name in enumerate(names, 1):
            options.progress(f"{name}, {number} of {len(names)}")
            outcomes.append(await made(name, Size(subject, _place(folder, name), settings)))
    return outcomes


def _place(folder: Path, name: str) -> Path:
    """A folder for the files of a scenario, which workers in containers can read: they are not root."""
    folder.chmod(0o755)
    place = folder / name
    place.mkdir(mode=0o755)
    return place


async def made(name: str, size: Size, scenarios: Mapping[str, Scenario] = SCENARIOS) -> Outcome:
    """Make one fault. What cannot be made here is neither kept nor broken; what never came about is broken."""
    try:
        return await scenarios[name](size)
    except NeverHeld as error:
        return error.outcome or Outcome(name, "", [Check("what was to come about", str(error), kept=False)])
    except StartError as error:
        return Outcome(name, "not made here", [Check("what it takes", str(error), kept=None)])


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row for everything that had to hold; the fault and what was done stand in the first of its rows."""
    words = {True: "yes", False: "no", None: None}
    return Table(
        title="Faults",
        columns=["fault", "what was done", "must hold", "measured", "kept"],
        rows=[
            [
                outcome.fault if first else "",
                outcome.done if first else "",
                check.must,
                check.measured,
                words[check.kept],
            ]
            for outcome in outcomes
            for first, check in zip([True, *[False] * len(outcome.checks)], outcome.checks, strict=False)
        ],
    )


def goal(outcome: Outcome) -> Goal:
    """All that had to hold of a fault, as one promise."""
    tried = [check for check in outcome.checks if check.kept is not None]
    broken = [f"{check.must}: {check.measured}" for check in tried if not check.kept]
    return Goal(
        goal=f"{outcome.fault}: all holds that must",
        measured="; ".join(broken) or (f"all {len(tried)}" if tried else "not tried"),
        met=not broken if tried else None,
    )
