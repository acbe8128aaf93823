"""Something that a quota holds back: a thread that never sleeps, in a control group or a container of its own."""

import asyncio
import contextlib
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import docker
from docker.errors import DockerException, ImageNotFound

from controlplane.actuators.docker import PROJECT
from core.cgroup import Cgroup, CgroupError, usable_parent
from evaluation import owner

IMAGE = "sponge-worker"
PERIOD_US = 20_000
_LABEL = "sponge.worker"
# Should what started it be killed, the kernel kills it (PR_SET_PDEATHSIG is 1).
_SPIN = "import ctypes; ctypes.CDLL(None).prctl(1, 9)\nwhile True: pass"


class Unavailable(Exception):
    """What is to be measured, this machine does not offer; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Spinner:
    """What a worker says of where it runs, and the control group in which that can be seen from outside."""

    group: Cgroup
    container_id: str = ""
    cgroup_path: str = ""
    project: str = ""  # Compose project of the container


@asynccontextmanager
async def local(millicores: int) -> AsyncIterator[Spinner]:
    """A process in a control group below this process's own. Raises Unavailable."""
    try:
        parent = usable_parent()
        if parent is None:
            raise Unavailable("no control group may be made here")
        group = Cgroup.create(f"sponge-{uuid.uuid4().hex[:8]}", parent)
    except CgroupError as error:
        raise Unavailable(f"control groups: {error}") from error
    process = None
    try:
        group.set_quota(millicores, PERIOD_US)
        process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", _SPIN)
        group.move(process.pid)
        yield Spinner(group, cgroup_path=str(group.cpu))
    finally:
        if process is not None:
            process.kill()
            await process.wait()
        group.remove()


@asynccontextmanager
async def container(millicores: int) -> AsyncIterator[Spinner]:
    """A container of the worker's image, removed at the end. Raises Unavailable."""
    project = f"sponge-costs-{uuid.uuid4().hex[:8]}"
    try:
        engine = docker.from_env(timeout=60)
        owner.remove_abandoned(engine)
        # Not in a thread: who is cancelled meanwhile would leave a container behind.
        running = engine.containers.run(
            IMAGE,
            entrypoint=["python", "-S", "-c", _SPIN],
            command=[],
            detach=True,
            network_mode="none",
            labels={_LABEL: "true", PROJECT: project, owner.LABEL: owner.this()},
            cpu_period=PERIOD_US,
            cpu_quota=millicores * PERIOD_US // 1000,
        )
    except ImageNotFound:
        raise Unavailable(f"no image {IMAGE}: make images builds it") from None
    except DockerException as error:
        raise Unavailable(f"no Docker engine answers: {error}") from error
    try:
        running.reload()
        group = _seen(running.attrs["State"]["Pid"])
        yield Spinner(group, container_id=running.id or "", project=project)
    finally:
        with contextlib.suppress(DockerException):
            await asyncio.to_thread(running.remove, force=True)
        engine.close()


def _seen(pid: int) -> Cgroup:
    """The control group of a process in a container, through this process's mounts. Raises Unavailable."""
    try:
        group = Cgroup.of_process(pid)
    except CgroupError as error:
        raise Unavailable(f"control groups: {error}") from error
    if group is None:
        raise Unavailable("the containers' control groups are not to be seen from here")
    return group
