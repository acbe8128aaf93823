"""Who is still there to remove what it started."""

import os
import subprocess
import sys

import pytest

from evaluation import owner


@pytest.fixture
def proc(tmp_path):
    """What the kernel tells of this process, and of no other."""
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("first\n")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[1]")
    process(tmp_path, os.getpid(), 100)
    return tmp_path


def process(proc, pid, began, state="S"):
    folder = proc / str(pid)
    folder.mkdir(exist_ok=True)
    (folder / "stat").write_text(f"{pid} (a (strange) name) {state}{' 0' * 18} {began} 0 0\n")


def test_a_process_is_named_by_boot_namespace_pid_and_start(proc):
    name = owner.this(proc)
    assert name == f"first pid:[1] {os.getpid()} 100"
    assert not owner.gone(name, proc)


@pytest.mark.parametrize("state", ["S", "Z"])
def test_who_has_ended_or_whose_pid_is_another_s_by_now_is_gone(state, proc):
    process(proc, 7, 200, state)
    assert owner.gone("first pid:[1] 7 200", proc) is (state == "Z")
    assert owner.gone("first pid:[1] 7 199", proc)
    assert owner.gone("first pid:[1] 8 200", proc)


def test_nobody_outlives_a_boot(proc):
    assert owner.gone(f"zeroth pid:[1] {os.getpid()} 100", proc)


def test_who_cannot_be_seen_is_not_gone(proc):
    assert not owner.gone("first pid:[2] 8 200", proc)


def test_a_real_process_is_there_until_it_ends():
    command = "from evaluation import owner; print(owner.this(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        name = running.stdout.readline()
        assert not owner.gone(name)
        running.communicate("\n")
    assert owner.gone(name)
    assert not owner.gone(owner.this())
