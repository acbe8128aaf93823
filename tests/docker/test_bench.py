"""`sponge bench` on real containers, which it removes."""

import subprocess
import sys
from pathlib import Path

import docker
import pytest

from evaluation.bench.record import Bench, Events
from evaluation.rows import Outcome

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("images")
def test_a_bench_resizes_containers_of_its_own_and_leaves_none(engine: docker.DockerClient, tmp_path: Path):
    flags = ["--workers", "docker", "--policy", "usage", "--vision", "squeezenet", "--rate", "5"]
    flags += ["--seconds", "6", "--warmup-s", "1", "--min-millicores", "300"]
    with subprocess.Popen(
        [sys.executable, "-m", "sponge", "bench", *flags, "--output", str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        output, _ = running.communicate()
    assert running.returncode == 0, output

    bench = Bench.read(tmp_path / "out")
    (trial,) = bench.trials
    seen = Events.read(tmp_path / "out" / trial.directory)
    assert bench.holds_quota
    assert trial.cpu_s["engine"] > 0
    assert not {row.outcome for row in seen.rows} & {Outcome.FAILED, Outcome.WRONG}
    assert any(row.outcome is Outcome.ON_TIME for row in seen.rows)
    assert seen.changes
    assert len({point.cpu_millicores for point in seen.points if point.service == "magika"}) > 1

    mine = f"sponge-bench-{running.pid}-"
    assert [c.name for c in engine.containers.list(all=True) if c.name.startswith(mine)] == []
    assert [n.name for n in engine.networks.list() if n.name.startswith(mine)] == []
