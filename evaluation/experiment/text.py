"""A finding in the terminal."""

import textwrap

from evaluation.experiment import cells
from evaluation.experiment.finding import Finding, Table

_WIDTH = 100  # of prose; tables are as wide as they are


def render(finding: Finding) -> str:
    """Its question, tables, goals and notes as plain text, without a newline at the end."""
    parts = [finding.title, textwrap.fill(finding.question, _WIDTH)]
    parts += [_titled(table) for table in finding.tables]
    if finding.goals:
        parts.append(_titled(cells.goals(finding)))
    parts += [textwrap.fill(note, _WIDTH) for note in finding.notes]
    return "\n\n".join(parts)


def _titled(table: Table) -> str:
    told = [table.title, *_lines(table)]
    if table.note:
        told.append(textwrap.fill(table.note, _WIDTH))
    return "\n".join(told)


def _lines(table: Table) -> list[str]:
    written = cells.written(table)
    columns = []
    for title, right, *told in zip(written.columns, written.right, *written.rows, strict=True):
        width = max(map(len, [title, *told]))
        lines = [title, "─" * width, *told]
        columns.append([line.rjust(width) if right else line.ljust(width) for line in lines])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
