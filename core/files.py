"""Files that are read anew when they change."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")


class FileError(Exception):
    """A file that cannot be used; the text is one line with the setting's key, what was expected, and the file."""


class Reloaded(Generic[T]):
    """What `read` made of the files at `paths` when it last could.

    It raises FileError. The first time, so does this; later that is logged, and the value stays what it was.
    """

    def __init__(self, read: Callable[[], T], *paths: Path) -> None:
        self._read = read
        self._paths = paths
        self._state = self._look()
        self.value = read()

    def reload(self) -> bool:
        """Read the files if they have changed; whether there is a new value."""
        # Looked at before they are read: what changes meanwhile is read again.
        state = self._look()
        if state == self._state:
            return False
        self._state = state
        try:
            self.value = self._read()
        except FileError as error:
            log.warning("changed files refused", problem=str(error))
            return False
        log.info("changed files read", files=[str(path) for path in self._paths])
        return True

    def _look(self) -> list[tuple[int, ...] | None]:
        return [_state(path) for path in self._paths]


def contents(key: str, path: Path) -> bytes:
    """What the file of the setting `key` holds; raises FileError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"{key}: expected a file, {path} cannot be read: {error.strerror}") from error


def _state(path: Path) -> tuple[int, ...] | None:
    """What differs once a file is written, replaced, or reached by another link."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
