"""A table's numbers as people read them: for terminal, Markdown and page alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.experiment.finding import Cell, Finding, Table

NOTHING = "–"
MET, MISSED = "met", "not met"

# Cells further below the largest of their column have digits of their own: their column's would round them to 0.
_RANGE = 100


@dataclass(frozen=True, slots=True)
class Column:
    """Its heading and its cells as text, from the top; `right` where they are numbers, to be aligned right."""

    title: str
    cells: Sequence[str]
    right: bool


def columns(table: Table) -> list[Column]:
    """Write out every cell; a column has one number of decimal places, as far as its numbers allow."""
    return [_column(title, [row[i] for row in table.rows]) for i, title in enumerate(table.columns)]


def goals(finding: Finding) -> Table:
    """The goals as a table like others."""
    return Table(
        title="Goals",
        columns=("goal", "measured", "kept"),
        rows=[(goal.goal, goal.measured, MET if goal.met else MISSED) for goal in finding.goals],
    )


def _column(title: str, cells: Sequence[Cell]) -> Column:
    sizes = [abs(cell) for cell in cells if isinstance(cell, float) and math.isfinite(cell) and cell]
    places = _places(min(size for size in sizes if _RANGE * size >= max(sizes))) if sizes else 0
    right = any(isinstance(cell, int | float) for cell in cells)
    return Column(title, [_written(cell, places) for cell in cells], right)


def _written(cell: Cell, places: int) -> str:
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
    """Decimal places that show three significant digits from 1 on, two below."""
    exponent = math.floor(math.log10(size))
    return max(2 - exponent, 0) if exponent >= 0 else 1 - exponent
