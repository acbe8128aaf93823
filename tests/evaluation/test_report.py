"""Table, JSON and page of a made-up run in which every kind of outcome occurs."""

import dataclasses
import io
import json
import math
import random
import re
from pathlib import Path

import pytest
from rich.console import Console

from evaluation import report, rows, table
from evaluation.result import Change, Cost, Point, Result, Run
from evaluation.rows import Outcome, Row
from tests.evaluation import documents

SECONDS = 100.0
SLO_MS = {"vision": 1000.0, "files": 150.0}
RATE = {"vision": 6, "files": 20}


def load(at_s: float) -> float:
    """Burst and lull, as factors of the base rate."""
    return 2.0 if 20 <= at_s < 40 else 0.3 if 60 <= at_s < 80 else 1.0


def a_row(service: str, at_s: float, outcome: Outcome, latency_ms: float, budget_ms: float) -> Row:
    answered = outcome in (Outcome.ON_TIME, Outcome.LATE, Outcome.WRONG)
    return Row(
        service=service,
        scheduled_s=at_s,
        sent_s=at_s,
        finished_s=at_s + latency_ms / 1000,
        deadline_s=at_s + SLO_MS[service] / 1000,
        slo_ms=SLO_MS[service],
        size_bytes=200_000,
        outcome=outcome,
        budget_on_arrival_ms=budget_ms,
        answered=answered,
        status="OK" if answered else "RESOURCE_EXHAUSTED",
    )


def a_run(policy: str, seed: int, quota: dict[str, tuple[int, int]]) -> Run:
    """`quota` in millicores, by service: usually, and in the burst."""
    rng = random.Random(seed)
    made, points, changes = [], [], []
    for service, slo_ms in SLO_MS.items():
        usual, burst = quota[service]
        at_s = 0.0
        while (at_s := at_s + rng.expovariate(RATE[service] * load(at_s))) < SECONDS:
            network_ms = slo_ms * min(0.1 * rng.paretovariate(1.6), 1.6)
            latency_ms = network_ms + slo_ms * 0.12 * (1 + rng.expovariate(2 / load(at_s)))
            outcome = Outcome.ON_TIME if latency_ms <= slo_ms else Outcome.LATE
            if outcome is Outcome.LATE and rng.random() < 0.3:
                outcome = Outcome.REFUSED
            made.append(a_row(service, at_s, outcome, latency_ms, slo_ms - network_ms))
        for tick in range(int(SECONDS * 2)):
            at_s = tick / 2
            bursting = 20.5 <= at_s < 44
            queue = rng.randrange(int(2 + 4 * load(at_s)))
            millicores = burst if bursting else usual
            used = min(0.35 * load(at_s) * rng.uniform(0.8, 1.1), millicores / 1000)
            points.append(Point(at_s, service, millicores, 1, 1, 4, queue, RATE[service], used, 0.0))
        if burst != usual:
            grow = "needed to keep up with 12.0 requests/s (utilisation 81%, expected misses 0.02/s)"
            changes.append(Change(20.5, service, "grow", grow, usual, burst))
            changes.append(Change(44.0, service, "shrink", "the least allowed is enough <b>", burst, usual))
    cost = {
        service: Cost(
            sum(p.cpu_millicores for p in points if p.service == service) / 2000, 21.7 + len(service)
        )
        for service in SLO_MS
    }
    return Run(policy, made, points, changes, cost, 11.2, 0.63, SECONDS)


def a_result() -> Result:
    return Result(
        settings={
            "host": "2 CPUs, Intel Xeon <2.5 GHz>",
            "offered": "35 % of the host in the mean, 70 % in the burst",
            "rates": "vision 6.0/s, files 20.0/s",
            "bandwidth": "synthetic 4G, seed 1",
            "versions": "sponge 0.1.0, onnxruntime 1.31, Python 3.11",
            "command": "sponge demo --seed 1 --out demo-report",
        },
        slo_ms=SLO_MS,
        minimum_service_ms={"vision": 40.0, "files": 6.0},
        holds_quota=True,
        runs=[
            a_run("best fixed split", 2, {"vision": (1200, 1200), "files": (500, 500)}),
            a_run("sponge", 1, {"vision": (600, 1200), "files": (300, 500)}),
        ],
    )


def with_runs(result: Result, **changes: object) -> Result:
    return dataclasses.replace(result, runs=[dataclasses.replace(run, **changes) for run in result.runs])


def small(policy: str, outcomes: list[tuple[Outcome, float, float]], cost: Cost) -> Run:
    made = [a_row("vision", float(i), *outcome) for i, outcome in enumerate(outcomes)]
    return Run(policy, made, [], [], {"vision": cost}, 1.0, 0.5, 10.0)


@pytest.fixture
def four_requests() -> Result:
    """Of which Sponge answers two in time and one late; one was dead."""
    outcomes = [
        (Outcome.ON_TIME, 100.0, 900.0),
        (Outcome.ON_TIME, 200.0, 800.0),
        (Outcome.LATE, 1500.0, 500.0),
        (Outcome.REFUSED, 1300.0, 10.0),
    ]
    fixed = [(Outcome.ON_TIME, 100.0, 900.0)] * 3 + outcomes[-1:]
    return dataclasses.replace(
        a_result(),
        slo_ms={"vision": 1000.0},
        runs=[small("best fixed split", fixed, Cost(20.0, 5.0)), small("sponge", outcomes, Cost(10.0, 4.0))],
    )


