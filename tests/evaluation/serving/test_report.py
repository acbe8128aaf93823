import json

from evaluation.serving import report
from evaluation.serving.contest import Found
from evaluation.serving.pairs import Pair
from evaluation.serving.plan import Comparison, Promise, Quantity
from evaluation.serving.recipes import BARE, ECHO_MODEL, OURS, SPONGE
from evaluation.serving.sample import Closed, Loop, Open
from tests.evaluation.serving.samples import sample

ONE = Comparison("mlp", Closed(8), ECHO_MODEL, 12, 1.0)


def pairs(*ratios):
    return [Pair(sample(seconds=2.0 / ratio), sample()) for ratio in ratios]


def judge(ratios, **bound):
    promise = Promise("mlp", Closed(8), ECHO_MODEL, Quantity.THROUGHPUT, **bound)
    return report.judge(promise, {ONE: pairs(*ratios)}, 12, OURS)


def test_a_promise_is_kept_when_the_interval_reaches_it():
    spread = [0.80, 0.85, 0.90, 0.90, 0.95, 1.00, 1.00, 1.05, 1.10, 1.10, 1.15, 1.20]
    assert judge(spread, at_least=0.9).met
    assert judge(spread, at_least=1.05).met  # the median is 1.0, the interval goes further
    assert judge(spread, at_least=1.2).met is False
    assert judge([1.0] * 12, at_least=1.01).met is False
    assert judge([1.0] * 12, at_most=0.99).met is False


def test_a_goal_prints_its_interval():
    goal = judge([0.97] * 12, at_least=0.95)
    assert goal.goal == "mlp, 8 at a time: requests/s over grpc.aio echo that runs the row ≥ 0.95 ×"
    assert goal.measured == "0.97 (0.97 to 0.97) ×, 12 pairs"


def test_fewer_pairs_than_promised_say_nothing():
    goal = judge([1.25] * 11, at_least=0.95)
    assert (goal.measured, goal.met) == ("1.25 (1.25 to 1.25) ×, 11 pairs", None)
    assert judge([1.25] * 12, at_least=0.95).met


def test_numbers_are_written_to_be_read():
    assert judge([1250.0] * 12, at_least=0).measured.startswith("1,250 (")
    assert judge([0.12345] * 12, at_least=0).measured.startswith("0.123 (")
    nothing = Pair(sample(latencies_s=(), in_time=0), sample())
    found = Found("mlp", {ONE: [nothing]}, {}, {}, {}, [], 0.0)
    assert report.beside(found, OURS).rows[0][2:6] == (
        "0 (0 to 0)", "-1 (-1 to -1)", "∞ (∞ to ∞)", "∞ (∞ to ∞)",
    )  # fmt: skip


def test_what_was_not_measured_is_neither_kept_nor_broken():
    promise = Promise("mlp", Closed(1), "mlserver", Quantity.THROUGHPUT, at_least=2.0)
    goal = report.judge(promise, {ONE: pairs(1.0)}, 1, OURS)
    assert (goal.measured, goal.met) == ("not measured", None)
    assert "over mlserver" in goal.goal


def test_where_neither_answered_there_is_no_difference():
    nothing = sample(latencies_s=(), in_time=0, unanswered=4)
    promise = Promise("mlp", Closed(8), ECHO_MODEL, Quantity.P50_ADDED, at_most=0.3)
    goal = report.judge(promise, {ONE: [Pair(nothing, nothing)]}, 1, OURS)
    assert (goal.measured, goal.met) == ("no answers", None)
    found = Found("mlp", {ONE: [Pair(nothing, nothing)]}, {}, {}, {}, [], 0.0)
    assert report.beside(found, OURS).rows[0][5] == "–"


def test_what_is_sponges_alone_counts_all_pairs():
    load = Open(600, 50)
    seen = {
        Comparison("mlp", load, ECHO_MODEL, 12, 1.0): pairs(1.0, 1.0),
        Comparison("mlp", load, BARE, 12, 1.0): pairs(1.0),
    }
    goal = report.judge(Promise("mlp", load, None, Quantity.GOODPUT, at_least=0.95), seen, 3, OURS)
    assert (goal.measured, goal.met) == ("1 (1 to 1), 3 pairs", True)


def test_lines_are_json_of_all_windows_and_infinity_is_null():
    found = Found(
        subject="mlp",
        pairs={},
        samples={
            (SPONGE, Closed(8)): [sample(), sample(seconds=4.0)],
            (SPONGE, Open(600, 50)): [sample(latencies_s=(), in_time=0, unanswered=4)],
            (BARE, Loop(32)): [sample()],
        },
        memory_bytes={SPONGE: 100_000_000, BARE: 50_000_000},
        missing={},
        restarts=[],
        others_share=0.01,
    )
    closed, opened, loop = json.loads(json.dumps(report.lines(found), allow_nan=False))
    assert (closed["mode"], closed["concurrency"], closed["rss_mb"]) == ("closed", 8, 100.0)
    assert closed["rps"] == round(8 / 6, 1)
    assert (opened["rate"], opened["deadline_ms"], opened["goodput"]) == (600, 50, 0.0)
    assert opened["p50_ms"] is opened["cpu_ms_per_request"] is None
    assert (loop["mode"], loop["batch"]) == ("loop", 32)
    table = report.servers(found, OURS)
    assert [row[0] for row in table.rows] == ["Sponge", "Sponge", "ONNX Runtime in a loop"]
    assert table.rows[1][4] == "∞"
