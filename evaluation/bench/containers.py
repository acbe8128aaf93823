"""A fleet in containers: the images of `make images`, in a network and a Compose project of their own."""

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import docker
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.models.containers import Container

from controlplane.actuators.docker import PROJECT
from controlplane.config import Actuator as ActuatorConfig
from controlplane.config import ActuatorKind
from evaluation import fleet, owner
from evaluation.admin import Admin
from evaluation.bench import cpu
from evaluation.fleet import ControlSpec, WorkerSpec
from evaluation.process import StartError, serving

T = TypeVar("T")

CONTROL_IMAGE, WORKER_IMAGE = "sponge-control", "sponge-worker"
_CONTROL_PORT, _WORKER_PORT = 8500, 8001
_LOOPBACK = "127.0.0.1"
_SOCKET = "/var/run/docker.sock"
_STOP_S = 15
_ENGINE_TIMEOUT_S = 60
# As in compose.yaml.
_HARDENED: Mapping[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}


@dataclass(frozen=True, slots=True)
class Started:
    """A container as `evaluation.process.serving` waits for it."""

    name: str
    container: Container

    async def running(self) -> bool:
        await asyncio.to_thread(self.container.reload)
        return bool(self.container.status in ("created", "running"))

    async def last_line(self) -> str:
        written: bytes = await asyncio.to_thread(self.container.logs, tail=1)
        return written.decode(errors="replace").strip() or "no output"


