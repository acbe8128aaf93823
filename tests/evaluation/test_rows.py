import math
from dataclasses import replace

import pytest

from evaluation.rows import Outcome, Row, judge, read, summarise, write

ROW = Row(
    service="vision",
    scheduled_s=1.0,
    sent_s=1.001,
    finished_s=1.5,
    deadline_s=2.0,
    slo_ms=1000.0,
    size_bytes=300_000,
    outcome=Outcome.ON_TIME,
    budget_on_arrival_ms=900.0,
    answered=True,
)
LATE = replace(ROW, outcome=Outcome.LATE, finished_s=2.5)
GIVEN_UP = replace(LATE, answered=False, status="DEADLINE_EXCEEDED", finished_s=4.0)
REFUSED = replace(GIVEN_UP, outcome=Outcome.REFUSED, status="RESOURCE_EXHAUSTED", finished_s=1.2)
FAILED = replace(GIVEN_UP, outcome=Outcome.FAILED, status="UNAVAILABLE", detail='lost, "gone"')
WRONG = replace(ROW, outcome=Outcome.WRONG)


def test_outcomes_are_counted_and_add_up():
    summary = summarise([ROW, ROW, LATE, GIVEN_UP, REFUSED, FAILED, WRONG], {"vision": 50.0})["vision"]
    counts = (summary.on_time, summary.late, summary.refused, summary.dead, summary.failed, summary.wrong)
    assert counts == (2, 2, 1, 0, 1, 1)
    assert sum(counts) == summary.offered == 7
    assert summary.attainment == pytest.approx(2 / 7)


def test_what_the_network_left_too_little_for_is_dead_on_arrival():
    rows = [replace(row, budget_on_arrival_ms=40.0) for row in (ROW, LATE, REFUSED, FAILED)]
    summary = summarise(rows, {"vision": 50.0})["vision"]
    # Made it all the same; failing is never the network's fault.
    assert (summary.on_time, summary.dead, summary.failed) == (1, 2, 1)
    assert summary.late == summary.refused == 0
    assert judge(rows[1], 40.0) is rows[1]


def test_tight_budgets_are_counted_apart():
    budgets = [49.0, 50.0, 74.0, 75.0]
    rows = [replace(ROW, budget_on_arrival_ms=budget) for budget in budgets]
    rows.append(replace(LATE, budget_on_arrival_ms=60.0))
    summary = summarise(rows, {"vision": 50.0})["vision"]
    assert (summary.tight, summary.tight_on_time) == (3, 2)


def test_percentiles_are_over_all_offered_and_unanswered_ones_are_infinite():
    rows = [replace(ROW, finished_s=1.0 + i / 100) for i in range(1, 98)] + [GIVEN_UP, REFUSED, FAILED]
    summary = summarise(rows, {})["vision"]
    assert summary.p50_ms == pytest.approx(510)
    assert summary.p95_ms == pytest.approx(960)
    assert summary.p99_ms == math.inf


def test_a_late_answer_has_a_latency_and_a_wrong_one_has_none():
    assert LATE.latency_s == 1.5
    assert WRONG.latency_s == math.inf


def test_services_are_summed_up_apart():
    summaries = summarise([ROW, replace(LATE, service="magika"), ROW], {})
    assert list(summaries) == ["vision", "magika"]
    assert (summaries["vision"].offered, summaries["magika"].late) == (2, 1)


def test_csv_gives_back_what_was_written(tmp_path):
    rows = (ROW, LATE, REFUSED, FAILED, replace(ROW, arrived_s=1.1, started_s=1.25, finished_s=1 / 3))
    write(tmp_path / "rows.csv", rows)
    assert read(tmp_path / "rows.csv") == rows


def test_foreign_csv_is_refused_by_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"rows\.csv: line 1: expected the columns service,"):
        read(path)
    write(path, [ROW, ROW])
    path.write_text(path.read_text().replace("on_time", "early", 1))
    with pytest.raises(ValueError, match=r"rows\.csv: line 2: 'early' is not a valid Outcome"):
        read(path)
