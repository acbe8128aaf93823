"""The whole of `make bench-serving` at its smallest: whether it works, not how fast anything is."""

import json
import os

import pytest

from core.cgroup import usable_parent
from evaluation.experiment.finding import Finding
from evaluation.serving.__main__ import main
from evaluation.serving.recipes import BARE, ECHO, ECHO_MODEL, SPONGE

_KEYS = {"server", "model", "mode", "rps", "goodput", "p50_ms", "p99_ms", "cpu_ms_per_request", "rss_mb"}


@pytest.mark.skipif(
    usable_parent() is None or len(os.sched_getaffinity(0)) < 2,
    reason="needs two CPUs, and a control group may be made",
)
def test_servers_are_measured_beside_each_other(capsys, tmp_path):
    cpus = os.sched_getaffinity(0)
    assert main(["--quick", "--pairs", "2", "--output", str(tmp_path)]) == 0
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
    assert {line["server"] for line in lines} == {SPONGE, BARE, ECHO, ECHO_MODEL}
    for line in lines:
        assert line.keys() >= _KEYS
        assert line["wrong"] == 0
        assert line["rps"] > 0
        assert line["rss_mb"] > 0
        level = {"closed": "concurrency", "open": "rate", "loop": "batch"}[line["mode"]]
        assert line[level] > 0
    found = Finding.read(tmp_path / "serving.json")
    assert found.command == "make bench-serving ARGS='--quick --pairs=2'"
    assert [table.title for table in found.tables] == ["mlp: servers", "mlp: Sponge beside each"]
    beside = found.tables[1]
    assert [row[-1] for row in beside.rows] == [2, 2, 2, 2]
    (goal,) = found.goals
    assert goal.goal == "mlp, 2 at a time: requests/s over grpc.aio echo that runs the row ≥ 0.75 ×"
    assert goal.measured.endswith("×, 2 pairs")
    assert goal.met is not None
    assert "mlp: servers" in said.out
    assert os.sched_getaffinity(0) == cpus


def test_an_unknown_model_or_peer_is_told(capsys):
    for flag, known in (
        ("--models", "resnet50, minilm, mlp, bulk"),
        ("--peers", "mlserver, mlserver-batching, pytriton"),
    ):
        with pytest.raises(SystemExit):
            main([flag, "unknown"])
        assert f"{flag}: expected some of {known}" in capsys.readouterr().err
