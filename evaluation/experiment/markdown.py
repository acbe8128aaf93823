"""The parts of findings that a document written by hand carries, kept true between markers.

A block begins with the line `<!-- finding: EXPERIMENT/PART -->` and ends with the line `<!-- end -->`. PART is the
title of a table, or Goals, Notes or Settings. What lies between is written by machine; all else is left alone.
"""

import re
from collections.abc import Iterable, Sequence

from evaluation.experiment import cells
from evaluation.experiment.finding import Finding, Table

_BEGIN = re.compile(r"<!-- finding: ([^/]+)/(.+) -->")
_END = "<!-- end -->"
_MARKER = re.compile(r"\s*<!--\s*(finding|end)\b")
# What Markdown would take for its own, and the beginning of a marker.
_SPECIAL = re.compile(r"([\\`*\[<|])")


class MarkerError(ValueError):
    """A marker that is not understood; the text is one line and begins with that of the marker."""


def update(text: str, findings: Sequence[Finding]) -> str:
    """Give `text` with every block rewritten. Raises MarkerError."""
    parts = {finding.experiment: _parts(finding) for finding in findings}
    told: list[str] = []
    begun = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not begun and (match := _BEGIN.fullmatch(line)):
            begun = number
            told += [line, "", *_part(parts, match[1], match[2], number), ""]
        elif begun and line == _END:
            begun = 0
            told.append(line)
        elif _MARKER.match(line):
            raise MarkerError(
                f"{number}: expected <!-- finding: EXPERIMENT/PART --> and then {_END}, each alone on its line"
            )
        elif not begun:
            told.append(line)
    if begun:
        raise MarkerError(f"{begun}: expected {_END} further down")
    return "".join(f"{line}\n" for line in told)


def untold(text: str, findings: Sequence[Finding]) -> list[str]:
    """What `text` should have a block of and has not: the goals of every finding, or any part where it has none."""
    blocks = [match for line in text.splitlines() if (match := _BEGIN.fullmatch(line))]
    told = {match[1] for match in blocks} | {f"{match[1]}/{match[2]}" for match in blocks}
    due = [f"{finding.experiment}/Goals" if finding.goals else finding.experiment for finding in findings]
    return [name for name in due if name not in told]


def _part(parts: dict[str, dict[str, list[str]]], experiment: str, part: str, number: int) -> list[str]:
    if experiment not in parts:
        raise MarkerError(f"{number}: {experiment}: expected one of {', '.join(parts)}")
    if part not in parts[experiment]:
        raise MarkerError(f"{number}: {experiment}/{part}: expected one of {', '.join(parts[experiment])}")
    return parts[experiment][part]


def _parts(finding: Finding) -> dict[str, list[str]]:
    """Everything that can be shown of it, by name, as lines."""
    parts = {table.title: _table(table) for table in finding.tables}
    if finding.goals:
        parts["Goals"] = _table(cells.goals(finding))
    if finding.notes:
        parts["Notes"] = [f"- {_plain(note)}" for note in finding.notes]
    told = [f"- {_plain(name)}: {_plain(value)}" for name, value in finding.settings.items()]
    parts["Settings"] = [f"- `{finding.command}`", *told]
    return parts


def _table(table: Table) -> list[str]:
    written = cells.written(table)
    head, *body = (_row(map(_plain, row)) for row in (written.columns, *written.rows))
    rule = _row("---:" if right else "---" for right in written.right)
    return [head, rule, *body, *(["", _plain(table.note)] if table.note else [])]


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _plain(text: str) -> str:
    """What is read as `text`, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
