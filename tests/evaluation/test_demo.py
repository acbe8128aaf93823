"""`sponge demo` and `sponge traffic` as people run them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation import demo
from sponge.__main__ import main
from tests.evaluation.processes import groups, planes
from tests.processes import PATIENCE_S, eventually


def command(models: Path, output: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "sponge", "demo", "--models", str(models), "--output", str(output), *more]


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_short_demo_runs_both_policies_and_leaves_a_report_and_nothing_else(models, tmp_path):
    with subprocess.Popen(
        command(models, tmp_path, "--seconds", "3", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        output, errors = running.communicate()
    assert running.returncode == 0, errors
    runs = json.loads(output)["runs"]
    assert [run["policy"] for run in runs] == [demo.SPONGE, demo.FIXED]
    assert len({run["total"]["offered"] for run in runs}) == 1
    for service in (service for run in runs for service in run["services"].values()):
        assert service["offered"] > 0
        assert (service["failed"], service["wrong"]) == (0, 0)
        assert service["core_seconds_reserved"] > 0
    assert (tmp_path / "report.html").exists()
    assert (planes(tmp_path), groups(running.pid)) == ([], [])


@pytest.mark.timeout(300)
def test_ctrl_c_twice_stops_all_that_the_demo_started(models, tmp_path):
    with subprocess.Popen(
        command(models, tmp_path, "--seconds", "2"), stderr=subprocess.PIPE, text=True
    ) as running:
        eventually(lambda: planes(tmp_path), lambda found: len(found) == 3)
        running.send_signal(signal.SIGINT)
        eventually(lambda: planes(tmp_path), lambda found: len(found) < 3)  # it is stopping them
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130, errors
    assert errors.splitlines()[-1] == "sponge: interrupted; everything it started is stopped"
    assert (planes(tmp_path), groups(running.pid)) == ([], [])


def test_traffic_without_a_control_plane_ends_in_one_line_before_anything_is_prepared(tmp_path, capsys):
    models = tmp_path / "models"
    assert main(["traffic", "--control", "127.0.0.1:1", "--models", str(models)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("sponge: control plane at 127.0.0.1:1: UNAVAILABLE: ")
    assert not models.exists()
