"""Memory limits of containers: raised while one waits, lowered behind everybody's back."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from controlplane.actuators import ActuationError

log = structlog.get_logger()


@dataclass(slots=True)
class _Container:
    wanted: int | None = None  # None: not known to be in force, or on its way
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class MemoryLimits:
    """Brings limits to what was asked for last; containers are known by their whole ids.

    To lower one takes a look at what is in use, for which engines take up to a second. Nobody is worse off while it is
    higher, so no write waits for that, and none fails with it.
    """

    def __init__(self, put: Callable[[str, int, bool], Awaitable[bool]]) -> None:
        """`put` changes a limit, and lowers one only if told that it may, else gives False. Raises ActuationError."""
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
                raised = await self._put(container_id, limit_bytes, False)
        except ActuationError:
            container.wanted = None
            raise
        if not raised:
            lowering = asyncio.create_task(self._lower(container_id, container, limit_bytes))
            self._lowering.add(lowering)
            lowering.add_done_callback(self._lowering.discard)

    def forget(self, container_id: str) -> None:
        """Somebody else may have changed it: the next write looks."""
        if (container := self._containers.get(container_id)) is not None:
            container.wanted = None

    async def settle(self) -> None:
        """Wait until everything is lowered that was asked for."""
        await asyncio.gather(*self._lowering)

    async def _lower(self, container_id: str, container: _Container, limit_bytes: int) -> None:
        async with container.changing:
            if container.wanted != limit_bytes:
                return
            try:
                await self._put(container_id, limit_bytes, True)
            except ActuationError as error:
                container.wanted = None
                log.warning("memory limit not lowered", container=container_id[:12], error=str(error))
