"""Tables of the experiment «learning». Pure."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from evaluation.experiment.ahead import Coverage
from evaluation.experiment.cold import Starts
from evaluation.experiment.finding import Table
from evaluation.experiment.left_out import Prediction
from evaluation.experiment.slowed import Slowed


class Reading(StrEnum):
    """What is taken for the executions of a cell: all of them as long as its p99, or its average and quantiles."""

    P99 = "p99"
    WHOLE = "average, p95"


# By profile and reading; by trace and kind of arrivals, with how much a known rate's quantile would be above the mean.
Predictions = Mapping[tuple[str, Reading], Sequence[Prediction]]
Coverages = Mapping[tuple[str, str], tuple[Coverage, float | None]]


def mean_error(found: Sequence[Prediction]) -> float:
    """Of the model, without its sign, in the mean over cells."""
    return sum(abs(one.error) for one in found) / len(found)


def under(found: Sequence[Prediction]) -> float:
    """Share of the cells whose upper estimate is too low."""
    return sum(one.under for one in found) / len(found)


def profiles(predictions: Predictions) -> Table:
    """One row for each profile and reading."""
    rows = []
    for (name, reading), found in predictions.items():
        inner = [one for one in found if one.inner]
        rows.append(
            (
                name,
                reading.value,
                len(found),
                100 * mean_error(found),
                100 * mean_error(inner) if inner else None,
                100 * sum(abs(one.fitted_error) for one in found) / len(found),
                100 * under(found),
                100 * under(inner) if inner else None,
                100 * sum(one.fitted_under for one in found) / len(found),
            )
        )
    return Table(
        title="Latency of cells left out",
        columns=(
            "profile",
            "an execution takes",
            "cells",
            "error %",
            "of inner cells, %",
            "of least squares, %",
            "too low %",
            "of inner cells too low, %",
            "of least squares too low, %",
        ),
        rows=rows,
        note="Error: of the mean, without its sign, in the mean over cells. Too low: cells that took longer than the "
        "upper estimate, by their 95 % quantile where it is told. Inner cells have others on all sides.",
    )


def arrivals(coverages: Coverages) -> Table:
    """One row for each trace and kind of arrivals."""
    return Table(
        title="Arrivals of the next second",
        columns=(
            "trace",
            "arrivals",
            "seconds",
            "mean rate",
            "covered %",
            "second half, %",
            "unlearned, %",
            "above the mean, %",
            "with the rate known, %",
        ),
        rows=[
            (
                trace,
                kind,
                one.seconds,
                round(one.rate, 2),
                100 * one.covered,
                100 * one.later,
                100 * one.unlearned,
                100 * one.above,
                None if known is None else 100 * known,
            )
            for (trace, kind), (one, known) in coverages.items()
        ],
        note="Covered: seconds in which no more came than the 95 % quantile that was forecast before they began. "
        "Unlearned: had that stayed 1.645 standard deviations above the mean. Above the mean: the quantile, in the "
        "mean over seconds; with the rate known: that of Poisson arrivals whose rate is known for every second.",
    )


def starts(found: Sequence[Starts]) -> Table:
    """One row for each case: without a profile, also with tries, and with a profile."""
    return Table(
        title="Cold start",
        columns=(
            "model",
            "rate",
            "deadline ms",
            "cores, first 30 s",
            "profiled",
            "on time %",
            "profiled on time %",
            "cores, next 30 s",
            "profiled next",
            "next on time %",
            "profiled next on time %",
            "cores, never tried",
            "on time %, never",
            "cores, always tried",
            "on time %, always",
            "sizes known",
        ),
        rows=[
            (
                one.case.name,
                one.case.rate,
                round(1000 * one.case.slo_s),
                round(one.cold.early_cores, 2),
                round(one.profiled.early_cores, 2),
                100 * one.cold.early_on_time,
                100 * one.profiled.early_on_time,
                round(one.cold.later_cores, 2),
                round(one.profiled.later_cores, 2),
                100 * one.cold.later_on_time,
                100 * one.profiled.later_on_time,
                round(one.untried.later_cores, 2),
                100 * one.untried.later_on_time,
                round(one.tried.later_cores, 2),
                100 * one.tried.later_on_time,
                round(one.cold.cells, 1),
            )
            for one in found
        ],
        note="A worker that has warmed up once at each power of two of its batches, on one thread, and begins with one "
        "core; Poisson arrivals. Beside it the same with the whole profile known, and the next 30 s of the same where "
        "`planner.explore` is never and always, not impossible; all in the mean of `starts`. Sizes known: numbers of "
        "rows and threads executed in the first 30 s, those included.",
    )


def slowed(found: Sequence[Slowed]) -> Table:
    """One row for each step and rate."""
    return Table(
        title="Executions that take longer for a minute",
        columns=(
            "times as long",
            "of them %",
            "executions/s",
            "margin wider after s",
            "mean right after s",
            "only learning, s",
            "over upper %",
            "only learning, %",
            "right again after s",
        ),
        rows=[
            (
                one.factor,
                round(100 * one.share),
                one.rate,
                one.widened_s,
                one.right_s,
                one.right_undetected_s,
                100 * one.above,
                100 * one.above_undetected,
                one.over_s,
            )
            for one in found
        ],
        note="One row on one thread; executions scatter by a tenth, one in a hundred takes three times as long; a plan "
        "every second. Of them: the executions that take longer, the others as before. Wider: the upper estimate has "
        "made half of the step. Right: the mean is within 10 % of the truth. Over upper: executions of that minute "
        "that took longer than the newest plan's upper estimate. Only learning: a model that is told the same and "
        "does not look for drift.",
    )


def cells(predictions: Predictions) -> list[Table]:
    """One table a profile, by its p99, one row a cell."""
    return [
        Table(
            title=f"Cells of {name}",
            columns=(
                "rows",
                "threads",
                "measured ms",
                "predicted mean",
                "off %",
                "least squares off %",
                "predicted upper",
                "too low",
            ),
            rows=[
                (
                    one.rows,
                    one.threads,
                    round(1000 * one.measured.mean_s, 3),
                    round(1000 * one.mean_s, 3),
                    round(100 * one.error, 2),
                    round(100 * one.fitted_error, 2),
                    round(1000 * one.upper_s, 3),
                    "yes" if one.under else "no",
                )
                for one in found
            ],
        )
        for (name, reading), found in predictions.items()
        if reading is Reading.P99
    ]
