"""A whole Sponge on this machine: the control plane and its workers as local processes."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from controlplane.config import ActuatorKind
from core.cgroup import Cgroup, CgroupError, usable_parent
from evaluation import fleet
from evaluation.admin import Admin
from evaluation.fleet import ControlSpec, WorkerSpec
from evaluation.process import Process, StartError, free_port


def actuator_kind() -> tuple[ActuatorKind, Cgroup | None]:
    """What can resize local processes here: a control group where one may be made, else threads only."""
    try:
        parent = usable_parent()
    except CgroupError:
        parent = None
    return (ActuatorKind.THREADS, None) if parent is None else (ActuatorKind.LOCAL, parent)


class Embedded:
    """A `fleet.Fleet` of local processes; being killed takes them along.

    Files, logs included, go to `directory`.
    """

    def __init__(
        self,
        directory: Path,
        workers: Sequence[WorkerSpec],
        host_millicores: int,
        control: ControlSpec = fleet.OURS,
    ) -> None:
        self._directory = directory
        self._specs = workers
        self._host_millicores = host_millicores
        self._control = control
        self._processes: list[Process] = []
        self._groups: list[Cgroup] = []
        self._workers: dict[str, Process] = {}
        self._stack = contextlib.AsyncExitStack()
        self.kind, self._parent = actuator_kind()
        self.control_address = f"127.0.0.1:{free_port()}"
        self.admin = Admin(self.control_address)
        self.addresses: Mapping[str, str] = {spec.service: f"127.0.0.1:{free_port()}" for spec in workers}

    def pids(self) -> Mapping[str, Sequence[int]]:
        """The control plane's."""
        return {"control plane": [self._processes[0].process.pid]}

    def worker(self, service: str) -> Process:
        """The process of a service's worker."""
        return self._workers[service]

    async def __aenter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(fleet.stopped_at_the_end(self._stop))
            try:
                await self._start()
            except CgroupError as error:
                raise StartError(f"control groups: {error}") from error
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    async def _start(self) -> None:
        root = None
        if self._parent is not None:
            root = Cgroup.create(f"sponge-{os.getpid()}", self._parent)
            self._groups.append(root)
        config = self._directory / "control.toml"
        actuator = f'kind = "{self.kind.value}"\ncgroup_root = "{root.cpu if root else ""}"\n'
        config.write_text(
            fleet.control_toml(
                self._control, self._specs, self._host_millicores, self.control_address, actuator
            )
        )
        control = await self._spawn("control", self._control.module, self._control.arguments, config, None)
        await control.serving(self.control_address)
        started = []
        for spec in self._specs:
            group = None
            if root is not None:
                group = Cgroup.create(spec.service, root)
                self._groups.append(group)
                group.set_quota(spec.start.cpu_millicores, fleet.PERIOD_US)
            config = self._directory / f"{spec.service}.toml"
            address = self.addresses[spec.service]
            config.write_text(fleet.worker_toml(spec, spec.model, address, self.control_address))
            process = await self._spawn(spec.service, spec.module, spec.arguments, config, group)
            self._workers[spec.service] = process
            started.append((address, process))
        for address, process in started:
            await process.serving(address)
        await fleet.attached(self.admin, self._specs)

    async def _spawn(
        self, name: str, module: str, arguments: Sequence[str], config: Path, group: Cgroup | None
    ) -> Process:
        started = await Process.start(name, module, config, group, arguments)
        self._processes.append(started)
        return started

    async def _stop(self) -> None:
        # Workers first: the control plane would otherwise put back allocations of what is about to end.
        for started in reversed(self._processes):
            await started.stop()
        self._processes.clear()
        for group in reversed(self._groups):
            with contextlib.suppress(CgroupError):
                group.remove()
        self._groups.clear()
        await self.admin.aclose()
