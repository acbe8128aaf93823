"""Classes of requests, avoidable misses, and cores, from what was recorded."""

import math

import pytest

from evaluation.bench import score
from evaluation.bench.goals import goals
from evaluation.bench.score import Counts, Spread, standings
from evaluation.bench.tables import tables
from evaluation.rows import Outcome
from tests.evaluation.bench.recordings import SERVICE, bench, events, point, row, trial

LATE, REFUSED, DEAD, FAILED, WRONG = (
    Outcome.LATE,
    Outcome.REFUSED,
    Outcome.DEAD,
    Outcome.FAILED,
    Outcome.WRONG,
)


def test_a_request_is_dead_below_the_fastest_execution_and_tight_below_half_as_much_again_as_the_cheapest():
    rows = [
        row(6.0, DEAD, 29.9),
        row(6.0, LATE, 30.0),
        row(6.0, Outcome.ON_TIME, 89.9),
        row(6.0, LATE, 90.0),
        row(6.0, REFUSED),
        row(6.0, FAILED),
        row(6.0, WRONG),
        row(6.0),
    ]
    assert Counts.of(rows, SERVICE) == Counts(
        requests=8, answered=4, on_time=2, dead=1, tight=2, tight_on_time=1, rest=5, avoidable=4, failed=2
    )


def test_what_happens_in_the_warm_up_does_not_count():
    found = standings(
        bench([trial(1, "sponge")]), [events(1.5, [row(4.9, LATE), row(5.0), row(14.9, REFUSED)])]
    )
    for standing in found:  # of all services, and of the only one
        assert standing.counts.requests == 2
        assert standing.counts.avoidable == 1
        assert standing.reserved.rounds == (pytest.approx(15.0),)
        assert standing.used.rounds == (pytest.approx(7.5),)
        assert standing.executing.rounds == (pytest.approx(5.0),)
        assert standing.p99_ms.middle == math.inf


def test_a_cost_between_two_moments_is_on_straight_lines_between_the_points():
    points = [point(0.0, 2.0), point(10.0, 2.0), point(20.0, 2.0)]
    assert score.cost(points, [0.0, 20.0, 60.0], (5.0, 15.0)) == pytest.approx(30.0)
    assert score.cost([], [], (5.0, 15.0)) == 0.0


def test_misses_add_up_over_rounds_and_cores_are_compared_within_each():
    trials = [trial(1, "a"), trial(1, "b"), trial(2, "b"), trial(2, "a")]
    seen = [events(cores, [row(6.0, LATE)]) for cores in (1.0, 2.0, 3.0, 2.4)]
    a, _, b, _ = standings(bench(trials), seen)
    assert (a.policy, b.policy) == ("a", "b")
    assert a.counts.avoidable == 2
    assert a.reserved.rounds == (pytest.approx(10.0), pytest.approx(24.0))
    assert a.reserved.by(b.reserved) == pytest.approx((10 / 20 + 24 / 30) / 2)
    assert Spread((1.0,)).by(Spread((0.0,))) == math.inf


def test_an_answer_costs_what_its_worker_used_and_a_part_of_that_is_executions():
    recorded = bench([trial(1, "sponge")])
    seen = [events(1.2, [row(6.0)] * 90 + [row(6.0, LATE)] * 10 + [row(6.0, REFUSED)] * 20)]
    (found,) = [
        table for table in tables(recorded, standings(recorded, seen)) if table.title.startswith("CPU of a")
    ]
    (cells,) = found.rows
    # 1.2 cores for 10 s, of which a half is used and a third is in executions, for 100 answers.
    assert cells == ["vision", "sponge", *map(pytest.approx, (60.0, 40.0, 20.0)), SERVICE.row_ms]


def judged(*policies, busy=0.5):
    """Goals by their beginnings; `policies` are (name, cores, avoidable misses) of one round."""
    trials = [trial(1, name, busy) for name, _, _ in policies]
    seen = [
        events(cores, [row(6.0)] * (6000 - missed) + [row(7.0, LATE)] * missed)
        for _, cores, missed in policies
    ]
    recorded = bench(trials)
    return goals(recorded, standings(recorded, seen))


def test_goals_are_kept_against_the_whole_host_and_the_smallest_split_that_misses_no_more():
    found = judged(
        ("sponge", 0.8, 6), ("static:MAX", 1.5, 0), ("static:70%", 1.05, 6), ("static:60%", 0.9, 7)
    )
    assert [goal.met for goal in found] == [True, True, True, True]
    assert found[0].measured.startswith("46.7% fewer")
    assert found[1].measured.startswith("23.8% fewer (static:70%")


def test_goals_are_missed():
    found = judged(("sponge", 1.0, 60), ("static:MAX", 1.5, 0), ("static:70%", 1.05, 6))
    assert [goal.met for goal in found] == [False, False, False, True]


def test_where_every_split_misses_more_the_largest_is_what_can_be_compared_with():
    found = judged(("sponge", 0.8, 2), ("static:MAX", 1.5, 3), ("static:70%", 1.05, 9))
    assert found[1].met
    assert "all of them miss more than our 2" in found[1].measured


def test_nothing_is_claimed_of_a_host_that_was_too_busy():
    found = judged(("sponge", 0.8, 0), ("static:MAX", 1.5, 0), busy=0.95)
    assert all(goal.met is None for goal in found)
    assert all(goal.measured.startswith("no claim") for goal in found)


def test_without_ours_there_is_nothing_to_judge():
    assert judged(("static:MAX", 1.5, 0)) == []
