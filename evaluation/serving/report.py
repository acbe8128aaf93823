"""What was found, as lines of JSON, tables and goals. Pure but for the settings of this machine."""

import math
from collections.abc import Mapping, Sequence

from evaluation.experiment.cells import NOTHING
from evaluation.experiment.finding import Cell, Finding, Goal, Table, machine
from evaluation.serving.contest import Found
from evaluation.serving.pairs import Interval, Pair, bootstrap
from evaluation.serving.plan import Comparison, Plan, Promise, Quantity
from evaluation.serving.recipes import Recipe
from evaluation.serving.running import Host
from evaluation.serving.sample import Closed, Load, Loop, Open, Sample, merged

# What others may take of the machine before the numbers are theirs too.
_MOST_OTHERS = 0.05

Recipes = Mapping[str, Recipe]
Line = dict[str, str | int | float | None]


def lines(found: Found) -> list[Line]:
    """Give one object for each server and load, over all windows; what is infinite is None."""
    return [
        {"server": name, "model": found.subject, **_told(load)}
        | _numbers(merged(samples), found.memory_bytes[name])
        for (name, load), samples in found.samples.items()
    ]


def _told(load: Load) -> Line:
    match load:
        case Closed(concurrency):
            return {"mode": "closed", "concurrency": concurrency}
        case Open(rate, deadline_ms):
            return {"mode": "open", "rate": rate, "deadline_ms": deadline_ms}
        case Loop(rows):
            return {"mode": "loop", "batch": rows}


def _numbers(sample: Sample, memory_bytes: int) -> Line:
    return {
        "rps": round(sample.rps, 1),
        "goodput": round(sample.goodput, 4),
        "p50_ms": _finite(sample.latency_ms(0.5)),
        "p99_ms": _finite(sample.latency_ms(0.99)),
        "cpu_ms_per_request": _finite(sample.cpu_ms),
        "rss_mb": round(memory_bytes / 1e6, 1),
        "wrong": sample.wrong,
        "unanswered": sample.unanswered,
        "client_busy": round(sample.client_cpu_s / sample.seconds, 3),
        "client_lag_ms": round(1000 * sample.lag_s, 2),
    }


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def finding(
    command: str,
    plan: Plan,
    recipes: Recipes,
    host: Host,
    every: Sequence[Found],
    missing: Mapping[str, str],
) -> Finding:
    """`missing` are servers that could not be installed, and why; those that did not start are in `every`."""
    pairs = {one: seen for found in every for one, seen in found.pairs.items()}
    return Finding(
        experiment="serving",
        title="Sponge beside other servers",
        question="How much of what ONNX Runtime can do on one thread reaches clients, at what cost, and how do other "
        "servers compare on the same machine, model, quota and load?",
        command=command,
        settings=_settings(plan, recipes, host, every),
        tables=[
            table
            for found in every
            for table in (servers(found, recipes), beside(found, recipes))
            if table.rows
        ],
        goals=[judge(promise, pairs, plan.least_pairs, recipes) for promise in plan.promises],
        notes=_notes(every, missing),
    )


def servers(found: Found, recipes: Recipes) -> Table:
    """Every server under every load."""
    rows: list[Sequence[Cell]] = []
    for (name, load), samples in found.samples.items():
        sample = merged(samples)
        rows.append(
            (
                recipes[name].title,
                _load(load),
                _rounded(sample.rps),
                _rounded(100 * sample.goodput),
                _rounded(sample.latency_ms(0.5)),
                _rounded(sample.latency_ms(0.99)),
                _rounded(sample.cpu_ms),
                round(found.memory_bytes[name] / 1e6),
                round(100 * sample.client_cpu_s / sample.seconds),
                len(samples),
            )
        )
    return Table(
        title=f"{found.subject}: servers",
        columns=(
            "server", "load", "answers/s", "goodput %", "p50 ms", "p99 ms", "CPU ms an answer", "MB", "client busy %",
            "windows",
        ),
        rows=rows,
        note="Over all windows. Goodput: share of what was offered that was answered right and, in open loops, within "
        "the deadline. Latency from when a request was due, over all of them, unanswered ones as ∞. CPU of all "
        "processes of the server. Of the bare loop an answer is a row, and its latency that of its batch.",
    )  # fmt: skip


