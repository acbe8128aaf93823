"""`sponge bench` as people run it."""

import json
import subprocess
import sys

import pytest

from core.config import load
from evaluation.bench.experiment import Experiment
from evaluation.bench.policy import parse
from evaluation.bench.record import Bench, Events
from evaluation.experiment import kinds
from evaluation.rows import Outcome
from sponge.__main__ import main
from tests.evaluation.processes import groups, planes


@pytest.mark.timeout(300)
def test_two_policies_serve_the_same_requests_and_the_tables_come_from_the_files_again(
    models, tmp_path, capsys
):
    flags = ["--policy", "paper", "--policy", "static:MAX", "--seconds", "3", "--warmup-s", "1", "--json"]
    flags += ["--vision", "squeezenet", "--rate", "5", "--models", str(models), "--output", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "sponge", "bench", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        output, errors = running.communicate()
    assert running.returncode == 0, errors
    finding = json.loads(output)

    bench = Bench.read(tmp_path)
    assert [trial.policy for trial in bench.trials] == ["paper", "static:MAX"]
    first, second = (Events.read(tmp_path / trial.directory) for trial in bench.trials)
    assert len(first.rows) > 10
    assert [row.scheduled_s for row in first.rows] == [row.scheduled_s for row in second.rows]
    for seen in (first, second):
        assert not {row.outcome for row in seen.rows} & {Outcome.FAILED, Outcome.WRONG}
        assert {point.service for point in seen.points} == {"vision", "magika"}
    assert len({(point.service, point.cpu_millicores) for point in second.points}) == 2  # nothing changed
    assert second.changes == []
    assert all(seconds > 0 for trial in bench.trials for seconds in trial.cpu_s.values())
    assert (planes(tmp_path), groups(running.pid)) == ([], [])

    assert main(["bench", "--from", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == finding


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--policy", "best"], "--policy: expected sponge, "),
        (["--rounds", "0"], "flags: rounds: "),
        (["--arrivals", "no-such-file"], "no-such-file: cannot be read"),
        (["--bandwidth", "no-such-file"], "no-such-file"),
        (["--from", "no-such-folder"], "no-such-folder"),
    ],
)
def test_what_cannot_be_run_is_one_line_before_anything_is_prepared(flags, problem, tmp_path, capsys):
    models = tmp_path / "models"
    assert main(["bench", *flags, "--models", str(models), "--output", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("sponge bench: ")
    assert problem in lines[0]
    assert not models.exists()


def test_experiments_that_are_shipped_can_be_read():
    benches = [path for path in kinds.shipped().values() if kinds.read(path).kind == "bench"]
    assert benches
    for path in benches:
        experiment = load(path, Experiment)
        assert [parse(name) for name in experiment.bench.policies]
