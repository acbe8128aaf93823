"""Results as one page that needs nothing but a browser."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from itertools import chain

from evaluation import page
from evaluation.experiment import cells
from evaluation.experiment.finding import Finding, Goal, Plot, Table
from evaluation.experiment.results import Results
from evaluation.table import SPONGE


def render(results: Results) -> str:
    """Give the whole page, pictures included; where one is missing it says so."""
    findings = results.findings
    body = [
        f'<p class="headline">{_headline(findings)}</p>',
        "<p>Each experiment is told with its question, what was promised and whether that was kept, its numbers,"
        " and the command that does it again.</p>",
        f"<nav><ul>{''.join(map(_entry, findings))}</ul></nav>",
        *(_section(finding, results) for finding in findings),
    ]
    return page.framed("Sponge: what the experiments found", "\n".join(body) + "\n")


def _headline(findings: Sequence[Finding]) -> str:
    kept = _kept(list(chain.from_iterable(finding.goals for finding in findings)))
    experiments = "one experiment" if len(findings) == 1 else f"{len(findings)} experiments"
    return f"{kept} in {experiments}." if kept else f"{experiments.capitalize()}."


_MARKS = {True: ' class="good">✓ ', False: ' class="bad">✗ ', None: ">"}


def _kept(goals: Sequence[Goal]) -> str:
    """How many, in words; empty where there are none."""
    tried = [goal.met for goal in goals if goal.met is not None]
    return f"{sum(tried)} of {len(tried)} goal{'s' if len(tried) > 1 else ''} met" if tried else ""


def _entry(finding: Finding) -> str:
    kept = f' <span class="soft">{told}</span>' if (told := _kept(finding.goals)) else ""
    return f'<li><a href="#{escape(finding.experiment)}">{escape(finding.title)}</a>{kept}</li>'


def _section(finding: Finding, results: Results) -> str:
    parts = [
        f'<section id="{escape(finding.experiment)}">',
        f"<h2>{escape(finding.title)}</h2>",
        f"<p>{escape(finding.question)}</p>",
        _goals(finding.goals),
        *(f"<p>{escape(note)}</p>" for note in finding.notes),
        *(_table(table) for table in finding.tables),
        _figures(finding.plots, results),
        "<h3>To do it again</h3>",
        page.command(finding.command),
        page.settings(finding.settings),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _goals(goals: Sequence[Goal]) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(goal.goal)}</th><td>{escape(goal.measured)}</td>'
        f"<td{_MARKS[goal.met]}{cells.kept(goal)}</td></tr>"
        for goal in goals
    )
    if not body:
        return ""
    head = '<tr><th scope="col">goal</th><th scope="col">measured</th><td></td></tr>'
    return f'<div class="boxed"><table class="data goals"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _table(table: Table) -> str:
    written = cells.written(table)
    head = "".join(
        f'<th scope="col"{_side(right)}>{escape(title)}</th>'
        for title, right in zip(written.columns, written.right, strict=True)
    )
    body = "".join(_row(row, written.right) for row in written.rows)
    note = f'<p class="soft">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h3>{escape(table.title)}</h3><div class="boxed"><table class="data">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


def _row(row: Sequence[str], right: Sequence[bool]) -> str:
    """The first cell names the row; those of Sponge stand out."""
    name, *rest = row
    ours = ' class="ours"' if name == SPONGE else ""
    head = f'<th scope="row"{_side(right[0])}>{escape(name)}</th>'
    told = (f"<td{_side(side)}>{escape(text)}</td>" for text, side in zip(rest, right[1:], strict=True))
    return f"<tr{ours}>{head}{''.join(told)}</tr>"


def _side(right: bool) -> str:
    return ' class="number"' if right else ""


def _figures(plots: Sequence[Plot], results: Results) -> str:
    if not plots:
        return ""
    return f'<div class="figures">{"".join(_figure(plot, results) for plot in plots)}</div>'


def _figure(plot: Plot, results: Results) -> str:
    caption = escape(plot.caption)
    picture = results.pictures.get(plot.file)
    if picture is None:
        shown = f'<p class="bad">{escape(plot.file)} is missing.</p>'
    else:
        shown = f'<img alt="{caption}" src="data:image/png;base64,{b64encode(picture).decode()}">'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"
