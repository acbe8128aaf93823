"""A whole Sponge as processes of this machine: what stands in its way, and that nothing of it stays."""

import os
import signal
import subprocess
import sys

import pytest

from core.cgroup import Cgroup, usable_parent
from evaluation.embedded import Embedded
from evaluation.process import _HELD, StartError
from tests.evaluation.processes import groups, planes
from tests.processes import PATIENCE_S, eventually

# Waits with a control plane running; the second word of the output says that the stop was an orderly one.
_WAITING = """
import asyncio, pathlib, sys
from evaluation.embedded import Embedded

async def main():
    async with Embedded(pathlib.Path(sys.argv[1]), [], 1000):
        print("up", flush=True)
        await asyncio.Event().wait()

try:
    asyncio.run(main())
except asyncio.CancelledError:
    print("cancelled")
"""


@pytest.fixture
def waiting(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", _WAITING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            assert len(planes(tmp_path)) == 1
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_what_was_started(number, waiting, tmp_path):
    waiting.send_signal(number)
    assert waiting.communicate(timeout=PATIENCE_S) == ("cancelled\n", None)
    assert (planes(tmp_path), groups(waiting.pid)) == ([], [])


def test_processes_do_not_outlive_a_command_that_is_killed(waiting, tmp_path):
    made = groups(waiting.pid)
    waiting.kill()
    eventually(lambda: planes(tmp_path), lambda found: not found)
    for group in made:  # nobody is left to do it
        eventually(lambda group=group: not (group / "cgroup.procs").read_text())
        group.rmdir()


@pytest.mark.parametrize(
    ("parent", "line", "output"),
    [(os.getpid(), "go\n", "ran\n"), (os.getpid(), "", ""), (1, "go\n", "")],
    ids=["its own", "nothing said", "another's"],  # a number would be another in each of several processes
)
def test_a_process_whose_parent_has_gone_before_it_began_never_begins(parent, line, output):
    command = [sys.executable, "-S", "-c", _HELD, str(parent), sys.executable, "-c", "print('ran')"]
    held = subprocess.run(command, input=line, capture_output=True, text=True, check=True)
    assert held.stdout == output


@pytest.mark.skipif(usable_parent() is None, reason="no control group may be made here")
async def test_a_control_group_that_cannot_be_made_is_a_start_error(tmp_path):
    in_the_way = Cgroup.create(f"sponge-{os.getpid()}", usable_parent())
    try:
        with pytest.raises(StartError, match=f"sponge-{os.getpid()}: cannot be made"):
            async with Embedded(tmp_path, [], 1000):
                pass
    finally:
        in_the_way.remove()
