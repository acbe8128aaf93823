"""A result as one page that needs nothing but a browser."""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template

from evaluation import plots, rows
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
    path.write_text(page(result, files), encoding="utf-8")
    return path


def page(result: Result, files: Mapping[str, str]) -> str:
    """Give the whole page; `files` names each policy's rows, to link to."""
    settings = dict(result.settings)
    command = settings.pop("command", "sponge demo")
    return _PAGE.substitute(
        what=escape(f"{_WHAT} {_how(result)}"),
        headline=escape(headline(result)),
        objected="objected" if objection(result) else "",
        cards="" if objection(result) else _cards(result),
        table=_table(result),
        notes=escape(side_notes(result)),
        legend=escape(_LEGEND),
        figures="".join(_figure(result, service) for service in result.slo_ms),
        changes=_changes(change for run in runs(result) if run.policy == SPONGE for change in run.changes),
        settings="".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in settings.items()),
        command=escape(command),
        files=", ".join(f'<a href="{escape(file)}">{escape(file)}</a>' for file in files.values()),
    )


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


# Colours after Okabe and Ito, told apart with any colour vision; the dark set is their lighter half.
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Sponge: report of a run</title>
<style>
:root {
  --page: #fcfcfa; --raised: #fff; --ink: #24292e; --soft: #5d6670; --faint: #d5d9dd;
  --sponge: #0072b2; --fixed: #b07800; --on-time: #008a65; --late: #d14d00; --unanswered: #9c3d80; --dead: #59636d;
}
@media (prefers-color-scheme: dark) { :root {
  --page: #15191d; --raised: #1c2126; --ink: #dfe3e6; --soft: #98a2ac; --faint: #3a4249;
  --sponge: #56b4e9; --fixed: #e69f00; --on-time: #2cc79b; --late: #ff7f3f; --unanswered: #df8fbf; --dead: #9aa5af;
} }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 82rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1rem; letter-spacing: .04em; color: var(--sponge); }
h2 { margin: 3rem 0 .75rem; font-size: 1.25rem; }
h3 { margin: 0 0 .5rem; font-size: 1.05rem; }
p { max-width: 50rem; margin: .5rem 0; }
.headline { max-width: 60rem; margin: 0 0 1rem; font-size: 1.75rem; line-height: 1.25; font-weight: 650;
  text-wrap: balance; }
.objected { color: var(--late); }
.soft { color: var(--soft); font-size: .9rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0 0; }
.card { flex: 1 1 14rem; padding: 1rem 1.25rem; background: var(--raised); border: 1px solid var(--faint);
  border-radius: .5rem; }
.card .title, .card .theirs { color: var(--soft); font-size: .9rem; }
.card .ours { font-size: 2rem; line-height: 1.3; font-weight: 650; color: var(--sponge);
  font-variant-numeric: tabular-nums; }
.scroll { overflow: auto; max-height: 26rem; border: 1px solid var(--faint); border-radius: .5rem;
  background: var(--raised); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .2rem 1rem .2rem 0; text-align: right; font-weight: normal; white-space: nowrap; }
tbody th { text-align: left; padding-right: 2rem; color: var(--soft); }
thead th { font-weight: 600; }
thead tr:last-child > * { border-bottom: 1px solid var(--faint); }
thead small { font-weight: normal; color: var(--soft); }
tr.ends > * { border-bottom: 1px solid var(--faint); }
.sponge { color: var(--sponge); padding-left: 2.5rem; } .fixed { color: var(--fixed); }
.bad { color: var(--late); font-weight: 700; }
.changes th, .changes td { padding: .25rem 1rem; }
.changes thead th { position: sticky; top: 0; background: var(--raised); }
.changes :is(th, td):nth-child(2), .changes :is(th, td):nth-child(3), .changes :is(th, td):nth-child(5) {
  text-align: left; }
.changes { width: 100%; } .changes td:last-child { width: 100%; white-space: normal; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 2rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.5rem; margin: .5rem 0; font-size: .95rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .95em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { padding: .75rem 1rem; overflow-x: auto; background: var(--raised); border: 1px solid var(--faint);
  border-radius: .5rem; }
a { color: var(--sponge); }
</style>
</head>
<body>
<h1>Sponge</h1>
<p class="headline $objected">$headline</p>
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
<dl>$settings</dl>
<p>Every request, one a line: $files. To do it again:</p>
<pre><code>$command</code></pre>
</body>
</html>
""")
