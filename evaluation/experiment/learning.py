"""Experiment «learning»: latencies never measured and arrivals to come, as the control plane predicts them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from controlplane.config import Explore
from controlplane.curve import Curve
from controlplane.demand import QUANTILE
from controlplane.profiled import Times
from core.config import ConfigError, Section, load
from evaluation.experiment import ahead, cold, learning_tables, left_out, slowed
from evaluation.experiment.cold import Case, Starts
from evaluation.experiment.finding import Finding, Goal, machine
from evaluation.experiment.kinds import Options
from evaluation.experiment.learning_tables import Coverages, Predictions, Reading
from evaluation.experiment.left_out import Prediction
from evaluation.experiment.slowed import Slowed
from evaluation.simulation import offered, profile
from evaluation.simulation.offered import RatesError
from evaluation.simulation.profile import ProfileError

ERROR_GOAL, UNDER_GOAL = 0.08, 0.05
LEAST_COVERED, MOST_COVERED = 0.93, 0.97
# After the first 30 s a cold start has within this share of what one with a profile has, and this share fewer in time.
CORES_GOAL, ON_TIME_GOAL = 0.1, 0.02
# Until the margin has answered executions that take longer, twenty of them a second.
WIDER_GOAL_S = 2.0

# Seconds; a fixed part that batches share, as of small recurrent models, and one that threads divide well.
_SHARED = Curve(gamma=0.0004, delta=0.0006, epsilon=0.001, eta=0.007)
_DIVIDED = Curve(gamma=0.19, delta=0.001, epsilon=0.008, eta=0.001)
# How many times as long executions take, and how many of them do, by chance.
_LONGER, _RATES = ((1.3, 1.0), (2.0, 1.0), (2.0, 1 / 3)), (20.0, 2.0)


class Settings(Section, frozen=True, kw_only=True):
    """A whole learning.toml; files are relative to the folder of traces."""

    kind: Literal["learning"]
    title: str
    question: str
    profiles: Annotated[list[str], Meta(min_length=1)]
    arrivals: Annotated[list[str], Meta(min_length=1)]
    mean_rates: list[Annotated[float, Meta(gt=0)]]
    seed: Annotated[int, Meta(ge=0)]
    starts: Annotated[int, Meta(ge=1)]  # of each case, whose arrivals are drawn anew
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
    starts = []
    seeds = [settings.seed + index for index in range(settings.starts if options.seconds is None else 1)]
    for case in _cases(options.traces / settings.profiles[0]):
        options.progress(f"{toml.stem}: cold start, {case.name}")
        starts.append(
            Starts(
                case,
                cold=cold.mean([cold.start(case, seed, profiled=False) for seed in seeds]),
                untried=cold.mean(
                    [cold.start(case, seed, profiled=False, explore=Explore.NEVER) for seed in seeds]
                ),
                tried=cold.mean(
                    [cold.start(case, seed, profiled=False, explore=Explore.ALWAYS) for seed in seeds]
                ),
                profiled=cold.mean([cold.start(case, seed, profiled=True) for seed in seeds]),
            )
        )
    options.progress(f"{toml.stem}: drift")
    steps = [slowed.follow(*longer, rate, settings.seed) for longer in _LONGER for rate in _RATES]
    return Finding(
        experiment=toml.stem,
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings={
            "profiles": ", ".join(settings.profiles),
            "arrivals": ", ".join(settings.arrivals),
            "seed": str(settings.seed),
            "starts": str(len(seeds)),
            **({} if options.seconds is None else {"seconds of each": f"{options.seconds:g}"}),
            **machine(),
        },
        tables=[
            learning_tables.profiles(predictions),
            learning_tables.starts(starts),
            learning_tables.slowed(steps),
            learning_tables.arrivals(coverages),
            *learning_tables.cells(predictions),
        ],
        goals=[
            *latency_goals(predictions),
            start_goal(starts),
            drift_goal(steps),
            *demand_goals(coverages),
        ],
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


def start_goal(found: Sequence[Starts]) -> Goal:
    """Judge what a cold start has come to after its first 30 s, by the worst of all."""
    cores = max(abs(one.cold.later_cores / one.profiled.later_cores - 1) for one in found)
    on_time = max(one.profiled.later_on_time - one.cold.later_on_time for one in found)
    return Goal(
        goal=f"without a profile: after {cold.USABLE_S:g} s of traffic within {100 * CORES_GOAL:g} % of the cores "
        f"that there are with one, and at most {100 * ON_TIME_GOAL:g} % of the requests fewer in time",
        measured=f"{100 * cores:.1f} %, {100 * max(0.0, on_time):.1f} %",
        met=cores <= CORES_GOAL and on_time <= ON_TIME_GOAL,
    )


def drift_goal(found: Sequence[Slowed]) -> Goal:
    """Judge how soon the margin answers, at twenty executions a second."""
    often = [one for one in found if one.rate == max(_RATES)]
    return Goal(
        goal=f"executions that take longer: a wider margin within {WIDER_GOAL_S:g} s",
        measured=", ".join(
            f"×{one.factor:g}{'' if one.share == 1.0 else f' for {100 * one.share:.0f} %'}: "
            + ("never" if one.widened_s is None else f"{one.widened_s:.0f} s")
            for one in often
        ),
        met=all(one.widened_s is not None and one.widened_s <= WIDER_GOAL_S for one in often),
    )


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


def _cases(yolov5s: Path) -> list[Case]:
    try:
        points = profile.read(yolov5s)
    except ProfileError as error:
        raise ConfigError(str(error)) from error
    shared = cold.of_curve(_SHARED, (1, 2, 4, 8, 16), (1, 2, 4, 8, 16))
    divided = cold.of_curve(_DIVIDED, (1, 2, 4, 8), (1, 2, 4, 8, 16))
    return [
        Case(yolov5s.stem, points, rate=20.0, slo_s=1.0, max_batch=8),
        Case(yolov5s.stem, points, rate=20.0, slo_s=0.4, max_batch=8),
        Case("batches share the most", shared, rate=400.0, slo_s=0.1, max_batch=16),
        Case("threads divide the most", divided, rate=20.0, slo_s=0.08, max_batch=8),
        Case("threads divide the most", divided, rate=20.0, slo_s=0.04, max_batch=8),
    ]


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
