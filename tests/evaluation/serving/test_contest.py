import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from core.cgroup import usable_parent
from evaluation.process import StartError
from evaluation.serving import contest, running, subjects
from evaluation.serving.plan import Comparison, Plan
from evaluation.serving.recipes import ECHO, ECHO_MODEL, OURS, SPONGE
from evaluation.serving.sample import Closed
from evaluation.serving.subjects import MLP

pytestmark = pytest.mark.skipif(
    usable_parent() is None or len(os.sched_getaffinity(0)) < 2,
    reason="needs two CPUs, and a control group may be made",
)

COMPARISONS = [Comparison(MLP, Closed(2), rival, pairs=3, seconds=0.2) for rival in (ECHO, ECHO_MODEL)]
PLAN = Plan(COMPARISONS, (), least_pairs=3, lead_s=0.1, warm_s=0.1)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return subjects.build(MLP, tmp_path_factory.mktemp("mlp"))


async def run(subject, folder, recipes, progress=lambda _: None):
    return await contest.run(subject, PLAN, recipes, running.divide(), folder, progress)


def broken(name):
    return replace(OURS[name], command=lambda _: ("/bin/sh", "-c", "echo no; exit 1"))


async def test_what_does_not_start_is_missing_and_the_others_go_on(subject, tmp_path):
    found = await run(subject, tmp_path, OURS | {ECHO: broken(ECHO)})
    assert found.missing == {ECHO: "echo: exited: no"}
    assert {one.rival: len(pairs) for one, pairs in found.pairs.items()} == {ECHO_MODEL: 3}
    assert found.memory_bytes.keys() == {SPONGE, ECHO_MODEL}
    assert found.restarts == []


async def test_without_sponge_nothing_is_compared(subject, tmp_path):
    with pytest.raises(StartError, match="sponge: exited: no"):
        await run(subject, tmp_path, OURS | {SPONGE: broken(SPONGE)})


async def test_a_server_without_a_recipe_is_left_out(subject, tmp_path):
    recipes = {name: OURS[name] for name in (SPONGE, ECHO)}
    found = await run(subject, tmp_path, recipes)
    assert {one.rival for one in found.pairs} == {ECHO}
    assert {name for name, _ in found.samples} == {SPONGE, ECHO}
    assert all(sample.wrong == 0 for samples in found.samples.values() for sample in samples)


async def test_a_server_that_ends_meanwhile_is_started_again(subject, tmp_path):
    killed = []

    def progress(line):
        if line.startswith("mlp: pair 2 of 3 with echo,") and not killed:
            groups = usable_parent().cpu.glob(f"sponge-serving-{os.getpid()}-*/cgroup.procs")
            for pid in (int(pid) for group in groups for pid in group.read_text().split()):
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if "evaluation.serving.echo" in words and "--model" not in words:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    found = await run(subject, tmp_path, OURS, progress)
    assert len(killed) == 1
    assert len(found.restarts) == 1
    assert found.restarts[0].startswith("echo: exited: ")
    assert found.missing == {}
    assert {one.rival: len(pairs) for one, pairs in found.pairs.items()} == {ECHO: 2, ECHO_MODEL: 3}
    assert len(found.samples[ECHO, Closed(2)]) == 2
