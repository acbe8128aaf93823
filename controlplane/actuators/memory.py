"""Memory limits of containers and groups: raised while one waits, lowered behind everybody's back."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from controlplane.actuators import ActuationError

log = structlog.get_logger()


@dataclass(slots=True)
class _Container:
    wanted: int | None = None  # None: not known to be in force, or on its way
    in_force: int = 0  # what came of that
    lowering: int = 0  # under way
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class MemoryLimits:
    """Brings limits to what was asked for last; containers are known by their whole ids, groups by their paths.

    To lower one takes a look at what is in use, for which engines take up to a second. Nobody is worse off while it is
    higher, so no write waits for that, and none fails with it.
    """

    def __init__(self, put: Callable[[str, int, bool], Awaitable[int | None]]) -> None:
        """`put` changes a limit, and gives what it is now; None if it may not be lowered. Raises ActuationError."""
        self._put = put
        self._containers: dict[str, _Container] = {}
        self._lowering: set[asyncio.Task[None]] = set()

    async def write(self, container_id: str, limit_bytes: int) -> None:
        """Raise a limit, or see to it that it is lowered; 0 is none. Raises ActuationError for one that is raised."""
        container = self._containers.setdefault(container_id, _Container())
        if container.wanted == limit_bytes:
            return
        container.wanted = limit_bytes  # what is about to be lowered to something else is not, from now on
        try:
            async with container.changing:
                now = await self._put(container_id, limit_bytes, False)
        except ActuationError:
            container.wanted = None
            raise
        if now is not None:
            container.in_force = now
        else:
            container.lowering += 1
            lowering = asyncio.create_task(self._lower(container_id, container, limit_bytes))
            self._lowering.add(lowering)
            lowering.add_done_callback(self._lowering.discard)

    def read(self, container_id: str, limit_bytes: int) -> int:
        """What counts as the limit, where it is `limit_bytes`: what was asked for, if that is as low as it may be yet.

        What somebody else has changed counts as it is, and the next write looks.
        """
        container = self._containers.get(container_id)
        if container is None or container.wanted is None:
            return limit_bytes
        if not container.lowering and limit_bytes != container.in_force:
            container.wanted = None
            return limit_bytes
        return container.wanted

    def forget(self, these: Callable[[str], bool]) -> None:
        """Know nothing more of `these` containers, but for limits that are changing."""
        for container_id, container in tuple(self._containers.items()):
            if these(container_id) and not container.lowering and not container.changing.locked():
                del self._containers[container_id]

    async def settle(self) -> None:
        """Wait until everything is lowered that was asked for."""
        await asyncio.gather(*self._lowering)

    async def _lower(self, container_id: str, container: _Container, limit_bytes: int) -> None:
        try:
            async with container.changing:
                if container.wanted == limit_bytes:
                    container.in_force = await self._put(container_id, limit_bytes, True) or 0
        except ActuationError as error:
            container.wanted = None
            log.warning("memory limit not lowered", container=container_id, error=str(error))
        finally:
            container.lowering -= 1
