"""`sponge bench` on real containers, which it removes; if it cannot, the next one does."""

import subprocess
import sys
from pathlib import Path

import docker
import pytest

from controlplane.actuators.docker import PROJECT
from evaluation import owner
from evaluation.bench.record import Bench, Events
from evaluation.rows import Outcome
from tests.processes import eventually

ROOT = Path(__file__).parents[2]
FLAGS = ["--workers", "docker", "--policy", "usage", "--vision", "squeezenet", "--rate", "5"]
FLAGS += ["--seconds", "6", "--warmup-s", "1", "--min-millicores", "300"]


def start(output: Path) -> subprocess.Popen[str]:
    """Begin a bench."""
    return subprocess.Popen(
        [sys.executable, "-m", "sponge", "bench", *FLAGS, "--output", str(output)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def made(engine: docker.DockerClient, bench: subprocess.Popen[str]) -> list[str]:
    """Containers and networks of a bench that are there."""
    found = [*engine.containers.list(all=True, ignore_removed=True), *engine.networks.list()]
    return [thing.name for thing in found if thing.name.startswith(f"sponge-bench-{bench.pid}-")]


@pytest.mark.usefixtures("images")
def test_a_bench_resizes_containers_of_its_own_and_leaves_none(
    engine: docker.DockerClient, project: str, tmp_path: Path
):
    with start(tmp_path / "killed") as killed:
        eventually(lambda: made(engine, killed), lambda names: len(names) > 1)
        killed.kill()
    assert made(engine, killed)
    # Of one that is there: this process.
    living = engine.networks.create(f"{project}-living", labels={PROJECT: project, owner.LABEL: owner.this()})

    with start(tmp_path / "out") as running:
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

    assert made(engine, running) == []
    assert made(engine, killed) == []
    assert [network.id for network in engine.networks.list(f"{project}-living")] == [living.id]
    living.remove()
