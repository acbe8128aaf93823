"""Tables of a simulated experiment, by name. Pure."""

import math
import statistics
from collections.abc import Callable, Sequence

from evaluation.experiment.finding import Cell, Table
from evaluation.experiment.goals import ratio
from evaluation.experiment.quantity import QUANTITIES
from evaluation.experiment.trial import Trial
from evaluation.simulation.contest import BOUND
from evaluation.simulation.score import Class, Score

_MISSED_SHARE, _COST = QUANTITIES["missed-share"].of, QUANTITIES["core-seconds-per-on-time"].of


def scores(trials: Sequence[Trial]) -> Table:
    """Every case and policy."""
    rows = [
        (
            *trial.case.labels.values(),
            policy,
            score.requests,
            score.dead_on_arrival,
            score.tight,
            score.tight_on_time,
            score.on_time,
            score.late,
            score.refused,
            score.avoidable_missed,
            score.mean_cores,
            _finite(_COST(score)),
            score.resizes,
        )
        for trial in trials
        for policy, score in trial.scores.items()
    ]
    return Table(
        title="Every case",
        columns=(
            *trials[0].case.labels,
            "policy",
            "requests",
            "dead",
            "tight",
            "tight on time",
            "on time",
            "late",
            "refused",
            "avoidable missed",
            "mean cores",
            "core-s per on time",
            "resizes",
        ),
        rows=[_rounded(row) for row in rows],
        note="Dead on arrival: less time left than the fastest execution takes. Tight: less than 1.5 × the cheapest "
        "execution of one row. Avoidable: what was late or refused of the rest.",
    )


def policies(trials: Sequence[Trial]) -> Table:
    """One row a policy, over all cases."""
    rows: list[Sequence[Cell]] = []
    for policy in trials[0].scores:
        found = [trial.scores[policy] for trial in trials]
        tight = sum(score.tight for score in found)
        rows.append(
            _rounded(
                (
                    policy,
                    statistics.median(score.mean_cores for score in found),
                    _to_bound(trials, policy),
                    sum(score.avoidable_missed for score in found),
                    100 * max(_MISSED_SHARE(score) for score in found),
                    sum(score.avoidable_missed == 0 for score in found),
                    100 * sum(score.tight_on_time for score in found) / tight if tight else None,
                    _finite(_over_all(found)),
                )
            )
        )
    return Table(
        title=f"Policies over {len(trials)} case{'s'[: len(trials) > 1]}",
        columns=(
            "policy",
            "mean cores, median",
            "of the bound, median",
            "avoidable missed",
            "missed %, worst case",
            "cases without a miss",
            "tight saved %",
            "core-s per on time",
        ),
        rows=rows,
    )


def totals(trials: Sequence[Trial]) -> Table:
    """One row for each label of the first axis and policy, over the other axes."""
    axis = next(iter(trials[0].case.labels), "")
    rows: list[Sequence[Cell]] = []
    for label in dict.fromkeys(trial.case.labels.get(axis, "") for trial in trials):
        about = [trial for trial in trials if trial.case.labels.get(axis, "") == label]
        for policy in trials[0].scores:
            found = [trial.scores[policy] for trial in about]
            tight = sum(score.tight for score in found)
            row = (
                label,
                policy,
                statistics.fmean(score.mean_cores for score in found),
                sum(score.requests for score in found),
                sum(score.avoidable_missed for score in found),
                100 * max(_MISSED_SHARE(score) for score in found),
                100 * sum(score.tight_on_time for score in found) / tight if tight else None,
                _finite(_over_all(found)),
            )
            rows.append(_rounded(row))
    return Table(
        title=f"By {axis}" if axis else "In total",
        columns=(
            axis,
            "policy",
            "mean cores",
            "requests",
            "avoidable missed",
            "missed %, worst case",
            "tight saved %",
            "core-s per on time",
        ),
        rows=rows,
    )


