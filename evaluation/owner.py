"""Whose a container or network is: what a process that was killed has left behind, the next one removes."""

import contextlib
import os
from pathlib import Path

import docker
from docker.errors import APIError

LABEL = "sponge.owner"
_PROC = Path("/proc")


def this(proc: Path = _PROC) -> str:
    """Name this process among all of a machine: boot, PID namespace, PID, and clock ticks from boot to its start."""
    pid = os.getpid()
    return f"{_boot(proc)} {_namespace(proc)} {pid} {_began(proc, pid)}"


def gone(owner: str, proc: Path = _PROC) -> bool:
    """Whether the process of that name has ended; False where it cannot be seen, in another PID namespace."""
    try:
        boot, namespace, pid, began = owner.split()
    except ValueError:
        return False
    if boot != _boot(proc):
        return True
    return namespace == _namespace(proc) and began != _began(proc, int(pid))


def remove_abandoned(engine: docker.DockerClient) -> None:
    """Remove from a local engine what carries the label of a process that has ended.

    Others may be doing the same just now: what cannot be removed is left to them, or to the next.
    """
    for container in engine.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
        if gone(container.labels[LABEL]):
            with contextlib.suppress(APIError):
                container.remove(force=True, v=True)
    for network in engine.networks.list(filters={"label": LABEL}):
        if gone(network.attrs["Labels"][LABEL]):
            with contextlib.suppress(APIError):
                network.remove()


def _boot(proc: Path) -> str:
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def _namespace(proc: Path) -> str:
    return os.readlink(proc / "self/ns/pid")


def _began(proc: Path, pid: int) -> str | None:
    """Field 22 of a process's `stat`; None if it has ended, waited for or not."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold blanks; the state is field 3.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]
