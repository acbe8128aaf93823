"""Whose cgroup a worker takes for its own."""

import os
import subprocess
import sys

import pytest

from core.cgroup import Cgroup, usable_parent
from dataplane import resources


@pytest.fixture
def session(tmp_path):
    """A host in version 2, and the group of this process."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user.slice/session-1.scope\n")
    (tmp_path / "proc/self/mountinfo").write_text("31 30 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    scope = tmp_path / "sys/fs/cgroup/user.slice/session-1.scope"
    scope.mkdir(parents=True)
    (scope / "cgroup.events").write_text("populated 1\n")
    return scope


def test_one_that_holds_nothing_else(tmp_path, session):
    (session / "cgroup.procs").write_text(f"{os.getpid()}\n")
    assert resources.own_cgroup(tmp_path) == Cgroup(2, session, session, session)


def test_not_one_that_others_share(tmp_path, session):
    (session / "cgroup.procs").write_text(f"{os.getpid()}\n4711\n")
    assert resources.own_cgroup(tmp_path) is None


def test_nor_one_that_does_not_tell(tmp_path, session):  # noqa: ARG001 - it is there, without the file
    assert resources.own_cgroup(tmp_path) is None


def test_a_real_one():
    """A process by itself in a group, and then with another beside it."""
    parent = usable_parent()
    if parent is None:
        pytest.skip("no control group may be made here")
    group = Cgroup.create(f"own-{os.getpid()}", parent)
    say = "from dataplane import resources as r; input(); g = r.own_cgroup(); print(g and g.cpu, flush=True); input()"
    command = [sys.executable, "-c", say]
    said = []
    asked = []
    try:
        for _ in range(2):
            asked.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            group.move(asked[-1].pid)
            asked[-1].stdin.write("\n")
            asked[-1].stdin.flush()
            said.append(asked[-1].stdout.readline().strip())
    finally:
        for process in asked:
            process.communicate("\n")
        group.remove()
    assert said == [str(group.cpu), "None"]
