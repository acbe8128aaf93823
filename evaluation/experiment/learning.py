"""Experiment «learning»: latencies never measured and arrivals to come, as the control plane predicts them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from controlplane.demand import QUANTILE
from controlplane.profiled import Times
from core.config import ConfigError, Section, load
from evaluation.experiment import ahead, learning_tables, left_out
from evaluation.experiment.finding import Finding, Goal, machine
from evaluation.experiment.kinds import Options
from evaluation.experiment.learning_tables import Coverages, Predictions, Reading
from evaluation.experiment.left_out import Prediction
from evaluation.simulation import offered, profile
from evaluation.simulation.offered import RatesError
from evaluation.simulation.profile import ProfileError

ERROR_GOAL, UNDER_GOAL = 0.08, 0.05
LEAST_COVERED, MOST_COVERED = 0.93, 0.97


class Settings(Section, frozen=True, kw_only=True):
    """A whole learning.toml; files are relative to the folder of traces."""

    kind: Literal["learning"]
    title: str
    question: str
    profiles: Annotated[list[str], Meta(min_length=1)]
    arrivals: Annotated[list[str], Meta(min_length=1)]
    mean_rates: list[Annotated[float, Meta(gt=0)]]
    seed: Annotated[int, Meta(ge=0)]
    notes: tuple[str, ...] = ()


def run(toml: Path, _output: Path, options: Options) -> Finding:
    """Predict every cell and every second. Raises ConfigError."""
    settings = load(toml, Settings)
    if options.traces is None:
        raise ConfigError(
            f"{toml.stem}: needs a folder of measured traces that holds {settings.profiles[0]}: "
            "--traces DIR or SPONGE_TRACES names it"
        )
    predictions = {}
    for name in settings.profiles:
        options.progress(f"{toml.stem}: {name}")
        for reading, found in _predictions(options.traces / name).items():
            predictions[Path(name).stem, reading] = found
    coverages = {}
    for name in settings.arrivals:
        options.progress(f"{toml.stem}: {name}")
        rates = _rates(options.traces / name, options.seconds)
        for index, (kind, counts, known) in enumerate(_arrivals(rates, settings)):
            seconds = ahead.follow(counts, np.random.default_rng([settings.seed, 1, index]))
            coverages[Path(name).stem, kind] = ahead.coverage(seconds), known
    return Finding(
        experiment=toml.stem,
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings={
            "profiles": ", ".join(settings.profiles),
            "arrivals": ", ".join(settings.arrivals),
            "seed": str(settings.seed),
            **({} if options.seconds is None else {"seconds of each": f"{options.seconds:g}"}),
            **machine(),
        },
        tables=[
            learning_tables.profiles(predictions),
            learning_tables.arrivals(coverages),
            *learning_tables.cells(predictions),
        ],
        goals=[*latency_goals(predictions), *demand_goals(coverages)],
        notes=[*settings.notes, *_notes(predictions)],
    )


def latency_goals(predictions: Predictions) -> list[Goal]:
    """Judge the mean and the upper estimate by the p99: every profile has to be good enough."""
    full = {name: found for (name, reading), found in predictions.items() if reading is Reading.P99}
    errors = {name: learning_tables.mean_error(found) for name, found in full.items()}
    under = {name: learning_tables.under(found) for name, found in full.items()}
    return [
        Goal(
            goal=f"latency of a cell left out within {100 * ERROR_GOAL:g} % in the mean",
            measured=_told(errors),
            met=all(error <= ERROR_GOAL for error in errors.values()),
        ),
        Goal(
            goal=f"upper estimate too low for at most {100 * UNDER_GOAL:g} % of the cells left out",
            measured=_told(under),
            met=all(share <= UNDER_GOAL for share in under.values()),
        ),
    ]


def demand_goals(coverages: Coverages) -> list[Goal]:
    """Judge each trace by all kinds of its arrivals, the whole of it and its second half."""
    goals = []
    for trace in dict.fromkeys(trace for trace, _ in coverages):
        found = [coverage for (name, _), (coverage, _) in coverages.items() if name == trace]
        shares = [share for one in found for share in (one.covered, one.later)]
        goals.append(
            Goal(
                goal=f"{trace}: the {100 * QUANTILE:g} % quantile covers {100 * LEAST_COVERED:g} to "
                f"{100 * MOST_COVERED:g} % of the next seconds, also of the second half alone",
                measured=f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %",
                met=all(LEAST_COVERED <= share <= MOST_COVERED for share in shares),
            )
        )
    return goals


def _predictions(path: Path) -> dict[Reading, list[Prediction]]:
    try:
        whole = profile.read_authors_times(path)
        full = {key: Times(*[cell.p99_s] * 4) for key, cell in whole.items()}
        return {Reading.P99: left_out.predict(full), Reading.WHOLE: left_out.predict(whole)}
    except ProfileError as error:
        raise ConfigError(str(error)) from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _rates(path: Path, seconds: float | None) -> list[float]:
    """Read a trace, or so many seconds of it: two at the least, as from the first is only learned."""
    try:
        rates = offered.read_rates(path)
    except RatesError as error:
        raise ConfigError(str(error)) from error
    rates = rates[: None if seconds is None else math.ceil(seconds)]
    if len(rates) < 2 or sum(rates) <= 0:
        raise ConfigError(f"{path}: expected two seconds or more, and a rate above zero in one")
    return rates


def _arrivals(rates: Sequence[float], settings: Settings) -> Iterator[tuple[str, list[int], float | None]]:
    """What may have come at these rates: a name, requests by second, and what one who knew the rate would add."""
    yield "as recorded", [round(rate) for rate in rates], None
    for index, mean_rate in enumerate(settings.mean_rates):
        rng = np.random.default_rng([settings.seed, 0, index])
        scaled = np.array(rates) * mean_rate * len(rates) / sum(rates)
        yield f"Poisson, {mean_rate:g}/s", rng.poisson(scaled).tolist(), ahead.known(scaled.tolist())


def _told(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())


def _notes(predictions: Predictions) -> list[str]:
    worst = {
        name: max(found, key=lambda one: abs(one.error))
        for (name, reading), found in predictions.items()
        if reading is Reading.P99
    }
    told = "; ".join(
        f"{name}, {one.rows} rows on {one.threads} threads: {100 * one.error:+.0f} %"
        for name, one in worst.items()
    )
    return [
        "A cell that is left out is a size that was never run. In service it is so until its first execution; "
        "after eight it speaks for itself, and nothing of this error is left.",
        f"The worst cells: {told}.",
    ]
