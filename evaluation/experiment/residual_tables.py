"""Tables, goals and notes of residuals."""

from collections.abc import Mapping, Sequence
from statistics import median

from controlplane.latency import LatencyModel
from evaluation.experiment.finding import Cell, Goal, Table
from evaluation.experiment.residual import Residual

Found = Mapping[str, Sequence[Residual]]

MOST_ERROR = 0.15
_COLUMNS = (
    "cells", "throttled %", "p95 off by, %", "mean off by, %", "p95 too low, %", "worst p95, %", "fewest runs",
)  # fmt: skip


def tables(found: Found, learned: Mapping[str, LatencyModel]) -> list[Table]:
    """By model and quota, for what the planner could choose and for all; what was learned; every cell."""
    return [
        Table(
            title="Residuals of settings the planner could choose",
            columns=("model", "millicores", *_COLUMNS),
            rows=_by_quota({name: _planned(cells) for name, cells in found.items()}),
            note="Off by: without its sign, in the median over cells. Too low: cells whose 95 % quantile was above "
            "the upper estimate. Worst: with its sign, above zero where the estimate was too high. Fewest runs: "
            "executions of the cell with the fewest; below 20 the 95 % quantile is the longest of them.",
        ),
        Table(
            title="Residuals of all settings",
            columns=("model", "millicores", *_COLUMNS),
            rows=_by_quota(found),
            note="Also those with so many threads that one less would do as much under the quota, and those with "
            "more threads than the machine has cores.",
        ),
        Table(
            title="What was learned without a quota",
            columns=("model", "threads", "rows", "mean ms", "p95 ms", "neighbour costs %"),
            rows=[
                (name, threads, rows, 1000 * model.mean(rows, threads), 1000 * model.upper(rows, threads),
                 100 * model.kappa)
                for name, model in learned.items()
                for rows, threads in sorted(model.cells, key=lambda key: (key[1], key[0]))
            ],
        ),
        *(
            Table(
                title=f"{name}: every cell",
                columns=("millicores", "instances", "threads", "rows", "chosen", "runs", "throttled %",
                         "mean ms", "predicted mean ms", "p95 ms", "predicted p95 ms", "p95 error %"),
                rows=[_row(cell) for cell in cells],
                note="Chosen: whether the planner could.",
            )
            for name, cells in found.items()
        ),
    ]  # fmt: skip


def goals(found: Found) -> list[Goal]:
    """Within 15 % in the median: of what the planner could choose, of all, and of each model."""
    every = [cell for cells in found.values() for cell in cells]
    judged = {
        "p95 of all settings": every,
        "p95 of settings the planner could choose": _planned(every),
        **{
            f"{name}: p95 of settings the planner could choose": _planned(cells)
            for name, cells in found.items()
        },
    }
    return [
        Goal(
            goal=f"{name} within {MOST_ERROR:.0%} of the prediction in the median",
            measured=f"{_off(cells):.1%} over {len(cells)} cells",
            met=_off(cells) <= MOST_ERROR,
        )
        for name, cells in judged.items()
        if cells
    ]


def notes(found: Found) -> list[str]:
    """Where the estimates are furthest off."""
    worst = {
        name: max(chosen, key=lambda cell: abs(cell.upper_error))
        for name, cells in found.items()
        if (chosen := _planned(cells))
    }
    told = "; ".join(
        f"{name}, {cell.setting.instances} × {cell.setting.threads} threads, {cell.setting.rows} rows, "
        f"{cell.setting.millicores} millicores: {cell.upper_error:+.0%}"
        for name, cell in worst.items()
    )
    return [f"The worst of the settings the planner could choose: {told}."]


def _by_quota(found: Found) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for name, cells in found.items():
        by_quota = {
            quota: [cell for cell in cells if cell.setting.millicores == quota]
            for quota in dict.fromkeys(cell.setting.millicores for cell in cells)
        }
        rows += [(name, quota, *_summary(part)) for quota, part in by_quota.items()]
        rows.append((name, "all", *_summary(cells)))
    rows.append(("all", "all", *_summary([cell for cells in found.values() for cell in cells])))
    return rows


def _summary(cells: Sequence[Residual]) -> tuple[Cell, ...]:
    worst = max(cells, key=lambda cell: abs(cell.upper_error))
    return (
        len(cells),
        100 * median(cell.throttled_share for cell in cells),
        100 * _off(cells),
        100 * median(abs(cell.mean_error) for cell in cells),
        100 * sum(cell.upper_error < 0 for cell in cells) / len(cells),
        100 * worst.upper_error,
        min(cell.count for cell in cells),
    )


def _row(cell: Residual) -> tuple[Cell, ...]:
    setting = cell.setting
    return (
        setting.millicores, setting.instances, setting.threads, setting.rows, "yes" if cell.planned else "no",
        cell.count, 100 * cell.throttled_share, 1000 * cell.mean_s, 1000 * cell.predicted_mean_s,
        1000 * cell.upper_s, 1000 * cell.predicted_upper_s, 100 * cell.upper_error,
    )  # fmt: skip


def _planned(cells: Sequence[Residual]) -> list[Residual]:
    return [cell for cell in cells if cell.planned]


def _off(cells: Sequence[Residual]) -> float:
    return median(abs(cell.upper_error) for cell in cells)
