"""Containers, resized by the engine that owns them."""

import contextlib
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog
from docker.errors import APIError, DockerException, NotFound

from controlplane import config as settings
from controlplane.actuators import ActuationError, Quota, Unreachable, WorkerRef
from controlplane.actuators.direct import Direct
from controlplane.actuators.engine import Address, Engine
from controlplane.actuators.events import follow
from controlplane.actuators.limits import Held, floored, in_use
from controlplane.actuators.memory import MemoryLimits
from controlplane.actuators.pins import Pins, own
from core.cgroup import CgroupError, cpu_shares, quota_us

T = TypeVar("T")

PROJECT = "com.docker.compose.project"
DEFAULT_PERIOD_US = 100_000
DEFAULT_SHARES = 1024

log = structlog.get_logger()

_ID = re.compile(r"[0-9a-f]{12,64}")
# What comes of another document than was expected.
_NOT_UNDERSTOOD = (LookupError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class _Container:
    """A container that may be touched; id, labels and NanoCpus are its own for life."""

    id: str
    name: str


class DockerActuator:
    """Updates CPU quota, period and weight of a container in one call, and then, where configured, its memory limit.

    Touches only containers with the configured label that belong to the configured Compose project, or else to
    that of the control plane's own container. Memory is left alone, and read as unlimited, unless resize_memory.
    With cgroup_write, and an engine at a local socket, quotas are written to the container's control group, and the
    update follows. Whole cores are CPUs that no other container with whole cores has, and no quota; such a container is
    read as having a quota of those.
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
        address = address or Address.from_env(base_url)
        self._engine = Engine(address, config.docker_timeout_s)
        self._host = host
        self._project = config.compose_project
        self._allowed: dict[str, _Container] = {}  # by the id the worker gave
        self._pins = Pins(config.whole_cores_cpus, self._is_ours)
        written = config.cgroup_write and address.is_local  # of others no group is to be seen here
        self._direct = Direct(config.period_us, self._record) if written else None
        self._memory = MemoryLimits(self._put_memory)
        self._held_up: set[str] = set()  # ids of containers of which it is told that a limit stayed higher

    async def read(self, worker: WorkerRef) -> Quota | None:
        read: tuple[_Container, Quota] = await self._engine.run(self._calling, self._read, worker)
        container, quota = read
        quota = replace(quota, memory_bytes=self._memory.read(container.id, quota.memory_bytes))
        if self._direct is None or worker.whole_cores:
            return quota
        return replace(quota, cpu_millicores=await self._direct.read(container.id, quota.cpu_millicores))

    async def write(self, worker: WorkerRef, quota: Quota) -> None:
        container = await self._engine.run(self._calling, self._checked, worker)
        millicores = quota.cpu_millicores
        # CPU by itself and first: it waits for no memory, and is not refused with it.
        if worker.whole_cores and millicores is not None and millicores % 1000 == 0:
            await self._called(container.id, self._pin, millicores)
        elif (
            self._direct is None
            or worker.whole_cores
            or not await self._direct.write(container.id, millicores)
        ):
            await self._called(container.id, self._write_cpu, millicores)
        if self._config.resize_memory:
            await self._memory.write(container.id, quota.memory_bytes)

    async def host(self, worker: WorkerRef) -> str:
        return self._host

    async def watch(self, changed: Callable[[str], None]) -> None:
        await follow(self._engine, self._host, self._config.docker_label, changed)

    def forget(self, worker: WorkerRef) -> None:
        said = worker.container_id
        if not _ID.fullmatch(said):  # nothing is known of it, and every id begins with none
            return
        self._allowed.pop(said, None)

        def its(whole: str) -> bool:
            return whole.startswith(said)  # which one is gone may not be known any more

        self._held_up.difference_update([whole for whole in tuple(self._held_up) if its(whole)])
        self._memory.forget(its)
        if self._direct is not None:
            self._direct.forget(its)

    async def settle(self) -> None:
        """Wait until memory limits are as low as was asked for, or as may be."""
        await self._memory.settle()

    async def close(self) -> None:
        await self._memory.settle()
        if self._direct is not None:
            await self._direct.close()
        for container_id in self._pins.pinned:
            with contextlib.suppress(ActuationError):  # it is gone, or the engine
                await self._called(container_id, self._unpin)
        await self._engine.close()

    def _read(self, worker: WorkerRef) -> tuple[_Container, Quota]:
        container, client = self._checked(worker), self._connected()
        held = client.inspect_container(container.id)["HostConfig"]
        quota = held["CpuQuota"]
        millicores = quota * 1000 // (held["CpuPeriod"] or DEFAULT_PERIOD_US) if quota > 0 else None
        if worker.whole_cores and millicores is None:
            millicores = self._pins.read(client, container.id, held)
        return container, Quota(millicores, Held.of(held).limit_bytes if self._config.resize_memory else 0)

    async def _called(self, container_id: str, call: Callable[..., T], *words: Any) -> T:
        """Run a call about a container that was checked, in a thread."""
        return await self._engine.run(
            self._calling, lambda worker: call(worker.container_id, *words), WorkerRef("", container_id)
        )

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

    async def _put_memory(self, container_id: str, limit_bytes: int, may_lower: bool) -> int | None:
        try:
            return await self._called(container_id, self._write_memory, limit_bytes, may_lower)
        finally:
            # An engine that fails with a limit puts back all that it knows of the container.
            if self._direct is not None:
                await self._direct.hold(container_id)

    def _write_memory(self, container_id: str, limit_bytes: int, may_lower: bool) -> int | None:
        """Change a memory limit if it differs, and give what it is now; None if that would lower it, and it may not.

        It is lowered to no less than what is in use allows. One that stays higher harms nobody, and is no failure.
        """
        client = self._connected()
        held = Held.of(client.inspect_container(container_id)["HostConfig"])
        if limit_bytes == held.limit_bytes:
            return limit_bytes
        if not held.lowered_by(limit_bytes):
            client.update_container(container_id, **held.update(limit_bytes))
            return limit_bytes
        if not may_lower:
            return None
        # An engine that was asked in the second before takes a second.
        used = self._direct.used_bytes(container_id) if self._direct is not None else None
        if used is None:
            used = in_use(client.stats(container_id, stream=False, one_shot=True)["memory_stats"])
        limit = floored(limit_bytes, used)
        refused = ""
        try:
            if held.lowered_by(limit):
                client.update_container(container_id, **held.update(limit))
        except NotFound:
            raise
        except APIError as error:  # in version 1 of control groups for what is in use after all
            refused = str(error.explanation or error)
        if (limit != limit_bytes or refused) and container_id not in self._held_up:
            self._held_up.add(container_id)
            numbers = {"wanted": limit_bytes, "in_use": used, "refused": refused}
            log.info("memory limit not lowered in full", container=container_id[:12], **numbers)
        return held.limit_bytes if refused or not held.lowered_by(limit) else limit

    def _pin(self, container_id: str, millicores: int) -> None:
        self._pins.write(self._connected(), container_id, millicores, self._config.period_us)

    def _unpin(self, container_id: str) -> None:
        """Give a container a quota in the place of its own CPUs."""
        cpus = own(self._connected().inspect_container(container_id)["HostConfig"])
        if cpus:  # nobody has given it something else
            self._write_cpu(container_id, 1000 * len(cpus))

    async def _record(self, container_id: str, millicores: int | None) -> None:
        """Have the engine's record say what is in force."""
        await self._called(container_id, self._write_cpu, millicores)

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
            gone = worker.container_id
            for said, each in tuple(self._allowed.items()):
                if gone in (said, each.id):
                    self._allowed.pop(said, None)
                    self._pins.forget(each.id)
            raise ActuationError(f"container {gone[:12]} is gone: {error.explanation}") from error
        except APIError as error:
            raise ActuationError(f"Docker refused: {error.explanation or error}") from error
        except CgroupError as error:
            raise ActuationError(str(error)) from error
        except (DockerException, OSError) as error:  # those of requests are OSErrors
            # Whatever the connection was worth, the next call makes a new one.
            self._engine.disconnect()
            raise Unreachable(f"Docker engine unreachable: {error}") from error
        except _NOT_UNDERSTOOD as error:
            text = f"{type(error).__name__}: {error}"
            raise ActuationError(f"the engine's answer is not understood: {text}") from error

    def _connected(self) -> Any:
        """The engine's client."""
        return self._engine.client()
