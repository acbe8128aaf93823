"""A server that runs in a control group of its own, on its own CPUs, and stands still while another is measured."""

import contextlib
import itertools
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.cgroup import Cgroup, CgroupError, usable_parent
from evaluation.process import Process, StartError
from evaluation.serving.recipes import Recipe
from evaluation.serving.subjects import Subject
from evaluation.serving.task import Task

_numbers = itertools.count()

PERIOD_US = 100_000  # the kernel's default, and what Docker sets
_HOST = "127.0.0.1"
_PORTS = range(
    20_000, 32_000
)  # below those that Linux gives away, above those that Ray takes for its workers
_LEAVE_S = 10.0
_GROUP = "sponge-serving"  # then the process that made it, and a number


@dataclass(frozen=True, slots=True)
class Host:
    """What servers get of this machine, and what is left for their client."""

    parent: Cgroup
    server_cpus: frozenset[int]
    client_cpus: frozenset[int]
    quota_millicores: int = 1100


def divide() -> Host:
    """Give the last CPU to servers and all others to the client; remove what a run that was killed has left.

    Raises StartError.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise StartError("serving: expected two CPUs, one for the servers and one for their client")
    try:
        parent = usable_parent()
    except CgroupError as error:
        raise StartError(f"control groups: {error}") from error
    if parent is None:
        raise StartError("no control group may be made here, and without one there is no quota")
    _remove_abandoned(parent)
    return Host(parent, frozenset(cpus[-1:]), frozenset(cpus[:-1]))


@contextmanager
def client_pinned(host: Host) -> Iterator[None]:
    """Keep this process on the client's CPUs while the block runs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, host.client_cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and all processes that it has started."""

    recipe: Recipe
    subject: Subject
    address: str  # HOST:PORT
    folder: Path
    group: Cgroup
    process: Process

    def pids(self) -> list[int]:
        """Of every process in its group, parents before children."""
        return sorted(map(int, (self.group.cpu / "cgroup.procs").read_text().split()))

    def cpu_s(self) -> float:
        """CPU time of all of them since the start, those that have ended included."""
        return self.group.cpu_seconds()

    def memory_bytes(self) -> int:
        """Resident memory of all of them: shared pages once, of mapped files those of the process with most.

        Not their sum: most of them map the same libraries, as do servers beside this one.
        """
        memory = [_memory(pid) for pid in self.pids()]
        return sum(one.own for one in memory) + max((one.files for one in memory), default=0)

    def pause(self) -> None:
        """Let none of them run until `resume`."""
        self._signal(signal.SIGSTOP, self.pids())

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal(signal.SIGCONT, reversed(self.pids()))  # who watches others wakes after them

    def _signal(self, number: signal.Signals, pids: Iterable[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@asynccontextmanager
async def started(recipe: Recipe, subject: Subject, folder: Path, host: Host) -> AsyncIterator[Server]:
    """Start a server of `subject` and stop all of it when the block ends; its files, log included, go to `folder`.

    It is not waited for. Raises StartError.
    """
    task, task_file = _task(subject, folder)
    async with contextlib.AsyncExitStack() as stack:
        try:
            group = Cgroup.create(f"{_GROUP}-{os.getpid()}-{next(_numbers)}", host.parent)
            stack.callback(_empty, group)
            group.set_quota(host.quota_millicores, PERIOD_US)
            process = await Process.spawn(
                recipe.name,
                recipe.command(task_file),
                folder / "log",
                group,
                host.server_cpus,
                {**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
            )
        except CgroupError as error:
            raise StartError(f"control groups: {error}") from error
        server = Server(recipe, subject, task.address, folder, group, process)
        stack.push_async_callback(process.stop)
        stack.callback(server.resume)  # what stands still does not hear that it should stop
        yield server


def _task(subject: Subject, folder: Path) -> tuple[Task, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    task, file = Task.of(subject, _HOST, _free_port()), folder / "task.json"
    task.write(file)
    return task, file


def _free_port() -> int:
    """One that nobody listens on, nor is given to whoever asks for any: servers of many processes do that first."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((_HOST, port))
            return port
    raise StartError(f"ports: none of {_PORTS.start} to {_PORTS.stop - 1} is free")


def _remove_abandoned(parent: Cgroup) -> None:
    """What stands still hears of nobody's death but its own."""
    for path in parent.cpu.glob(f"{_GROUP}-*-*"):
        owner = path.name.split("-")[-2]
        if not Path(f"/proc/{owner}").exists():
            _empty(Cgroup.at(path))


def _empty(group: Cgroup) -> None:
    """Kill what is still in the group, and remove it."""
    until = time.monotonic() + _LEAVE_S
    while time.monotonic() < until:
        pids = (group.cpu / "cgroup.procs").read_text().split()
        if not pids:
            break
        for pid in map(int, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    with contextlib.suppress(CgroupError):
        group.remove()


@dataclass(frozen=True, slots=True)
class _Memory:
    own: int  # anonymous and shared, in equal parts with the processes that share it
    files: int


def _memory(pid: int) -> _Memory:
    try:
        rollup = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"))
        status = _kilobytes(Path(f"/proc/{pid}/status"))
    except OSError:  # it has ended
        return _Memory(0, 0)
    return _Memory(
        1024 * (rollup.get("Pss_Anon", 0) + rollup.get("Pss_Shmem", 0)), 1024 * status.get("RssFile", 0)
    )


def _kilobytes(path: Path) -> dict[str, int]:
    """The lines `Name: NUMBER kB`."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1:] == ["kB"]}
