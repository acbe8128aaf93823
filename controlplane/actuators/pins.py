"""Containers with CPUs of their own, as an engine knows them."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from docker.errors import NotFound

from controlplane.actuators import ActuationError
from controlplane.cpuset import assign, parse, written
from core.cgroup import cpu_shares

_ONLINE = Path("/sys/devices/system/cpu/online")


class Pins:
    """Pins containers to CPUs that no other of them has, and lifts that again.

    Who has which is asked of the engine whenever it matters, and remembered nowhere: a control plane that starts again,
    a container that goes, or one that somebody else has changed, need no care. Methods take the engine's client.
    """

    def __init__(self, usable: str, ours: Callable[[Mapping[str, str]], bool]) -> None:
        """`usable` lists CPU numbers, default all of this host; `ours` tells by labels which containers count."""
        self._usable = usable
        self._ours = ours
        self._found: dict[str, str] = {}  # by id, what a pinned container is put back to; "" for all CPUs
        # From the look at who has which CPU until it is taken: two at once could take the same.
        self._lock = threading.Lock()

    def read(self, client: Any, container_id: str, host_config: Mapping[str, Any]) -> int | None:
        """Millicores of a container's own CPUs; None where it has none, or shares one that another has as well."""
        cpus = own(host_config)
        if not cpus or cpus & self._taken(client, container_id):
            return None
        self._found.setdefault(container_id, "")
        return 1000 * len(cpus)

    def write(self, client: Any, container_id: str, millicores: int, period_us: int) -> None:
        """Give a container so many whole cores. Raises ActuationError where they are not free."""
        with self._lock:
            before = client.inspect_container(container_id)["HostConfig"]
            taken, usable = self._taken(client, container_id), self._cpus()
            count = millicores // 1000
            cpus = assign(count, own(before), taken, usable)
            if cpus is None:
                raise ActuationError(
                    f"whole cores: expected {count} CPUs, {len(usable - taken)} of {written(usable)} are free"
                )
            if not own(before):
                self._found.setdefault(container_id, before.get("CpusetCpus", ""))
            # Without a quota: what cannot run elsewhere needs none, and is never throttled.
            client.update_container(
                container_id,
                cpuset_cpus=written(cpus),
                cpu_period=period_us,
                cpu_quota=-1,
                cpu_shares=cpu_shares(millicores),
            )

    def lifted(self, container_id: str) -> dict[str, str]:
        """The part of an update that lets a container run everywhere again; nothing where it was not pinned."""
        if (found := self._found.get(container_id)) is None:
            return {}
        return {"cpuset_cpus": found or written(self._cpus())}

    def forget(self, container_id: str) -> None:
        """It runs everywhere again."""
        self._found.pop(container_id, None)

    @property
    def pinned(self) -> list[str]:
        """Ids of those that are to run everywhere again before this process ends."""
        return list(self._found)

    def _taken(self, client: Any, container_id: str) -> frozenset[int]:
        """CPUs that other running containers have to themselves."""
        taken: set[int] = set()
        for found in client.containers():
            if found["Id"] != container_id and self._ours(found["Labels"] or {}):
                with contextlib.suppress(NotFound):  # it has ended since, and has none any more
                    taken |= own(client.inspect_container(found["Id"])["HostConfig"])
        return frozenset(taken)

    def _cpus(self) -> frozenset[int]:
        return parse(self._usable or _ONLINE.read_text().strip())


def own(host_config: Mapping[str, Any]) -> frozenset[int]:
    """CPUs of a container that has a set of them and no quota, which is how `Pins` leaves one."""
    return frozenset() if host_config["CpuQuota"] > 0 else parse(host_config.get("CpusetCpus", ""))
