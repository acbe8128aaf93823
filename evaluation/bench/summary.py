"""What a bench found, from what it recorded and nothing else."""

from collections.abc import Sequence
from pathlib import Path

from evaluation.bench import plots, score
from evaluation.bench.goals import goals
from evaluation.bench.record import Bench, Events
from evaluation.bench.tables import objection, tables
from evaluation.experiment.finding import Finding

NAME, TITLE = "bench", "Real workers under several policies"
QUESTION = "What does each policy reserve and miss on the same workload, measured in turns on this machine?"


def recorded(directory: Path) -> tuple[Bench, list[Events]]:
    """Read a bench and all its trials. Raises OSError, and ValueError, naming the file, for anything else."""
    bench = Bench.read(directory)
    return bench, [Events.read(directory / trial.directory) for trial in bench.trials]


def summarise(
    bench: Bench,
    events: Sequence[Events],
    plots_directory: Path | None = None,
    *,
    name: str = NAME,
    title: str = TITLE,
    question: str = QUESTION,
    notes: Sequence[str] = (),
) -> Finding:
    """Give the finding; with plots where a directory for them is given. Raises OSError."""
    standings = score.standings(bench, events)
    drawn = [] if plots_directory is None else plots.draw(bench, events, standings, plots_directory, name)
    return Finding(
        experiment=name,
        title=title,
        question=question,
        command=bench.command,
        settings=bench.settings,
        tables=tables(bench, standings),
        goals=goals(bench, standings),
        plots=drawn,
        notes=[note for note in (objection(bench), *notes) if note],
    )
