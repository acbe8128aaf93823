"""A whole Sponge on this machine: the control plane and its workers as local processes."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from controlplane.config import ActuatorKind
from controlplane.operation import Configuration, Limits
from core.cgroup import Cgroup, CgroupError, usable_parent
from evaluation.admin import Admin
from evaluation.process import Process, StartError, free_port

__all__ = ["Embedded", "StartError", "WorkerSpec", "actuator_kind", "worker_toml"]

_START_S = 60.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker: its service and model, what it starts with, and what it can be given."""

    service: str
    model: Path
    slo_ms: float
    start: Configuration
    limits: Limits
    warmup_shapes: Mapping[str, Sequence[int]]


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
        self._processes: list[Process] = []
        self._groups: list[Cgroup] = []
        self.kind, self._parent = actuator_kind()
        self.control_address = f"127.0.0.1:{free_port()}"
        self.admin = Admin(self.control_address)
        self.addresses = {spec.service: f"127.0.0.1:{free_port()}" for spec in workers}

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
        await control.serving(self.control_address)
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
            await process.serving(self.addresses[spec.service])
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

    async def _spawn(self, name: str, module: str, config: Path, group: Cgroup | None) -> Process:
        started = await Process.start(name, module, config, group)
        self._processes.append(started)
        return started

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
            await started.stop()
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
