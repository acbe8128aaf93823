"""A plane as a process of its own, which ends with whoever started it."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from core.cgroup import Cgroup

T = TypeVar("T")

_START_S = 60.0
_STOP_S = 15.0
# Waits for a line before it becomes the process, which so never runs outside its group. Should what started it
# be killed, the kernel stops it (PR_SET_PDEATHSIG is 1); if that was before the kernel knew, it has another parent.
_HELD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if sys.stdin.readline() and os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class StartError(Exception):
    """A process did not come up; the text says which, and what it wrote last."""


class Started(Protocol):
    """A process or container that was started."""

    @property
    def name(self) -> str: ...

    async def running(self) -> bool: ...

    async def last_line(self) -> str:
        """What it wrote last."""


async def serving(started: Started, address: str) -> None:
    """Wait until what is at `address` (HOST:PORT) says that it serves. Raises StartError."""
    try:
        async with asyncio.timeout(_START_S), grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while True:
                if not await started.running():
                    raise StartError(f"{started.name}: exited: {await started.last_line()}")
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                await asyncio.sleep(0.05)
    except TimeoutError:
        line = await started.last_line()
        raise StartError(f"{started.name}: not serving after {_START_S:.0f} s: {line}") from None


@dataclass(frozen=True, slots=True)
class Process:
    """A running program, and the file of all it writes."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @classmethod
    async def start(
        cls,
        name: str,
        module: str,
        config: Path,
        group: Cgroup | None = None,
        arguments: Sequence[str] = (),
        more: Mapping[str, str] | None = None,
    ) -> Self:
        """Start `python -m module --config FILE`, in a control group if one is given.

        `arguments` go before --config, and `more` into its environment. Its log lies beside `config`. As `spawn`
        otherwise.
        """
        command = (sys.executable, "-m", module, *arguments, "--config", str(config))
        environment = {**os.environ, **more} if more else None
        return await cls.spawn(name, command, config.with_name(f"{name}.log"), group, environment=environment)

    @classmethod
    async def spawn(
        cls,
        name: str,
        command: Sequence[str],
        log: Path,
        group: Cgroup | None = None,
        cpus: Collection[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Start a program by its path and arguments, on these CPUs only if some are given; `name` is for errors.

        Raises CgroupError, having stopped it, where it cannot be moved into `group`.
        """
        with log.open("wb") as sink:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-S", "-c", _HELD, str(os.getpid()), *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                env=environment,
                # Ctrl-C in the terminal is for the command that started them; it stops them in order.
                start_new_session=True,
            )  # fmt: skip
        started = cls(name, process, log)
        assert process.stdin is not None
        try:
            if group is not None:
                group.move(process.pid)
            if cpus:
                os.sched_setaffinity(process.pid, cpus)
            process.stdin.write(b"go\n")
        except BaseException:
            await started.stop()
            raise
        finally:
            process.stdin.close()
        return started

    async def running(self) -> bool:
        return self.process.returncode is None

    async def last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"

    async def serving(self, address: str) -> None:
        """As the function of this name, for this process."""
        await serving(self, address)

    async def kill(self) -> None:
        """End it as an accident does, and wait until it has ended."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """Ask it to stop, and wait until it has; kill it if it does not."""
        if self.process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_S):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` as asyncio.run does, but let SIGTERM and SIGHUP end it in order, as Ctrl-C does.

    Raises KeyboardInterrupt once it has ended so. For the main thread only.
    """

    async def interruptible() -> T:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
