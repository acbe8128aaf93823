"""What scenarios share, and how their outcomes are told."""

from pathlib import Path

import pytest

from core.config import ConfigError, load
from evaluation.experiment import kinds
from evaluation.experiment.kinds import Options
from evaluation.faults import bed, experiment, soaking
from evaluation.faults.outcome import Check, Outcome, within
from sponge.__main__ import main

OUTCOME = Outcome(
    "engine slow",
    "for a while",
    [
        Check("no failed request", "none", kept=True),
        within("back", [1.0, 4.0], 3.0),
        Check("seen", "–", None),
    ],
)


def test_only_what_is_no_duration_is_broken() -> None:
    assert OUTCOME.broken == []
    assert Outcome("", "", [Check("nothing", "something", kept=False)]).broken == ["nothing: something"]


def test_an_outcome_is_a_row_for_each_check_and_one_goal() -> None:
    rows = experiment.table([OUTCOME]).rows
    assert [row[4] for row in rows] == ["yes", "no", None]
    assert [row[0] for row in rows] == ["engine slow", "", ""]
    goal = experiment.goal(OUTCOME)
    assert (goal.met, goal.measured) == (False, "back within 3 s: 4.0 s at most, in 2")
    assert experiment.goal(Outcome("x", "", [])).met is None


def test_a_cause_that_a_worker_has_twice_in_the_log_is_repeated() -> None:
    log = "\n".join(
        [
            '{"event": "quota not written", "level": "warning", "worker": "a", "error": "after 1 s"}',
            '{"event": "quota not written", "level": "warning", "worker": "b", "error": "after 1 s"}',
            '{"event": "decision", "level": "info", "worker": "a"}',
            '{"event": "decision", "level": "info", "worker": "a"}',
            "a traceback",
            '{"event": "not yet wh',
        ]
    )
    assert bed.repeated(bed.events(log)) == []
    again = '{"event": "quota not written", "level": "warning", "worker": "a", "error": "after 7 s"}'
    assert bed.repeated(bed.events(f"{log}\n{again}")) == ["2 × quota not written: after # s"]


def test_the_shipped_experiments_can_be_read() -> None:
    settings = load(kinds.shipped()["faults"], experiment.Settings)
    assert (settings.kills, settings.engine_s, settings.delay_s, settings.neighbour_s) == (20, 30, 10, 60)
    assert load(kinds.shipped()["soak"], soaking.Settings).seconds == 1200


def test_a_fault_that_nobody_knows_is_named(tmp_path: Path) -> None:
    options = Options("", None, 1, None, lambda _: None, only=["flood"])
    with pytest.raises(ConfigError, match="--only flood: expected one of control-killed, worker-killed"):
        experiment.run(kinds.shipped()["faults"], tmp_path, options)


def test_only_faults_have_parts_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "trust", "--output", str(tmp_path), "--only", "clock"]) == 2
    assert capsys.readouterr().err == (
        "sponge experiment: --only: expected with experiments of the kind faults, not trust\n"
    )
