"""A whole Sponge on this machine: the control plane and its workers as local processes."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from controlplane.config import ActuatorKind
from core.cgroup import Cgroup, CgroupError, usable_parent
from evaluation import fleet
from evaluation.admin import Admin
from evaluation.fleet import ControlSpec, WorkerSpec
from evaluation.process import Process, StartError, free_port

CONTROL = "control"


def actuator_kind() -> tuple[ActuatorKind, Cgroup | None]:
    """What can resize local processes here: a control group where one may be made, else threads only."""
    try:
        parent = usable_parent()
    except CgroupError:
        parent = None
    return (ActuatorKind.THREADS, None) if parent is None else (ActuatorKind.LOCAL, parent)


@dataclass(frozen=True, slots=True)
class _Program:
    """How one of the processes is started, the first time and again."""

    module: str
    arguments: Sequence[str]
    config: Path
    group: Cgroup | None
    environment: Mapping[str, str]


class Embedded:
    """A `fleet.Fleet` of local processes; being killed takes them along.

    Files, logs included, go to `directory`. With `planes` above 1, which takes a lock, one of them leads and the
    others, named control-2 and so on, stand by; `admin` asks the first.
    """

    def __init__(
        self,
        directory: Path,
        workers: Sequence[WorkerSpec],
        host_millicores: int,
        control: ControlSpec = fleet.OURS,
        planes: int = 1,
    ) -> None:
        self._directory = directory
        self._specs = workers
        self._host_millicores = host_millicores
        self._control = control
        self._programs: dict[str, _Program] = {}
        self._processes: dict[str, Process] = {}
        self._groups: list[Cgroup] = []
        self._stack = contextlib.AsyncExitStack()
        self.kind, self._parent = actuator_kind()
        names = [CONTROL, *(f"{CONTROL}-{number}" for number in range(2, planes + 1))]
        self.control_addresses: Mapping[str, str] = {name: f"127.0.0.1:{free_port()}" for name in names}
        self.admin = Admin(self.control_addresses[CONTROL])
        self.addresses: Mapping[str, str] = {spec.service: f"127.0.0.1:{free_port()}" for spec in workers}

    def pids(self) -> Mapping[str, Sequence[int]]:
        """The control plane's."""
        return {"control plane": [self._processes[CONTROL].process.pid]}

    def process(self, name: str) -> Process:
        """A control plane, or the worker of a service, as it was started last."""
        return self._processes[name]

    def group(self, service: str) -> Cgroup:
        """The control group of a service's worker, where this machine has any."""
        group = self._programs[service].group
        assert group is not None
        return group

    async def start(self, name: str) -> Process:
        """Start a control plane or a worker, again if it has ended; its log begins anew."""
        program = self._programs[name]
        started = await Process.start(
            name, program.module, program.config, program.group, program.arguments, program.environment
        )
        self._processes[name] = started
        return started

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
        for name in self.control_addresses:
            await self._start_control(name, root)
        for spec in self._specs:
            await self._start_worker(spec, root)
        for spec in self._specs:
            await self._processes[spec.service].serving(self.addresses[spec.service])
        await fleet.attached(self.admin, self._specs)

    async def _start_control(self, name: str, root: Cgroup | None) -> None:
        actuator = f'kind = "{self.kind.value}"\ncgroup_root = "{root.cpu if root else ""}"\n'
        address = self.control_addresses[name]
        config = self._directory / f"{name}.toml"
        config.write_text(
            fleet.control_toml(self._control, self._specs, self._host_millicores, address, actuator)
        )
        control = self._control
        self._programs[name] = _Program(control.module, control.arguments, config, None, control.environment)
        started = await self.start(name)
        if name == CONTROL:  # the others stand by
            await started.serving(address)

    async def _start_worker(self, spec: WorkerSpec, root: Cgroup | None) -> None:
        group = None
        if root is not None:
            group = Cgroup.create(spec.service, root)
            self._groups.append(group)
            group.set_quota(spec.start.cpu_millicores, fleet.PERIOD_US)
        config = self._directory / f"{spec.service}.toml"
        listen, control = self.addresses[spec.service], ",".join(self.control_addresses.values())
        config.write_text(fleet.worker_toml(spec, spec.model, listen, control))
        self._programs[spec.service] = _Program(spec.module, spec.arguments, config, group, spec.environment)
        await self.start(spec.service)

    async def _stop(self) -> None:
        # Workers first: the control plane would otherwise put back allocations of what is about to end.
        for started in reversed(self._processes.values()):
            await started.stop()
        self._processes.clear()
        for group in reversed(self._groups):
            with contextlib.suppress(CgroupError):
                group.remove()
        self._groups.clear()
        await self.admin.aclose()
