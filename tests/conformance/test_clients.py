"""Clients that know nothing of Sponge, driven against a worker: what they are used for, they can do."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import models, processes

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def test_triton_aio(tmp_path):
    model = models.scale(tmp_path / "scale.onnx")
    with processes.worker(tmp_path, model, server={"allow_repository_control": True}) as worker:
        told = subprocess.run(
            [sys.executable, HERE / "triton_aio.py", worker.address],
            stdout=subprocess.PIPE,
            check=True,
            timeout=90,
        ).stdout
    said = json.loads(told)
    assert said["answers"] == [2.0 * value for value in range(20)]
    refused = said["streamed"].pop("bad")
    assert "model_name: expected 'scale', got 'another'" in refused
    assert said["streamed"] == {f"{value}": 2.0 * value for value in range(5)}
    assert said["chosen"] == ["chosen", 10.0]
    assert said["unloaded"] == ["StatusCode.UNAVAILABLE", "the model is unloaded"]
    assert said["again"] == 12.0
    assert said["index"] == [["scale", "READY"]]


def test_k6_in_an_open_loop(tmp_path):
    with processes.worker(tmp_path, models.scale(tmp_path / "scale.onnx")) as worker:
        report = tmp_path / "report.json"
        environment = {
            "ADDRESS": worker.address,
            "PROTOS": str(ROOT / "protos"),
            "K6_NO_USAGE_REPORT": "true",
            "HOME": str(tmp_path),
        }
        ended = subprocess.run(
            [Path(sys.executable).with_name("k6"), "run", "--summary-export", report, HERE / "load.js"],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
        )
        # k6 ends with 99 where a check failed.
        assert ended.returncode == 0, ended.stdout[-2000:]
        metrics = json.loads(report.read_text())["metrics"]
        answered = metrics["iterations"]["count"]
        assert answered > 10
        assert metrics["checks"]["passes"] == 3 * answered
        assert metrics["checks"]["fails"] == 0
        assert worker.ended("on_time") + worker.ended("late") == answered
