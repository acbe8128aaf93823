import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from core.cgroup import Cgroup, usable_parent
from evaluation.process import StartError
from evaluation.serving import client, measuring, running, subjects
from evaluation.serving.recipes import ECHO, ECHO_MODEL, OURS, SPONGE, Dialect, Recipe
from evaluation.serving.sample import Closed, Open

pytestmark = pytest.mark.skipif(
    usable_parent() is None or len(os.sched_getaffinity(0)) < 2,
    reason="needs two CPUs, and a control group may be made",
)

# Something that leaves a child behind when it is stopped, and never answers.
_PARENT = "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); print('up', flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return subjects.build(subjects.MLP, tmp_path_factory.mktemp("mlp"))


def state(pid):
    """The letter of a process; Z, as of one that nobody has waited for, if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


async def until(pids, letter):
    while any(state(pid) != letter for pid in pids):  # noqa: ASYNC110 - of other processes
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def started(recipe, subject, folder):
    async with (
        running.started(recipe, subject, folder, running.divide()) as server,
        client.connect(recipe.dialect, server.address) as way,
    ):
        yield server, way


async def test_a_server_has_its_cpus_and_quota_and_stands_still_when_told(subject, tmp_path):
    host = running.divide()
    assert not host.server_cpus & host.client_cpus
    async with running.started(OURS[ECHO], subject, tmp_path, host) as server:
        async with client.connect(Dialect.GRPC, server.address) as way:
            await measuring.wait_until_right(server, way)
        (pid,) = server.pids()
        assert os.sched_getaffinity(pid) == host.server_cpus
        assert server.group.quota_millicores() == host.quota_millicores
        assert 10e6 < server.memory_bytes() < 1e9
        server.pause()
        await until([pid], "T")
        used_s = server.cpu_s()
        await asyncio.sleep(0.1)
        assert server.cpu_s() == used_s > 0
        server.resume()
        await until([pid], "S")
        server.pause()
    assert not server.group.cpu.exists()
    await until([pid], "Z")


async def test_nothing_that_a_server_has_started_stays(subject, tmp_path):
    recipe = Recipe("parent", "", Dialect.GRPC, lambda _: (os.path.realpath("/proc/self/exe"), "-c", _PARENT))
    async with running.started(recipe, subject, tmp_path, running.divide()) as server:
        while len(server.pids()) < 2:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)
        pids = server.pids()
    await until(pids, "Z")
    assert not server.group.cpu.exists()


async def test_what_a_run_that_was_killed_has_left_is_removed():
    parent = usable_parent()
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    group = Cgroup.create(f"sponge-serving-{ended.pid}-0", parent)
    ours = Cgroup.create(f"sponge-serving-{os.getpid()}-left", parent)
    left = await asyncio.create_subprocess_exec("sleep", "600")
    group.move(left.pid)
    left.send_signal(signal.SIGSTOP)
    try:
        running.divide()
        assert await left.wait() == -signal.SIGKILL
        assert not group.cpu.exists()
        assert ours.cpu.exists()
    finally:
        ours.remove()


async def test_a_server_that_answers_otherwise_is_named(subject, tmp_path):
    recipe = replace(OURS[ECHO], right=True)  # it gives zeros
    async with started(recipe, subject, tmp_path) as (server, way):
        with pytest.raises(StartError, match="echo: mlp: expected what a direct run answers, got"):
            await measuring.wait_until_right(server, way)


async def test_a_server_that_ends_is_told_with_its_last_words(subject, tmp_path):
    recipe = Recipe("ended", "", Dialect.GRPC, lambda _: ("/bin/sh", "-c", "echo no such model; exit 3"))
    async with started(recipe, subject, tmp_path) as (server, way):
        with pytest.raises(StartError, match="ended: exited: no such model"):
            await measuring.wait_until_right(server, way)


@pytest.mark.parametrize("name", [SPONGE, ECHO_MODEL])
async def test_loads_are_counted(name, subject, tmp_path):
    async with started(OURS[name], subject, tmp_path) as (server, way):
        await measuring.wait_until_right(server, way)
        closed = await measuring.measure(server, way, Closed(3), seconds=0.5, lead_s=0.1)
        assert closed.offered == len(closed.latencies_s) == closed.in_time > 0
        assert (closed.wrong, closed.unanswered, closed.goodput) == (0, 0, 1.0)
        assert closed.cpu_s > 0
        assert closed.client_cpu_s > 0
        load = Open(rate=40, deadline_ms=20_000)
        opened = await measuring.measure(server, way, load, seconds=0.5, lead_s=0.1)
        assert opened.offered == sum(due >= 0.1 for due in measuring.arrivals(load, 0.6))
        assert (opened.wrong, opened.unanswered, opened.goodput) == (0, 0, 1.0)
        hopeless = await measuring.measure(server, way, Open(40, deadline_ms=0.001), 0.3, lead_s=0.0)
        assert hopeless.offered > 0
        assert hopeless.in_time == 0
