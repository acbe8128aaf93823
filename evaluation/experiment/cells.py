"""A table's numbers as people read them: for terminal, Markdown and page alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.experiment.finding import Cell, Finding, Goal, Table

NOTHING = "–"
MET, MISSED = "met", "not met"

# Cells further below the largest of their column have digits of their own: their column's would round them to 0.
_RANGE = 100


@dataclass(frozen=True, slots=True)
class Written:
    """A table as text: its headings, its rows, and of each column whether it holds numbers, to be aligned right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]


def written(table: Table) -> Written:
    """Write out every cell; a column has one number of decimal places, as far as its numbers allow."""
    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    return Written(
        columns=table.columns,
        rows=list(zip(*map(_column, columns), strict=True)),
        right=[_is_numeric(column) for column in columns],
    )


def kept(goal: Goal) -> str:
    """Whether a goal was reached, in words."""
    return NOTHING if goal.met is None else MET if goal.met else MISSED


def goals(finding: Finding) -> Table:
    """The goals as a table like others."""
    return Table(
        title="Goals",
        columns=("goal", "measured", "kept"),
        rows=[(goal.goal, goal.measured, kept(goal)) for goal in finding.goals],
    )


def _is_numeric(cells: Sequence[Cell]) -> bool:
    return any(isinstance(cell, int | float) for cell in cells) or all(cell is None for cell in cells)


def _column(cells: Sequence[Cell]) -> list[str]:
    sizes = [abs(cell) for cell in cells if isinstance(cell, float) and math.isfinite(cell) and cell]
    largest = max(sizes, default=1.0)
    smallest = min((size for size in sizes if _RANGE * size >= largest), default=1.0)
    places = max(_places(smallest), _decimals(largest, 3))
    return [_cell(cell, places) for cell in cells]


def _cell(cell: Cell, places: int) -> str:
    """An exact 0 has no decimals, so that it is told from what is only small."""
    match cell:
        case None:
            return NOTHING
        case str():
            return cell
        case int():
            return f"{cell:,}"
    if math.isnan(cell):
        return NOTHING
    if math.isinf(cell):
        return "∞" if cell > 0 else "-∞"
    if cell == 0:
        return "0"
    return f"{cell:,.{max(places, _places(abs(cell)))}f}" if abs(cell) < 1 else f"{cell:,.{places}f}"


def _places(size: float) -> int:
    """Three significant digits from 1 on, two below."""
    return _decimals(size, 3 if size >= 1 else 2)


def _decimals(size: float, digits: int) -> int:
    """Decimal places that show so many significant digits."""
    return max(digits - 1 - math.floor(math.log10(size)), 0)
