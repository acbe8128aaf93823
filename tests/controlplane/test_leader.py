"""One leads, however the one before it ended, and nobody touches anything before."""

import asyncio
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from controlplane.leader import FileLock, LockError

# Says whether it leads, then holds what it has until it is killed.
_PROCESS = """
import sys
from controlplane.leader import FileLock
leadership = FileLock("leader.lock", sys.argv[1])
print(leadership.take(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "lock")


@pytest.fixture
def other(path):
    """Another process that leads."""
    command = [sys.executable, "-c", _PROCESS, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"True\n"
        try:
            yield process
        finally:
            process.kill()


def test_who_is_alone_leads(path):
    with closing(FileLock("leader.lock", path)) as alone:
        assert not alone.held
        assert alone.take()
        assert alone.held
        assert alone.take()


def test_of_two_the_first_leads_until_it_gives_up(path):
    with closing(FileLock("leader.lock", path)) as second:
        with closing(FileLock("leader.lock", path)) as first:
            assert first.take()
            assert not second.take()
            assert not second.held
        assert second.take()


def test_other_files_are_other_locks(path):
    with (
        closing(FileLock("leader.lock", path)) as one,
        closing(FileLock("leader.lock", path + "2")) as two,
    ):
        assert one.take()
        assert two.take()


def test_without_a_path_everyone_leads():
    with closing(FileLock("store.path", "")) as one, closing(FileLock("store.path", "")) as two:
        assert one.take()
        assert two.take()


def test_a_process_that_is_stopped_leads_on_and_one_that_is_killed_does_not(path, other):
    with closing(FileLock("leader.lock", path)) as mine:
        other.send_signal(signal.SIGSTOP)
        assert not mine.take()
        other.send_signal(signal.SIGCONT)
        assert not mine.take()
        other.kill()
        other.wait()
        assert mine.take()


def test_a_child_of_the_leader_does_not_keep_its_place(path):
    with closing(FileLock("leader.lock", path)) as first:
        first.take()
        command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
        child.stdout.readline()  # until it runs, it has what its parent has
    try:
        with closing(FileLock("leader.lock", path)) as second:
            assert second.take()
    finally:
        child.communicate()


async def test_who_stands_by_says_so_once_and_leads_when_it_may(path, capsys):
    first = FileLock("leader.lock", path)
    first.take()
    with closing(FileLock("leader.lock", path)) as second:
        gaining = asyncio.create_task(second.gain(try_s=0.0))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not gaining.done()
        first.close()
        await gaining
        assert second.held
    assert capsys.readouterr().out.count("standing by") == 1


@pytest.mark.parametrize("where", ["absent/lock", "file/lock", "."])
def test_a_file_that_cannot_be_locked_is_an_error_that_names_the_setting(tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(
        LockError, match=r"^leader\.lock: expected to lock '.*' in a directory that can be written: "
    ):
        FileLock("leader.lock", str(tmp_path / where))
