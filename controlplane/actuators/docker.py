"""Containers, resized by the engine that owns them."""

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import docker
import structlog
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env

from controlplane import config as settings
from controlplane.actuators import ActuationError, Quota, WorkerRef
from controlplane.actuators.direct import Direct
from controlplane.actuators.limits import Held, floored, in_use
from controlplane.actuators.pins import Pins, own
from core.cgroup import CgroupError, cpu_shares, quota_us

T = TypeVar("T")

PROJECT = "com.docker.compose.project"
DEFAULT_PERIOD_US = 100_000
DEFAULT_SHARES = 1024

log = structlog.get_logger()

_ID = re.compile(r"[0-9a-f]{12,64}")


@dataclass(frozen=True, slots=True)
class _Container:
    """A container that may be touched; id, labels and NanoCpus are its own for life."""

    id: str
    name: str


class DockerActuator:
    """Updates CPU quota, period and weight of a container in one call, and then, where configured, its memory limit.

    Touches only containers with the configured label that belong to the configured Compose project, or else to
    that of the control plane's own container. Memory is left alone, and read as unlimited, unless resize_memory.
    With cgroup_write quotas are written to the container's control group, and the update follows. Whole cores are CPUs
    that no other container with whole cores has, and no quota; such a container is read as having a quota of those.
    """

    kind = "docker"
    holds_quota = True

    def __init__(self, config: settings.Actuator, base_url: str | None = None) -> None:
        """`base_url` of the engine; default is what DOCKER_HOST says, or the local socket."""
        self._config = config
        self._base_url = base_url
        self._client: docker.APIClient | None = None
        self._project = config.compose_project
        self._allowed: dict[str, _Container] = {}  # by the id the worker gave
        self._lock = threading.Lock()
        self._pins = Pins(config.whole_cores_cpus, self._is_ours)
        self._direct = Direct(config.period_us, self._record) if config.cgroup_write else None
        self._held_up: set[str] = set()  # ids of containers whose memory limit is higher than asked for

    async def read(self, worker: WorkerRef) -> Quota | None:
        container, quota = await asyncio.to_thread(self._calling, self._read, worker)
        if self._direct is None or worker.whole_cores:
            return quota
        return replace(quota, cpu_millicores=await self._direct.read(container.id, quota.cpu_millicores))

    async def write(self, worker: WorkerRef, quota: Quota) -> None:
        if self._direct is None or worker.whole_cores:
            await asyncio.to_thread(self._calling, lambda worker: self._write(worker, quota), worker)
            return
        container = await asyncio.to_thread(self._calling, self._checked, worker)
        if not await self._direct.write(container.id, quota.cpu_millicores):
            await asyncio.to_thread(self._calling, lambda worker: self._write(worker, quota), worker)
        elif self._config.resize_memory:
            try:
                await asyncio.to_thread(
                    self._calling, lambda _: self._write_memory(container, quota.memory_bytes), worker
                )
            finally:
                # An engine that fails with a limit puts back all that it knows of the container.
                await self._direct.write(container.id, quota.cpu_millicores)

    async def close(self) -> None:
        if self._direct is not None:
            await self._direct.close()
        for container_id in self._pins.pinned:
            with contextlib.suppress(ActuationError):  # it is gone, or the engine
                await asyncio.to_thread(self._calling, self._unpin, WorkerRef("", container_id))
        await asyncio.to_thread(self._disconnect)

    def _read(self, worker: WorkerRef) -> tuple[_Container, Quota]:
        container, client = self._checked(worker), self._connected()
        held = client.inspect_container(container.id)["HostConfig"]
        quota = held["CpuQuota"]
        millicores = quota * 1000 // (held["CpuPeriod"] or DEFAULT_PERIOD_US) if quota > 0 else None
        if worker.whole_cores and millicores is None:
            millicores = self._pins.read(client, container.id, held)
        return container, Quota(millicores, Held.of(held).limit_bytes if self._config.resize_memory else 0)

    def _write(self, worker: WorkerRef, quota: Quota) -> None:
        container = self._checked(worker)
        # By itself and first: CPU waits for no memory, and is not refused with it.
        if worker.whole_cores and quota.cpu_millicores is not None and quota.cpu_millicores % 1000 == 0:
            self._pins.write(self._connected(), container.id, quota.cpu_millicores, self._config.period_us)
        else:
            self._write_cpu(container.id, quota.cpu_millicores)
        if self._config.resize_memory:
            self._write_memory(container, quota.memory_bytes)

    def _write_cpu(self, container_id: str, millicores: int | None) -> None:
        period_us = self._config.period_us
        # The engine takes 0 for «leave alone» and −1 for «no limit».
        self._connected().update_container(
            container_id,
            cpu_period=period_us,
            cpu_quota=-1 if millicores is None else quota_us(millicores, period_us),
            cpu_shares=DEFAULT_SHARES if millicores is None else cpu_shares(millicores),
            **self._pins.lifted(container_id),
        )
        self._pins.forget(container_id)

    def _write_memory(self, container: _Container, limit_bytes: int) -> None:
        """Change the memory limit if it differs, down to no less than what is in use allows.

        A limit that stays higher harms nobody, and is no failure.
        """
        client = self._connected()
        held = Held.of(client.inspect_container(container.id)["HostConfig"])
        if limit_bytes == held.limit_bytes:
            return
        if not held.lowered_by(limit_bytes):
            client.update_container(container.id, **held.update(limit_bytes))
            return
        used = in_use(client.stats(container.id, stream=False, one_shot=True)["memory_stats"])
        limit = floored(limit_bytes, used)
        refused = ""
        try:
            if held.lowered_by(limit):
                client.update_container(container.id, **held.update(limit))
        except NotFound:
            raise
        except APIError as error:  # in version 1 of control groups for what is in use after all
            refused = str(error.explanation or error)
        if limit == limit_bytes and not refused:
            self._held_up.discard(container.id)
        elif container.id not in self._held_up:
            self._held_up.add(container.id)
            numbers = {"wanted": limit_bytes, "in_use": used, "refused": refused}
            log.info("memory limit not lowered in full", container=container.name, **numbers)

    def _unpin(self, worker: WorkerRef) -> None:
        """Give a container a quota in the place of its own CPUs."""
        client = self._connected()
        held = client.inspect_container(worker.container_id)["HostConfig"]
        self._write_cpu(worker.container_id, 1000 * len(own(held)) or None)

    async def _record(self, container_id: str, millicores: int | None) -> None:
        """Have the engine's record say what is in force."""
        await asyncio.to_thread(
            self._calling,
            lambda worker: self._write_cpu(worker.container_id, millicores),
            WorkerRef("", container_id),
        )

    def _is_ours(self, labels: Mapping[str, str]) -> bool:
        return self._config.docker_label in labels and labels.get(PROJECT) == self._own_project()

    def _checked(self, worker: WorkerRef) -> _Container:
        """The worker's container, if it may be touched; asks the engine once for each container."""
        known = self._allowed.get(worker.container_id)
        if known is not None:
            return known
        # An id, never a name: that could be another container tomorrow.
        if not _ID.fullmatch(worker.container_id):
            raise ActuationError(
                f"worker {worker.worker_id}: container_id: expected 12 to 64 hexadecimal digits, "
                f"got {worker.container_id!r}"
            )
        found = self._connected().inspect_container(worker.container_id)
        container = _Container(found["Id"], found["Name"].lstrip("/"))
        labels = found["Config"]["Labels"] or {}
        if not found["Id"].startswith(worker.container_id):
            raise ActuationError(f"no container has the id {worker.container_id}")
        if self._config.docker_label not in labels:
            raise ActuationError(
                f"container {container.name}: expected the label {self._config.docker_label}"
            )
        project = self._own_project()
        if labels.get(PROJECT) != project:
            raise ActuationError(
                f"container {container.name}: expected the label {PROJECT}={project}, got {labels.get(PROJECT)}"
            )
        if found["HostConfig"]["NanoCpus"]:
            raise ActuationError(
                f"container {container.name} was created with NanoCpus (cpus: or deploy.resources.limits.cpus in "
                "Compose, --cpus), which excludes a CPU quota: create it with cpu_period and cpu_quota instead"
            )
        self._allowed[worker.container_id] = container
        return container

    def _own_project(self) -> str:
        """The Compose project whose containers may be touched."""
        if not self._project:
            hostname = socket.gethostname()  # in a container its short id, unless set otherwise
            with contextlib.suppress(NotFound):
                own = self._connected().inspect_container(hostname)
                if own["Id"].startswith(hostname):
                    self._project = (own["Config"]["Labels"] or {}).get(PROJECT, "")
        if not self._project:
            raise ActuationError(
                "actuator.compose_project: expected the project whose containers may be resized, "
                "as the control plane does not run in a container of one"
            )
        return self._project

    def _calling(self, call: Callable[[WorkerRef], T], worker: WorkerRef) -> T:
        """Run a call of the engine, and make every failure one line of its own text."""
        try:
            return call(worker)
        except NotFound as error:
            self._allowed.pop(worker.container_id, None)
            raise ActuationError(f"container {worker.container_id} is gone: {error.explanation}") from error
        except APIError as error:
            raise ActuationError(f"Docker refused: {error.explanation or error}") from error
        except CgroupError as error:
            raise ActuationError(str(error)) from error
        except (DockerException, OSError) as error:  # those of requests are OSErrors
            # Whatever the connection was worth, the next call makes a new one.
            self._disconnect()
            raise ActuationError(f"Docker engine unreachable: {error}") from error

    def _connected(self) -> Any:
        """The engine's client; connecting asks for the version of its protocol."""
        with self._lock:
            if self._client is None:
                kwargs: dict[str, Any] = kwargs_from_env() | {"timeout": self._config.docker_timeout_s}
                if self._base_url is not None:
                    kwargs["base_url"] = self._base_url
                self._client = docker.APIClient(version="auto", **kwargs)
            return self._client

    def _disconnect(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()
