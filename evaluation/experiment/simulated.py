"""Experiments of the kind `simulation`: cases along axes, the same policies in each."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from core.config import ConfigError
from evaluation.bandwidth import TraceError
from evaluation.experiment import figures, goals, matrix, pool
from evaluation.experiment.figures import FIGURES, Drawing
from evaluation.experiment.finding import Finding, Plot, machine
from evaluation.experiment.kinds import Options
from evaluation.experiment.matrix import Matrix, Variant
from evaluation.experiment.tables import NEED_SERIES, TABLES
from evaluation.experiment.trial import Case, Trial
from evaluation.simulation import contest
from evaluation.simulation.description import Description
from evaluation.simulation.offered import RatesError
from evaluation.simulation.profile import ProfileError
from evaluation.simulation.score import Score
from evaluation.simulation.series import Series


@dataclass(frozen=True, slots=True)
class Entry:
    """One policy in one scenario, under a name of its own."""

    name: str
    variant: Variant
    description: Description


@dataclass(frozen=True, slots=True)
class Task:
    """What one process does at a stretch: entries of one case, of which a later one may need an earlier one's score."""

    case: int
    entries: tuple[Entry, ...]
    with_series: bool


@dataclass(frozen=True, slots=True)
class Played:
    """What one entry made of its scenario."""

    case: int
    score: Score
    series: tuple[Series, ...]


def run(toml: Path, output: Path, options: Options) -> Finding:
    """Play every policy in every case; plots go into `output`.

    Raises ConfigError, and OSError for plots that cannot be written.
    """
    described = matrix.read(toml)
    written = matrix.cases(described, str(toml), options.seconds)
    folder = _folder(toml.stem, written, options.traces)
    cases = [replace(case, description=case.description.within(folder)) for case in written]
    tasks = [
        task for index, case in enumerate(cases) for task in _tasks(described, str(toml), index, case, folder)
    ]

    def progress(done: int) -> None:
        options.progress(f"{toml.stem}: {done} of {len(tasks)} simulations in {len(cases)} cases")

    progress(0)
    try:
        played = [one for task in pool.spread(play, tasks, options.jobs, progress) for one in task]
    except (ProfileError, TraceError, RatesError) as error:
        raise ConfigError(f"{toml.stem}: {error}") from error
    trials = [_trial(described, index, case, played) for index, case in enumerate(cases)]
    return Finding(
        experiment=toml.stem,
        title=described.title,
        question=described.question,
        command=options.command,
        settings={**_settings(described, options.seconds), **machine()},
        tables=[TABLES[name](trials) for name in described.tables],
        goals=[goal for one in described.goal for goal in goals.judge(one, trials)],
        plots=list(_plots(described, trials, output, toml.stem)),
        notes=described.notes,
    )


def play(task: Task) -> list[Played]:
    """Play one entry after the other. Raises the errors of their inputs."""
    found: list[Played] = []
    missed: int | None = None
    for entry in task.entries:
        scenario = entry.description.scenario()
        ended = contest.play(scenario, entry.variant.base, entry.variant.control, missed)
        if entry.name == contest.OURS:
            missed = ended.score.avoidable_missed
        series = ended.series if task.with_series else ()
        found.append(Played(task.case, replace(ended.score, policy=entry.name), series))
    return found


def _tasks(described: Matrix, place: str, index: int, case: Case, folder: Path) -> Iterable[Task]:
    """A process for every policy, but for the best static, which needs to know what ours missed."""
    drawn = any(FIGURES[plot.figure].needs_series for plot in described.plot)
    with_series = drawn or not NEED_SERIES.isdisjoint(described.tables)
    for name in described.policies:
        if name == contest.STATIC_BEST:
            continue
        together = [name]
        if name == contest.OURS and contest.STATIC_BEST in described.policies:
            together.append(contest.STATIC_BEST)
        entries = tuple(_entry(described, place, each, case, folder) for each in together)
        yield Task(index, entries, with_series)


def _entry(described: Matrix, place: str, name: str, case: Case, folder: Path) -> Entry:
    variant = described.policy.get(name, Variant(base=name))
    changed = matrix.changed(case.description, variant.scenario, f"{place}: policy.{name}.scenario")
    return Entry(name, variant, changed.within(folder))


def _trial(described: Matrix, index: int, case: Case, played: Sequence[Played]) -> Trial:
    by_name = {one.score.policy: one for one in played if one.case == index}
    return Trial(
        case,
        {name: by_name[name].score for name in described.policies},
        {name: by_name[name].series for name in described.policies if by_name[name].series},
    )


def _folder(name: str, cases: Sequence[Case], traces: Path | None) -> Path:
    """The folder of traces. Raises ConfigError where it is needed and is not there."""
    files = sorted(
        {file for case in cases for file in case.description.files() if not Path(file).is_absolute()}
    )
    if traces is None:
        if files:
            raise ConfigError(
                f"{name}: needs a folder of measured traces that holds {files[0]}: "
                "--traces DIR or SPONGE_TRACES names it"
            )
        return Path()
    for file in files:
        if not (traces / file).is_file():
            raise ConfigError(f"{name}: {traces}: expected a folder of measured traces that holds {file}")
    return traces


def _settings(described: Matrix, seconds: float | None) -> dict[str, str]:
    defaults = msgspec.to_builtins(Description())
    own = {
        k: v
        for k, v in msgspec.to_builtins(described.scenario).items()
        if v != defaults[k] and k != "service"
    }
    settings = {"scenario": ", ".join(f"{key} = {value}" for key, value in own.items())}
    if services := described.scenario.service:
        settings["services"] = "; ".join(map(_service, services))
    settings |= {f"axis {axis}": ", ".join(map(str, values)) for axis, values in described.axes.items()}
    settings["policies"] = ", ".join(described.policies)
    if seconds is not None:
        settings["seconds"] = f"{seconds:g} instead of what is written"
    return settings


def _service(service: msgspec.Struct) -> str:
    given = {key: value for key, value in msgspec.structs.asdict(service).items() if value is not None}
    return ", ".join(f"{key} = {value}" for key, value in given.items())


def _plots(described: Matrix, trials: Sequence[Trial], output: Path, name: str) -> Iterable[Plot]:
    used: Counter[str] = Counter()
    for plot in described.plot:
        about = [trial for trial in trials if trial.case.within(plot.where)]
        for drawing in FIGURES[plot.figure].draw(about, plot.policies or described.policies):
            stem = "-".join(part for part in (name, plot.figure, figures.slug(drawing.of)) if part)
            used[stem] += 1
            file = f"{stem}{f'-{used[stem]}' if used[stem] > 1 else ''}.png"
            figures.save(drawing, output / file)
            yield Plot(file=file, caption=_caption(plot.caption, drawing))


def _caption(caption: str, drawing: Drawing) -> str:
    return f"{caption} ({drawing.of})" if drawing.of else caption