class Containers:
    """A `fleet.Fleet` in containers of a local engine; ports are published on the loopback only.

    Configurations, and logs in the end, are in `directory`. The control plane runs in a container too, with the
    engine's socket itself, and resizes those of its own project. Everything carries the project's
    label, and is removed on leaving; what one whose process was killed has left is removed on entering.
    """

    kind = ActuatorKind.DOCKER

    def __init__(
        self,
        directory: Path,
        workers: Sequence[WorkerSpec],
        host_millicores: int,
        control: ControlSpec = fleet.OURS,
    ) -> None:
        self._directory = directory.resolve()
        self._specs = workers
        self._host_millicores = host_millicores
        self._control = control
        self._project = f"sponge-bench-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._engine: docker.DockerClient | None = None
        self._started: list[Started] = []
        self._calls: set[asyncio.Future[Any]] = set()
        self._stack = contextlib.AsyncExitStack()
        self._admin: Admin | None = None
        self.addresses: Mapping[str, str] = {}

    @property
    def admin(self) -> Admin:
        """Of the control plane, once it is started."""
        assert self._admin is not None
        return self._admin

    def pids(self) -> Mapping[str, Sequence[int]]:
        """Of the control plane, and of the engine with all that it runs for anybody's containers."""
        return {"control plane": [self._started[0].container.attrs["State"]["Pid"]], "engine": cpu.engine()}

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(fleet.stopped_at_the_end(self._stop))
            try:
                await self._start()
            except ImageNotFound as error:
                raise StartError(
                    f"image {_missing(error)}: expected to be there, as after `make images`"
                ) from error
            except DockerException as error:
                raise StartError(f"Docker engine: {' '.join(str(error).split())}") from error
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
        self._directory.mkdir(parents=True, exist_ok=True)
        self._engine = await self._call(docker.from_env, timeout=_ENGINE_TIMEOUT_S)
        await self._call(owner.remove_abandoned, self._engine)
        labels = {PROJECT: self._project, owner.LABEL: owner.this()}
        await self._call(self._engine.networks.create, self._project, labels=labels)
        actuator = f'kind = "docker"\ncompose_project = "{self._project}"\n'
        self._configure(
            "control",
            fleet.control_toml(
                self._control, self._specs, self._host_millicores, f"0.0.0.0:{_CONTROL_PORT}", actuator
            ),
        )
        control = await self._run(
            "control",
            CONTROL_IMAGE,
            entrypoint=["python", "-m", self._control.module],
            command=[*self._control.arguments, "--config", "/etc/sponge/control.toml"],
            volumes=[f"{self._directory / 'control'}:/etc/sponge:ro", f"{_SOCKET}:{_SOCKET}"],
            ports={_CONTROL_PORT: (_LOOPBACK, None)},
            labels=labels,
        )
        address = await self._published(control, _CONTROL_PORT)
        self._admin = Admin(address)
        await serving(control, address)
        started = {spec.service: await self._worker(spec, labels) for spec in self._specs}
        self.addresses = {
            service: await self._published(worker, _WORKER_PORT) for service, worker in started.items()
        }
        for service, worker in started.items():
            await serving(worker, self.addresses[service])
        await fleet.attached(self.admin, self._specs)

    async def _worker(self, spec: WorkerSpec, labels: Mapping[str, str]) -> Started:
        model = Path("/models") / spec.model.name
        self._configure(
            spec.service,
            fleet.worker_toml(spec, model, f"0.0.0.0:{_WORKER_PORT}", f"control:{_CONTROL_PORT}"),
        )
        return await self._run(
            spec.service,
            WORKER_IMAGE,
            command=["--config", f"/etc/sponge/{spec.service}.toml"],
            volumes=[f"{self._directory / spec.service}:/etc/sponge:ro", f"{spec.model}:{model}:ro"],
            ports={_WORKER_PORT: (_LOOPBACK, None)},
            labels={**labels, ActuatorConfig().docker_label: "true"},
            cpu_period=fleet.PERIOD_US,
            cpu_quota=spec.start.cpu_millicores * fleet.PERIOD_US // 1000,
        )

    async def _call(self, call: Callable[..., T], *words: Any, **more: Any) -> T:
        """Call the engine in a thread, which nobody can cancel: `_stop` waits for what is under way."""
        calling = asyncio.ensure_future(asyncio.to_thread(call, *words, **more))
        self._calls.add(calling)
        calling.add_done_callback(self._calls.discard)
        return await asyncio.shield(calling)

    def _configure(self, name: str, text: str) -> None:
        """Write a configuration where a container that is not root can read it."""
        folder = self._directory / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        path = folder / f"{name}.toml"
        path.write_text(text)
        path.chmod(0o644)

    async def _run(self, name: str, image: str, **how: Any) -> Started:
        """Start a container that the others find as `name`; its label is enough for its removal."""
        engine = self._engine
        assert engine is not None
        created = await self._call(
            engine.containers.create,
            image,
            name=f"{self._project}-{name}",
            network=self._project,
            networking_config={self._project: engine.api.create_endpoint_config(aliases=[name])},
            **_HARDENED,
            **how,
        )
        started = Started(name, created)
        self._started.append(started)
        await self._call(created.start)
        return started

    async def _published(self, started: Started, port: int) -> str:
        await asyncio.to_thread(started.container.reload)
        bindings = started.container.ports[f"{port}/tcp"]
        if not bindings:
            raise StartError(f"{started.name}: port {port} is not published: {await started.last_line()}")
        binding = bindings[0]
        return f"{_LOOPBACK}:{binding['HostPort']}"

    async def _stop(self) -> None:
        await asyncio.gather(*self._calls, return_exceptions=True)
        if self._admin is not None:
            await self._admin.aclose()
        if self._engine is not None:
            await asyncio.to_thread(self._remove, self._engine)

    def _remove(self, engine: docker.DockerClient) -> None:
        """Keep the logs, and remove all that carries the project's label, known here or not."""
        mine: dict[str, str | list[str] | bool] = {"label": f"{PROJECT}={self._project}"}
        try:
            # Workers first: the control plane would otherwise put back quotas of what is about to end.
            for started in reversed(self._started):
                with contextlib.suppress(NotFound):
                    started.container.stop(timeout=_STOP_S)
                    (self._directory / f"{started.name}.log").write_bytes(started.container.logs())
            for container in engine.containers.list(all=True, filters=mine):
                container.remove(force=True, v=True)
            for network in engine.networks.list(filters=mine):
                network.remove()
        finally:
            engine.close()


def _missing(error: ImageNotFound) -> str:
    text = str(error.explanation or error)
    return next((image for image in (CONTROL_IMAGE, WORKER_IMAGE) if image in text), text)
