"""CPU quotas written to the control groups of containers by the control plane itself; the engine's record follows."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from controlplane.actuators import ActuationError
from core import hierarchy
from core.cgroup import Cgroup, CgroupError
from core.hierarchy import V2

# The record follows after so long, so that a growth seldom meets an update under way, which writes its own quota to the
# group once more. 99 of 100 updates take less.
PAUSE_S = 0.2
_MAX_PAUSE_S = 10.0  # of an engine that refuses
_DEPTH = 6  # of groups, below which no engine puts a container

log = structlog.get_logger()


def find(container_id: str, root: Path = Path("/")) -> Cgroup | None:
    """The control group of the container with this whole id, as far as this process sees it; None if it does not.

    It is known by its name, which is the id or has it, whatever group the engine makes it in; what a worker says of
    itself does not count. `root` is where /proc and the mount points are looked for.
    """
    names = (container_id, f"docker-{container_id}.scope")
    for mount in hierarchy.parse_mounts((root / "proc/self/mountinfo").read_text(), root):
        if "cpu" in mount.controllers or V2 in mount.controllers:
            level = [mount.point]
            # The nearest to the top: what lies below another container's group may be called anything.
            for _ in range(_DEPTH):
                level = [path for group in level for path in group.iterdir() if path.is_dir()]
                for path in level:
                    if path.name in names and _holds_cpu(path, mount):
                        return Cgroup.at(path, root)
    return None


def _holds_cpu(path: Path, mount: hierarchy.Mount) -> bool:
    return "cpu" in mount.controllers or (path / "cpu.max").exists()


@dataclass(slots=True)
class _Container:
    """`wanted` was written last, and the record does not say so yet while it is `behind`.

    Who writes to the group holds `writing`, who updates the record `updating`.
    """

    group: Cgroup | None  # None: the engine writes, for good
    wanted: int | None = None
    written: bool = False
    behind: bool = False
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    updating: asyncio.Lock = field(default_factory=asyncio.Lock)
    following: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether somebody still writes to it or to its record."""
        follows = self.following is not None and not self.following.done()
        return follows or self.writing.locked() or self.updating.locked()


class Direct:
    """Writes quotas where it can; containers are known by their whole ids, as the engine told them."""

    def __init__(
        self,
        period_us: int,
        record: Callable[[str, int | None], Awaitable[None]],
        root: Path = Path("/"),
        pause_s: float = PAUSE_S,
    ) -> None:
        """`record` brings the engine's record of a container to a quota, and raises ActuationError."""
        self._period_us = period_us
        self._record = record
        self._root = root
        self._pause_s = pause_s
        self._containers: dict[str, _Container] = {}
        self._closing = asyncio.Event()
        self._complained: set[tuple[str, str]] = set()

    async def read(self, container_id: str, recorded: int | None) -> int | None:
        """Millicores in force; `recorded`, what the engine says, where the group cannot be read.

        A record that says something else, as after a crash, is brought to what is in force.
        """
        container = await self._container(container_id)
        try:
            in_force = recorded if container.group is None else container.group.quota_millicores()
        except CgroupError as error:
            self._lose(container_id, container, error)
            return recorded
        if in_force != recorded:
            self._follow(container_id, container, in_force)
        return in_force

    async def write(self, container_id: str, millicores: int | None) -> bool:
        """Put a quota in force; False if the engine has to."""
        container = await self._container(container_id)
        async with container.writing:
            written = await self._written(container_id, container, millicores)
            if written:
                self._follow(container_id, container, millicores)
        if container.updating.locked():
            # What that writes to the group is not this. Until it is over nobody may count on what is in force.
            async with container.updating, container.writing:
                written = written and await self._written(container_id, container, millicores)
        return written

    async def hold(self, container_id: str) -> None:
        """Write the last quota once more, where there was one: somebody may have put another over it."""
        container = self._containers.get(container_id)
        if container is not None and container.written:
            async with container.writing:
                await self._written(container_id, container, container.wanted)

    def used_bytes(self, container_id: str) -> int | None:
        """Memory that a container uses, without page cache that is given back first; None where that is not seen."""
        container = self._containers.get(container_id)
        if container is None or container.group is None or container.group.memory is None:
            return None
        try:
            return container.group.working_set_bytes()
        except CgroupError:
            return None

    def forget(self, these: Callable[[str], bool]) -> None:
        """Know nothing more of `these` containers, but where the record has yet to follow."""
        for container_id, container in tuple(self._containers.items()):
            if these(container_id) and not container.busy:
                del self._containers[container_id]
        self._complained = {told for told in self._complained if not these(told[1])}

    async def close(self) -> None:
        """Bring every record to what is in force, as far as one attempt does."""
        self._closing.set()
        tasks = [c.following for c in self._containers.values() if c.following is not None]
        await asyncio.gather(*tasks)

    async def _container(self, container_id: str) -> _Container:
        if (known := self._containers.get(container_id)) is not None:
            return known
        try:
            group = await asyncio.to_thread(find, container_id, self._root)
        except (OSError, CgroupError) as error:  # a group went meanwhile
            group = None
            self._complain(container_id, str(error))
        else:
            if group is None:
                self._complain(container_id, "expected to see its control group from here")
        # One that is just starting again is looked for again.
        return (
            _Container(None)
            if group is None
            else self._containers.setdefault(container_id, _Container(group))
        )

    async def _written(self, container_id: str, container: _Container, millicores: int | None) -> bool:
        group = container.group
        if group is None:
            return False
        try:
            await asyncio.to_thread(self._put, group, millicores)
        except CgroupError as error:
            self._lose(container_id, container, error)
            return False
        return True

    def _put(self, group: Cgroup, millicores: int | None) -> None:
        group.set_quota(millicores, self._period_us)
        # Engines turn shares into the weights of version 2 each in their own way: those come with the record.
        if group.version == 1:
            group.set_weight(1024 if millicores is None else millicores)

    def _lose(self, container_id: str, container: _Container, error: CgroupError) -> None:
        """Leave it to the engine from now on: for good, or until the group of one that has started again is found."""
        if container.group is not None and not container.group.cpu.is_dir():
            self._containers.pop(container_id, None)
        else:
            self._complain(container_id, str(error))
        container.group = None
        container.behind = False  # what was to be recorded must not follow what the engine is about to write

    def _follow(self, container_id: str, container: _Container, millicores: int | None) -> None:
        container.wanted, container.written, container.behind = millicores, True, True
        if container.following is None or container.following.done():
            container.following = asyncio.create_task(self._bring(container_id, container))

    async def _bring(self, container_id: str, container: _Container) -> None:
        """Update the record until it says what is in force."""
        pause_s = self._pause_s
        while container.behind:
            try:
                async with asyncio.timeout(pause_s):
                    await self._closing.wait()
            except TimeoutError:
                pass
            if not container.behind:
                return
            millicores = container.wanted
            try:
                async with container.updating:
                    await self._record(container_id, millicores)
            except ActuationError as error:
                self._complain(container_id, str(error), "record not updated")
                await self.hold(container_id)  # what fails may have put back what was there before
                pause_s = min(2 * pause_s, _MAX_PAUSE_S)
                if container.group is None or self._closing.is_set():
                    return
                if not container.group.cpu.is_dir():
                    self._containers.pop(container_id, None)
                    return
            else:
                pause_s = self._pause_s
                container.behind = container.wanted != millicores

    def _complain(
        self, container_id: str, text: str, event: str = "control group not written directly"
    ) -> None:
        if (event, container_id) not in self._complained:
            self._complained.add((event, container_id))
            log.warning(event, container=container_id[:12], error=text)
