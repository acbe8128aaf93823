"""A result as one page that needs nothing but a browser."""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template

from evaluation import page, plots, rows
from evaluation.result import Change, Result
from evaluation.table import (
    SPONGE,
    Line,
    Measure,
    headline,
    lines,
    measures,
    milliseconds,
    objection,
    percent,
    ratios,
    runs,
    side_notes,
    totals,
    verb,
)

_WHAT = (
    "Sponge serves ONNX models to clients whose deadlines differ from request to request, because the network"
    " eats an unpredictable part of each one's time, and resizes the running workers so that they have the"
    " CPU that those deadlines need and no more."
)

_LEGEND = (
    "Dashed: in the latency panels the SLO; in that of budgets the fastest execution of one row, with less than"
    " which nothing is on time. Requests without a right answer are drawn above all others, budgets far below zero at"
    f" the lower edge. Of requests on time at most {plots.MOST_DOTS} are drawn, of the others all."
)


def write(result: Result, directory: Path) -> Path:
    """Write report.html into `directory`, made if need be, and rows-<policy>.csv beside it.

    Returns the page's path. Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = {run.policy: f"rows-{run.policy.replace(' ', '-')}.csv" for run in result.runs}
    for run in result.runs:
        rows.write(directory / files[run.policy], run.rows)
    path = directory / "report.html"
    path.write_text(_page(result, files), encoding="utf-8")
    return path


def _page(result: Result, files: Mapping[str, str]) -> str:
    """`files` names each policy's rows, to link to."""
    settings = dict(result.settings)
    command = settings.pop("command", "sponge demo")
    body = _BODY.substitute(
        what=escape(f"{_WHAT} {_how(result)}"),
        headline=escape(headline(result)),
        objected="objected" if objection(result) else "",
        cards="" if objection(result) else _cards(result),
        table=_table(result),
        notes=escape(side_notes(result)),
        legend=escape(_LEGEND),
        figures="".join(_figure(result, service) for service in result.slo_ms),
        changes=_changes(change for run in runs(result) if run.policy == SPONGE for change in run.changes),
        settings=page.settings(settings),
        command=page.command(command),
        files=", ".join(f'<a href="{escape(file)}">{escape(file)}</a>' for file in files.values()),
    )
    return page.framed("Sponge: report of a run", body)


def _how(result: Result) -> str:
    policies = ["Sponge" if run.policy == SPONGE else f"the {run.policy}" for run in runs(result)]
    served = "" if len(policies) < 2 else f", once under {' and once under '.join(policies)}"
    return f"Here requests were served over emulated links, one for each{served}."


def _cards(result: Result) -> str:
    """The three numbers that matter, each against the other run's."""
    ours, *others = totals(result)
    if not others:
        return ""
    theirs = others[0]
    ratio = ratios(ours, theirs)
    told = [
        (
            f"core-seconds {verb(result)}",
            f"{ours.cost.reserved:.1f}",
            f"{theirs.cost.reserved:.1f}",
            ratio.reserved,
        ),
        ("core-seconds used", f"{ours.cost.used:.1f}", f"{theirs.cost.used:.1f}", ratio.used),
        ("requests on time", percent(ours.on_time_share), percent(theirs.on_time_share), None),
    ]
    return "".join(
        f'<div class="card"><div class="title">{title}</div><div class="ours">{mine}</div>'
        f'<div class="theirs">{escape(theirs.policy)}: {other}'
        + (f" ({share * 100:.0f} % of it)" if share is not None else "")
        + "</div></div>"
        for title, mine, other, share in told
    )


def _table(result: Result) -> str:
    every = lines(result)
    services = [service for service in result.slo_ms if any(line.service == service for line in every)]
    head = "".join(
        f'<th scope="colgroup" colspan="{sum(line.service == service for line in every)}">{escape(service)}'
        f" <small>SLO {milliseconds(result.slo_ms[service])} ms</small></th>"
        for service in services
    )
    policies = "".join(
        f'<th scope="col" class="{_role(line.policy)}">{escape(line.policy)}</th>' for line in every
    )
    body = "".join(
        f"<tr{' class=ends' if measure.ends_section else ''}>"
        f'<th scope="row">{escape(measure.title)}</th>'
        + "".join(_cell(measure, line) for line in every)
        + "</tr>"
        for measure in measures(result)
    )
    return f"<table><thead><tr><td></td>{head}</tr><tr><td></td>{policies}</tr></thead><tbody>{body}</tbody></table>"


def _cell(measure: Measure, line: Line) -> str:
    text = measure.cell(line)
    return f'<td class="bad">{text}</td>' if measure.bad and text != "0" else f"<td>{text}</td>"


def _role(policy: str) -> str:
    return "sponge" if policy == SPONGE else "fixed"


def _figure(result: Result, service: str) -> str:
    return f"<figure><h3>{escape(service)}</h3>{plots.figure(result, service)}</figure>"


def _changes(changes: Iterable[Change]) -> str:
    body = "".join(
        f"<tr><td>{change.at_s:.1f}</td><td>{escape(change.service)}</td><td>{escape(change.action)}</td>"
        f"<td>{change.before_millicores / 1000:.2f} → {change.after_millicores / 1000:.2f}</td>"
        f"<td>{escape(change.reason)}</td></tr>"
        for change in sorted(changes, key=lambda change: change.at_s)
    )
    if not body:
        return "<p>None was taken.</p>"
    return (
        '<div class="scroll"><table class="changes"><thead><tr><th>seconds</th><th>service</th><th>action</th>'
        f"<th>cores</th><th>why</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


_BODY = Template("""<p class="headline $objected">$headline</p>
<p>$what</p>
<div class="cards">$cards</div>
<h2>In numbers</h2>
<div class="wide">$table</div>
<p class="soft">Percentiles are end to end, over all requests offered, those without a right answer as ∞. $notes.</p>
<h2>Over time</h2>
<p class="soft">$legend</p>
<div class="figures">$figures</div>
<h2>Decisions</h2>
$changes
<h2>How it was measured</h2>
$settings
<p>Every request, one a line: $files. To do it again:</p>
$command
""")
