"""A whole Sponge on this machine: the control plane and its workers as local processes."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controlplane.config import ActuatorKind
from controlplane.operation import Configuration, Limits
from core.cgroup import Cgroup, CgroupError, usable_parent
from evaluation.admin import Admin

_START_S = 60.0
_STOP_S = 15.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Waits for a line before it becomes the process, which so never runs outside its group. Should what started it
# be killed, the kernel stops it (PR_SET_PDEATHSIG is 1); if that was before the kernel knew, it has another parent.
_HELD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if sys.stdin.readline() and os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class StartError(Exception):
    """A process did not come up; the text says which, and what it wrote last."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker: its service and model, what it starts with, and what it can be given."""

    service: str
    model: Path
    slo_ms: float
    start: Configuration
    limits: Limits
    warmup_shapes: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class _Process:
    name: str
    process: asyncio.subprocess.Process
    log: Path


def actuator_kind() -> tuple[ActuatorKind, Cgroup | None]:
    """What can resize local processes here: a control group where one may be made, else threads only."""
    try:
        parent = usable_parent()
    except CgroupError:
        parent = None
    return (ActuatorKind.THREADS, None) if parent is None else (ActuatorKind.LOCAL, parent)


class Embedded:
    """Starts everything on entering, stops everything it started on leaving, whatever happened between.

    Meanwhile SIGINT, SIGTERM and SIGHUP cancel the task that entered. Being cancelled, however often, cuts no
    stop short; being killed takes the processes along. For the main thread only.
    Files, logs included, go to `directory`. Raises StartError.
    """

    def __init__(
        self, directory: Path, workers: Sequence[WorkerSpec], host_millicores: int, *, paused: bool = False
    ) -> None:
        self._directory = directory
        self._specs = workers
        self._host_millicores = host_millicores
        self._paused = paused
        self._processes: list[_Process] = []
        self._groups: list[Cgroup] = []
        self.kind, self._parent = actuator_kind()
        self.control_address = f"127.0.0.1:{_free_port()}"
        self.admin = Admin(self.control_address)
        self.addresses = {spec.service: f"127.0.0.1:{_free_port()}" for spec in workers}

    async def __aenter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        task = asyncio.current_task()
        assert task is not None
        try:
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    asyncio.get_running_loop().add_signal_handler(number, task.cancel)
            await self._start()
        except CgroupError as error:
            await self._stop()
            raise StartError(f"control groups: {error}") from error
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    async def _start(self) -> None:
        root = None
        if self._parent is not None:
            root = Cgroup.create(f"sponge-{os.getpid()}", self._parent)
            self._groups.append(root)
        config = self._directory / "control.toml"
        config.write_text(self._control_toml(root))
        control = await self._spawn("control", "controlplane", config, None)
        await self._serving(control, self.control_address)
        started = []
        for spec in self._specs:
            group = None
            if root is not None:
                group = Cgroup.create(spec.service, root)
                self._groups.append(group)
                group.set_quota(spec.start.cpu_millicores, 20_000)
            config = self._directory / f"{spec.service}.toml"
            config.write_text(worker_toml(spec, self.addresses[spec.service], self.control_address))
            started.append((spec, await self._spawn(spec.service, "dataplane", config, group)))
        for spec, process in started:
            await self._serving(process, self.addresses[spec.service])
        await self._attached()

    def _control_toml(self, root: Cgroup | None) -> str:
        services = "".join(
            f"[services.{spec.service}]\n"
            f"min_millicores = {spec.limits.min_millicores}\nmax_millicores = {spec.limits.max_millicores}\n"
            for spec in self._specs
        )
        return (
            f'[server]\nlisten = "{self.control_address}"\nmetrics_listen = ""\n'
            f"[host]\nmillicores = {self._host_millicores}\n"
            f"[governor]\npaused = {str(self._paused).lower()}\n"
            f"{services}"
            f'[actuator]\nkind = "{self.kind.value}"\ncgroup_root = "{root.cpu if root else ""}"\n'
        )

    async def _spawn(self, name: str, module: str, config: Path, group: Cgroup | None) -> _Process:
        log = self._directory / f"{name}.log"
        with log.open("wb") as sink:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-S", "-c", _HELD, str(os.getpid()), "-m", module, "--config", str(config),
                stdin=asyncio.subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                # Ctrl-C in the terminal is for the command that started them; it stops them in order.
                start_new_session=True,
            )  # fmt: skip
        started = _Process(name, process, log)
        self._processes.append(started)
        if group is not None:
            group.move(process.pid)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
        return started

    async def _serving(self, started: _Process, address: str) -> None:
        """Wait until the process at `address` says that it serves."""
        try:
            async with asyncio.timeout(_START_S), grpc.aio.insecure_channel(address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                while True:
                    if started.process.returncode is not None:
                        raise StartError(f"{started.name}: exited: {_last_line(started.log)}")
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
                        if answer.status == health_pb2.HealthCheckResponse.SERVING:
                            return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise StartError(
                f"{started.name}: not serving after {_START_S:.0f} s: {_last_line(started.log)}"
            ) from None

    async def _attached(self) -> None:
        """Wait until every worker is attached and warm."""
        wanted = {spec.service for spec in self._specs}
        try:
            async with asyncio.timeout(_START_S):
                while await self._serving_services() != wanted:  # noqa: ASYNC110 - in another process
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise StartError(f"workers: not attached after {_START_S:.0f} s") from None

    async def _serving_services(self) -> set[str]:
        return {worker.service for worker in (await self.admin.fleet()).workers if worker.state == "serving"}

    async def _stop(self) -> None:
        """Stop everything, to the end: whoever cancels this meanwhile has to wait."""
        stopping = asyncio.create_task(self._stop_all())
        cancelled = False
        while not stopping.done():
            try:
                await asyncio.wait([stopping])
            except asyncio.CancelledError:
                cancelled = True
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
        stopping.result()
        if cancelled:
            raise asyncio.CancelledError

    async def _stop_all(self) -> None:
        # Workers first: the control plane would otherwise put back allocations of what is about to end.
        for started in reversed(self._processes):
            if started.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    started.process.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(_STOP_S):
                        await started.process.wait()
                except TimeoutError:
                    started.process.kill()
                    await started.process.wait()
        self._processes.clear()
        for group in reversed(self._groups):
            with contextlib.suppress(CgroupError):
                group.remove()
        self._groups.clear()
        await self.admin.aclose()


def worker_toml(spec: WorkerSpec, listen: str, control: str) -> str:
    """Give the configuration of a worker that listens and finds its control plane at these HOST:PORT."""
    shapes = ", ".join(f"{name} = {list(shape)}" for name, shape in spec.warmup_shapes.items())
    start, limits = spec.start, spec.limits
    return (
        f'[model]\npath = "{spec.model}"\nname = "{spec.service}"\nwarmup_shapes = {{{shapes}}}\n'
        f"[service]\nslo_ms = {spec.slo_ms}\n"
        f'[server]\nlisten = "{listen}"\nmetrics_listen = ""\n'
        f"[engine]\n"
        f"instances = {start.instances}\nmax_instances = {limits.max_instances}\n"
        f"threads = {start.threads}\nmax_threads = {limits.max_threads}\n"
        f"batch = {start.max_batch}\nmax_batch = {limits.max_batch}\n"
        f'[control]\naddress = "{control}"\n'
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
