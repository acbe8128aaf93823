"""Containers, resized by the engine that owns them."""

import contextlib
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from docker.errors import APIError, DockerException, NotFound

from controlplane import config as settings
from controlplane.actuators import ActuationError, Quota, Unreachable, WorkerRef
from controlplane.actuators.engine import Address, Engine
from controlplane.actuators.events import follow
from core.cgroup import CgroupError, cpu_shares, quota_us

T = TypeVar("T")

PROJECT = "com.docker.compose.project"
DEFAULT_PERIOD_US = 100_000
DEFAULT_SHARES = 1024
UNLIMITED_BYTES = 1 << 62  # the engine cannot lift a memory limit, but takes one that never binds

_ID = re.compile(r"[0-9a-f]{12,64}")


@dataclass(frozen=True, slots=True)
class _Container:
    """A container that may be touched; id, labels and NanoCpus are its own for life."""

    id: str
    name: str


class DockerActuator:
    """Updates CPU quota, period and weight of a container in one call, and its memory limit where configured.

    Touches only containers with the configured label that belong to the configured Compose project, or else to
    that of the control plane's own container. Memory is left alone, and read as unlimited, unless resize_memory.
    """

    kind = "docker"
    holds_quota = True

    def __init__(
        self,
        config: settings.Actuator,
        base_url: str | None = None,
        *,
        address: Address | None = None,
        host: str = "",
    ) -> None:
        """`address` of the engine; default is `base_url`, what DOCKER_HOST says, or the local socket.

        `host` names the host that it is the engine of.
        """
        self._config = config
        self._engine = Engine(address or Address.from_env(base_url), config.docker_timeout_s)
        self._host = host
        self._project = config.compose_project
        self._allowed: dict[str, _Container] = {}  # by the id the worker gave

    async def read(self, worker: WorkerRef) -> Quota | None:
        return await self._engine.run(self._calling, self._read, worker)

    async def write(self, worker: WorkerRef, quota: Quota) -> None:
        await self._engine.run(self._calling, lambda worker: self._write(worker, quota), worker)

    async def host(self, worker: WorkerRef) -> str:
        return self._host

    async def watch(self, changed: Callable[[str], None]) -> None:
        await follow(self._engine, self._host, self._config.docker_label, changed)

    async def close(self) -> None:
        await self._engine.close()

    def _read(self, worker: WorkerRef) -> Quota:
        container = self._checked(worker)
        limits = self._connected().inspect_container(container.id)["HostConfig"]
        quota = limits["CpuQuota"]
        millicores = quota * 1000 // (limits["CpuPeriod"] or DEFAULT_PERIOD_US) if quota > 0 else None
        memory = limits["Memory"] if self._config.resize_memory else 0
        return Quota(millicores, memory if memory < UNLIMITED_BYTES else 0)

    def _write(self, worker: WorkerRef, quota: Quota) -> None:
        container = self._checked(worker)
        millicores, period_us = quota.cpu_millicores, self._config.period_us
        # The engine takes 0 for «leave alone» and −1 for «no limit».
        limits = {
            "cpu_period": period_us,
            "cpu_quota": -1 if millicores is None else quota_us(millicores, period_us),
            "cpu_shares": DEFAULT_SHARES if millicores is None else cpu_shares(millicores),
        }
        if self._config.resize_memory:
            limits |= self._memory(container, quota.memory_bytes)
        self._connected().update_container(container.id, **limits)

    def _memory(self, container: _Container, memory_bytes: int) -> dict[str, int]:
        """The memory part of an update: swap keeps its size, and the limit is never below what is in use."""
        client = self._connected()
        before = client.inspect_container(container.id)["HostConfig"]
        if not memory_bytes:
            return {"mem_limit": UNLIMITED_BYTES, "memswap_limit": UNLIMITED_BYTES}
        usage = client.stats(container.id, stream=False, one_shot=True)["memory_stats"]
        cache = usage.get("stats", {})
        # What the kernel gives back first, by its name in version 1 or 2, does not count as used.
        reclaimable = cache.get("total_inactive_file", cache.get("inactive_file", 0))
        used = usage.get("usage", 0) - reclaimable
        if memory_bytes < used:
            raise ActuationError(
                f"container {container.name}: memory limit: expected at least {used} bytes in use"
            )
        swap = before["MemorySwap"] - before["Memory"] if before["MemorySwap"] > 0 else None
        return {"mem_limit": memory_bytes, "memswap_limit": -1 if swap is None else memory_bytes + swap}

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
            self._engine.disconnect()
            raise Unreachable(f"Docker engine unreachable: {error}") from error

    def _connected(self) -> Any:
        """The engine's client."""
        return self._engine.client()