def printed(result: Result, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table.rich_table(result))
    return out.getvalue()


def cells(text: str, title: str) -> str:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(title + "  ")]
    return " ".join(line.strip().removeprefix(title).split())


def test_table_tells_the_runs_side_by_side(four_requests: Result) -> None:
    text = printed(four_requests)
    assert cells(text, "offered") == "4 4"
    assert cells(text, "on time") == "2 3"
    assert cells(text, "late") == "1 0"
    assert cells(text, "refused") == "0 0"
    assert cells(text, "dead on arrival") == "1 1"
    assert cells(text, "on time, of all") == "50.0 % 75.0 %"
    assert cells(text, "on time, dead aside") == "66.6 % 100.0 %"
    assert cells(text, "p50 ms") == "1500 100"
    assert cells(text, "p99 ms") == "∞ ∞"
    assert cells(text, "core-s reserved") == "10.0 20.0"
    assert (
        "Sponge reserved 10.0 core-seconds where the best fixed split reserved 20.0, with 50.0 %"
        in " ".join(text.split())
    )


def test_table_fits_eighty_columns() -> None:
    text = printed(a_result())
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text


def test_what_no_quota_held_was_asked_for(four_requests: Result) -> None:
    text = printed(dataclasses.replace(four_requests, holds_quota=False))
    assert "core-s asked for" in text
    assert "reserved" not in text


def test_json_has_the_same_numbers_and_null_for_infinity(four_requests: Result) -> None:
    told = json.loads(json.dumps(table.as_json(four_requests), allow_nan=False))
    ours, theirs = told["runs"]
    assert (ours["policy"], theirs["policy"]) == ("sponge", "best fixed split")
    vision = ours["services"]["vision"]
    assert [vision[name] for name in ("offered", "on_time", "late", "refused", "dead")] == [4, 2, 1, 0, 1]
    assert (vision["p50_ms"], vision["p99_ms"]) == (1500.0, None)
    assert (vision["core_seconds_reserved"], vision["core_seconds_used"]) == (10.0, 4.0)
    assert ours["total"]["on_time_share"] == 0.5
    assert (ours["host_busy_share"], ours["generator_core_seconds"]) == (0.5, 1.0)
    ratios = told["ratios"]["sponge / best fixed split"]
    assert ratios["total"] == ratios["services"]["vision"]
    assert ratios["total"] == {"reserved": 0.5, "used": 0.8, "on_time_share": pytest.approx(2 / 3)}
    assert told["objection"] is None


def test_a_busy_host_ends_all_claims(four_requests: Result, tmp_path: Path) -> None:
    result = with_runs(four_requests, host_busy_share=0.95)
    told = table.as_json(result)
    assert told["ratios"] is None
    assert "nothing is claimed" in told["objection"] == told["headline"]
    assert "nothing is claimed" in " ".join(printed(result).split())
    page = report.write(result, tmp_path).read_text()
    assert "nothing is claimed" in page
    assert 'class="card"' not in page


def test_one_run_alone_is_compared_with_nothing(four_requests: Result, tmp_path: Path) -> None:
    result = dataclasses.replace(four_requests, runs=four_requests.runs[1:])
    assert table.headline(result) == "Sponge reserved 10.0 core-seconds, with 50.0 % of requests on time."
    assert table.as_json(result)["ratios"] == {}
    report.write(result, tmp_path)


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.0 %"), (0.99999, "99.9 %"), (0.57, "57.0 %"), (0.0, "0.0 %")]
)
def test_only_what_missed_nothing_is_a_hundred_percent(share: float, text: str) -> None:
    assert table.percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"), [(math.inf, "∞"), (5.04, "5.0"), (99.94, "99.9"), (99.96, "100"), (1234.5, "1234")]
)
def test_milliseconds(value: float, text: str) -> None:
    assert table.milliseconds(value) == text


def test_page_is_well_formed_complete_and_fetches_nothing(tmp_path: Path) -> None:
    result = a_result()
    path = report.write(result, tmp_path / "new" / "report")
    text = path.read_text()
    page = documents.parsed(text)
    beside = {file.name for file in path.parent.iterdir()}
    assert beside == {"report.html", "rows-sponge.csv", "rows-best-fixed-split.csv"}
    assert {link for link in page.links if not link.startswith("#")} == beside - {"report.html"}
    assert "url(http" not in text
    assert "<script" not in text
    for title in (
        "CPU reserved",
        "Offered load",
        "Queue depth",
        "Budget left on arrival",
        "Latency, sponge",
    ):
        assert text.count(title) == len(SLO_MS)
    assert "&lt;2.5 GHz&gt;" in text
    assert "the least allowed is enough &lt;b&gt;" in text
    assert "sponge demo --seed 1 --out demo-report" in text
    assert rows.read(path.parent / "rows-sponge.csv") == tuple(result.runs[1].rows)


def test_page_colours_everything_by_variables_it_defines(tmp_path: Path) -> None:
    text = report.write(a_result(), tmp_path).read_text()
    assert not re.findall(r"(?:fill|stroke): #", text)
    assert set(re.findall(r"var\((--[a-z-]+)\)", text)) <= set(re.findall(r"(--[a-z-]+):", text))


def test_page_is_the_same_for_the_same_result(tmp_path: Path) -> None:
    first, second = (report.write(a_result(), tmp_path / name).read_bytes() for name in "ab")
    assert first == second
