"""Which of several control planes leads: of one host the one that holds the lock of a file. The others stand by."""

import asyncio
import fcntl
import os
from collections.abc import Sequence
from typing import Any, Protocol

import grpc
import structlog

from core.handlers import refusal

TRY_S = 0.5  # so soon one that stands by leads after its predecessor's end

log = structlog.get_logger()


class LockError(Exception):
    """A lock file that cannot be used; the text is one line with the setting's key."""


class Leadership(Protocol):
    """What one control plane has at a time, of those that are told to share it."""

    @property
    def held(self) -> bool:
        """Whether this process leads, and may act."""

    async def gain(self) -> None:
        """Stand by until this process leads."""

    async def keep(self) -> None:
        """Returns when it is lost: this process must do nothing more. To be awaited as soon as it is held."""

    async def release(self) -> None:
        """Let another lead, where this process still does."""

    def close(self) -> None:
        """Release what it takes to look; what is held and was not released is given up with this process at last."""


class FileLock:
    """Is held by one process at a time of those that name the same file; without a path, by everyone who asks.

    The kernel takes it back when the process ends, however that happens, and not before: one that is stopped leads
    on. The file is never removed, as another in its place would be another lock. `setting` is the key that the path
    comes of. Raises LockError if the file cannot be opened or locked.
    """

    def __init__(self, setting: str, path: str) -> None:
        self.held = False
        self._setting = setting
        self._path = path
        # Child processes do not inherit it: Python opens files so.
        self._file = self._opened() if path else None

    def take(self) -> bool:
        """Try once; whether this process leads now. Raises LockError."""
        if self._file is not None and not self.held:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError as error:
                raise self._error(error) from error
        self.held = True
        return True

    async def gain(self, try_s: float = TRY_S) -> None:
        """Stand by until this process leads, trying every `try_s` seconds. Raises LockError."""
        if self.take():
            return
        log.info("standing by", reason="another control plane leads", lock=self._path)
        while True:
            await asyncio.sleep(try_s)
            if self.take():
                return

    async def keep(self) -> None:
        """Never returns: the kernel takes nothing back from a process that runs."""
        await asyncio.Event().wait()

    async def release(self) -> None:
        """Let another lead."""
        self.close()

    def close(self) -> None:
        """Let another lead."""
        self.held = False
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _opened(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> LockError:
        return LockError(
            f"{self._setting}: expected to lock {self._path!r} in a directory that can be written: {error.strerror}"
        )


class Standby(grpc.GenericRpcHandler):
    """Answers every call of `services`, full names, with UNAVAILABLE until the `end`; others are not its own."""

    def __init__(self, services: Sequence[str]) -> None:
        self._prefixes = tuple(f"/{service}/" for service in services)
        self._ended = False

    def end(self) -> None:
        """From now on others answer."""
        self._ended = True

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The refusal, None to let the call pass."""
        if self._ended or not handler_call_details.method.startswith(self._prefixes):
            return None
        return _REFUSAL


_REFUSAL = refusal(grpc.StatusCode.UNAVAILABLE, "standing by, another control plane leads")