def variants(trials: Sequence[Trial]) -> Table:
    """One row a policy, over all cases: cores, what it misses, and how often it changes something."""
    names = list(trials[0].scores)
    minutes = sum(trial.case.description.seconds for trial in trials) / 60
    rows: list[Sequence[Cell]] = []
    for policy in names:
        found = [trial.scores[policy] for trial in trials]
        tight = sum(score.tight for score in found)
        row = (
            policy,
            statistics.fmean(score.mean_cores for score in found),
            100
            * (sum(s.core_seconds for s in found) / sum(t.scores[names[0]].core_seconds for t in trials) - 1),
            sum(score.avoidable_missed for score in found),
            ", ".join(str(score.avoidable_missed) for score in found),
            100 * sum(score.tight_on_time for score in found) / tight if tight else None,
            sum(score.resizes for score in found) / minutes,
        )
        rows.append(_rounded(row))
    return Table(
        title="Variants over all cases",
        columns=(
            "variant",
            "mean cores",
            f"more than {names[0]}, %",
            "avoidable missed",
            "by case",
            "tight saved %",
            "changes per minute",
        ),
        rows=rows,
        note=f"Cases: {', '.join(' '.join(trial.case.labels.values()) for trial in trials)}.",
    )


def services(trials: Sequence[Trial]) -> Table:
    """One row for each case, policy and service."""
    rows: list[Sequence[Cell]] = []
    for trial in trials:
        for policy, found in trial.series.items():
            for one in found:
                rest = int((one.on_time + one.late + one.refused)[Class.REST].sum())
                missed = int(one.avoidable_missed.sum())
                row = (
                    *trial.case.labels.values(),
                    policy,
                    one.service,
                    float(one.core_seconds.sum()) / trial.case.description.seconds,
                    rest,
                    missed,
                    100 * missed / rest if rest else None,
                )
                rows.append(_rounded(row))
    return Table(
        title="By service",
        columns=(
            *trials[0].case.labels,
            "policy",
            "service",
            "mean cores",
            "requests with time enough",
            "missed of them",
            "missed %",
        ),
        rows=rows,
    )


def cases(trials: Sequence[Trial]) -> Table:
    """One row a case: of each policy the mean cores, and in brackets what it missed."""
    names = list(trials[0].scores)
    return Table(
        title="Mean cores (avoidable misses) by case",
        columns=(*trials[0].case.labels, "requests", *names),
        rows=[
            (
                *trial.case.labels.values(),
                next(iter(trial.scores.values())).requests,
                *(f"{score.mean_cores:.2f} ({score.avoidable_missed})" for score in trial.scores.values()),
            )
            for trial in trials
        ],
    )


def tight(trials: Sequence[Trial]) -> Table:
    """Which share of the tight each policy saved, in the cases that have any."""
    some = [trial for trial in trials if next(iter(trial.scores.values())).tight]
    names = [name for name in trials[0].scores if name != BOUND]
    return Table(
        title="Tight requests on time",
        columns=(*trials[0].case.labels, "tight", *names),
        rows=[
            (
                *trial.case.labels.values(),
                next(iter(trial.scores.values())).tight,
                *(trial.scores[name].tight_on_time for name in names),
            )
            for trial in some
        ],
    )


# Those made of series, and not of scores alone.
NEED_SERIES = frozenset({"services"})

TABLES: dict[str, Callable[[Sequence[Trial]], Table]] = {
    "scores": scores,
    "policies": policies,
    "totals": totals,
    "variants": variants,
    "services": services,
    "cases": cases,
    "tight": tight,
}


def _to_bound(trials: Sequence[Trial], policy: str) -> float | None:
    if BOUND not in trials[0].scores:
        return None
    return statistics.median(
        ratio(trial.scores[policy].mean_cores, trial.scores[BOUND].mean_cores) for trial in trials
    )


def _over_all(found: Sequence[Score]) -> float:
    on_time = sum(score.on_time for score in found)
    return sum(score.core_seconds for score in found) / on_time if on_time else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rounded(row: Sequence[Cell]) -> tuple[Cell, ...]:
    """Four decimals say all there is to say, and keep the document small."""
    return tuple(round(cell, 4) if isinstance(cell, float) else cell for cell in row)
