"""What is promised of a container that is resized over and over, and how it is told."""

from collections import Counter

from core.config import load
from evaluation.endurance.steady import Answers
from evaluation.experiment import kinds, resizes
from evaluation.experiment.resizes import Lived


def lived(**what) -> Lived:
    return Lived("docker", Answers(right=100), seconds=[0.02, 0.03], **what)


def test_the_shipped_experiment_is_a_thousand_resizes():
    path = kinds.shipped()["resizes"]
    assert load(path, resizes.Settings).resizes == 1000
    assert kinds.run_of(kinds.read(path).kind) is resizes.run


def test_a_kill_a_restart_a_failed_request_and_a_quota_astray_each_break_the_promise():
    failed = Lived("docker", Answers(right=99, failed=Counter({"UNAVAILABLE": 1})))
    cases = [lived(), lived(oom_kills=1), lived(died="started again"), lived(cpu_astray=1), failed]
    assert [goal.met for goal in resizes.goals(cases)] == [True, False, False, False, False]
    assert resizes.goals([lived()])[0].measured == (
        "0 OOM kills in 2 resizes, still the same process, 0 of 100 requests failed"
    )


def test_what_was_never_lowered_left_nothing():
    table = resizes.table([lived(), lived(lowered=1, least_free_bytes=64 << 20)])
    column = table.columns.index("least left, MiB")
    assert [row[column] for row in table.rows] == [None, 64.0]


def test_an_end_is_told_as_the_engine_tells_it():
    began = {"StartedAt": "then"}
    runs = {"OOMKilled": False, "StartedAt": "then", "Running": True, "ExitCode": 0}
    for state, restarts, told in (
        ({}, 0, ""),
        ({"OOMKilled": True}, 0, "killed for want of memory"),
        ({}, 1, "started again"),
        ({"StartedAt": "later"}, 0, "started again"),
        ({"Running": False, "ExitCode": 137}, 0, "ended with 137"),
    ):
        assert resizes._died(began, {"State": runs | state, "RestartCount": restarts}) == told
