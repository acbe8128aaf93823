"""What scenarios share, and how their outcomes are told."""

from pathlib import Path

import pytest

from core.config import ConfigError, load
from evaluation.experiment import kinds
from evaluation.experiment.kinds import Options
from evaluation.faults import bed, experiment, soaking
from evaluation.faults.outcome import Check, Outcome, within
from evaluation.serving.subjects import Subject
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


async def test_what_never_comes_about_is_told_of_its_fault_after_what_was_checked(tmp_path: Path) -> None:
    async def stopped(_size: experiment.Size) -> Outcome:
        async with bed.scenario("engine stopped", "for a while") as checks:
            checks.append(Check("no container restarted", "none", kept=True))
            raise bed.NeverHeld("little for both: not within 90 s")

    async def nameless(_size: experiment.Size) -> Outcome:
        raise bed.NeverHeld("little for both: not within 90 s")

    subject = Subject("m", tmp_path, "x", "FP32", (1,), "y", (1,), 1, (), lambda _expected, _answer: True)
    size = experiment.Size(subject, tmp_path, load(kinds.shipped()["faults"], experiment.Settings))
    outcome = await experiment.made("engine-stopped", size, {"engine-stopped": stopped})
    assert (outcome.fault, outcome.done) == ("engine stopped", "for a while")
    assert [row[2:] for row in experiment.table([outcome]).rows] == [
        ["no container restarted", "none", "yes"],
        ["what was to come about", "little for both: not within 90 s", "no"],
    ]
    assert experiment.goal(outcome).met is False
    assert (await experiment.made("x", size, {"x": nameless})).fault == "x"


async def test_what_is_awaited_for_a_check_is_told_as_it_was_at_last() -> None:
    values = [1, 2, 3]

    async def read() -> int:
        return values.pop(0)

    assert await bed.at_last(read, lambda value: value > 1) == 2
    assert await bed.at_last(read, lambda value: value > 3, patience_s=-1.0) == 3


@pytest.mark.parametrize(("after", "kept"), [(800, True), (300, False), (200, False)])
def test_an_allocation_that_does_not_follow_is_no(after: int, kept: bool) -> None:
    check = bed.follows("one that needs more gets more", 300, after)
    assert (check.measured, check.kept) == (f"300 → {after} millicores", kept)


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