def beside(found: Found, recipes: Recipes) -> Table:
    """Sponge against each other server, from the pairs."""
    rows: list[Sequence[Cell]] = []
    for one, pairs in found.pairs.items():
        rows.append(
            (
                recipes[one.rival].title,
                _load(one.load),
                *(_interval(quantity, pairs) for quantity in Quantity if quantity is not Quantity.GOODPUT),
                len(pairs),
            )
        )
    return Table(
        title=f"{found.subject}: Sponge beside each",
        columns=(
            "beside", "load", "answers/s, ratio", "goodput, added", "CPU ms an answer, added", "p50 ms, added", "pairs",
        ),
        rows=rows,
        note="Medians of pairs measured one right after the other, with 90 % bootstrap intervals. CPU added is that of "
        "an answer of Sponge's less the other's: where only Sponge batches, it contains what batches save.",
    )  # fmt: skip


def judge(
    promise: Promise, pairs: Mapping[Comparison, Sequence[Pair]], least_pairs: int, recipes: Recipes
) -> Goal:
    """A promise is kept when the interval reaches it; None where there are too few pairs to say so."""
    about = [
        pair
        for one, seen in pairs.items()
        if (one.subject, one.load) == (promise.subject, promise.load) and promise.rival in (None, one.rival)
        for pair in seen
    ]
    rival = (
        ""
        if promise.rival is None
        else recipes[promise.rival].title
        if promise.rival in recipes
        else promise.rival
    )
    bound = f"≥ {promise.at_least:g}" if math.isfinite(promise.at_least) else f"≤ {promise.at_most:g}"
    what = promise.quantity.value.format(rival=rival)
    goal = f"{promise.subject}, {_load(promise.load)}: {what} {bound}{promise.quantity.unit}"
    if not about:
        return Goal(goal=goal, measured="not measured", met=None)
    found = _bootstrapped(promise.quantity, about)
    if found is None:
        return Goal(goal=goal, measured="no answers", met=None)
    return Goal(
        goal=goal,
        measured=f"{_written(found)}{promise.quantity.unit}, {found.count} pair{'s'[: found.count > 1]}",
        met=(found.high >= promise.at_least and found.low <= promise.at_most)
        if found.count >= least_pairs
        else None,
    )


def _interval(quantity: Quantity, pairs: Sequence[Pair]) -> str:
    found = _bootstrapped(quantity, pairs)
    return NOTHING if found is None else _written(found)


def _bootstrapped(quantity: Quantity, pairs: Sequence[Pair]) -> Interval | None:
    """None if it is no number in any pair, as the difference of two infinities."""
    values = [value for pair in pairs if not math.isnan(value := quantity.of(pair))]
    return bootstrap(values) if values else None


def _written(found: Interval) -> str:
    return f"{_number(found.median)} ({_number(found.low)} to {_number(found.high)})"


def _number(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _load(load: Load) -> str:
    match load:
        case Closed(concurrency):
            return f"{concurrency} at a time"
        case Open(rate, deadline_ms):
            return f"{rate:g}/s, {deadline_ms:g} ms"
        case Loop(rows):
            return f"batches of {rows}"


def _settings(plan: Plan, recipes: Recipes, host: Host, every: Sequence[Found]) -> dict[str, str]:
    seconds = sorted({one.seconds for one in plan.comparisons})
    return machine() | {
        "servers": ", ".join(recipe.title for recipe in recipes.values()),
        "dialects": "; ".join(f"{recipe.title}: {recipe.dialect.value}" for recipe in recipes.values()),
        "CPUs": f"{sorted(host.server_cpus)} for the servers, {sorted(host.client_cpus)} for their client",
        "quota": f"{host.quota_millicores / 1000:g} cores for each server",
        "client": "one process, one gRPC connection to each server, or one HTTP connection for each open request",
        "windows": f"{' or '.join(f'{one:g}' for one in seconds)} s after {plan.lead_s:g} s under the same load; the "
        "two of a pair one right after the other, in turns who is first",
        "others": ", ".join(
            f"{found.others_share:.1%} of the machine during {found.subject}" for found in every
        ),
    }


def _notes(every: Sequence[Found], missing: Mapping[str, str]) -> list[str]:
    most = max(every, key=lambda found: found.others_share)
    others = f"Other processes took up to {most.others_share:.1%} of the machine, most during {most.subject}"
    return [
        others + (": this run supports no claim." if most.others_share > _MOST_OTHERS else "."),
        *(f"Missing: {reason.rstrip('.')}." for reason in missing.values()),
        *(
            f"Missing with {found.subject}: {reason.rstrip('.')}."
            for found in every
            for reason in found.missing.values()
        ),
        *(
            f"Started again with {found.subject}: {reason.rstrip('.')}."
            for found in every
            for reason in found.restarts
        ),
    ]


def _rounded(value: float) -> float | str:
    """JSON knows no infinity."""
    return round(value, 4) if math.isfinite(value) else "∞"
