"""One door to whatever runs so many replicas of a service."""

from dataclasses import dataclass
from typing import Protocol


class ScaleError(Exception):
    """The number of replicas could not be read or changed; the text is one line."""


class ScaleConflictError(ScaleError):
    """Somebody else has changed it meanwhile."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How many are asked for, of that version of what asks for them."""

    replicas: int
    version: str


class Scales(Protocol):
    """Reads and changes what is named as `deployment/NAME` or `statefulset/NAME`."""

    async def read(self, name: str) -> Scale:
        """Raises ScaleError."""

    async def write(self, name: str, replicas: int, version: str) -> None:
        """Ask for so many instead of what that version says.

        Raises ScaleError, ScaleConflictError if the version is not the newest.
        """

    async def close(self) -> None:
        """Release connections; replicas stay."""
