"""The file that a model is loaded from, and loaded again for every other number of threads."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

from dataplane.execution import ModelError


class ModelFile:
    """A model file as it was when it was opened.

    With `keep` sessions are made from a private copy, whatever becomes of `source`: in the directory for
    temporary files, or in memory where that has no room, as in a read-only container. It has no name, and
    goes with the process at the latest. Without, `intact` tells whether `source` still is what it was.

    The copy is of this file alone. Weights that it keeps in other files (external data) are read from beside
    `source` whenever a session is made, so these have to stay as they are for as long as it is served; with
    `keep`, ONNX Runtime finds them from 1.28 on. Raises ModelError.
    """

    def __init__(self, source: Path, *, keep: bool) -> None:
        self.source = source
        try:
            self._copy = _copy(source) if keep else None
        except OSError as error:
            raise _unreadable(source, error) from error
        self.digest = digest_of(self.path)

    @property
    def path(self) -> Path:
        """What to make sessions from."""
        return self.source if self._copy is None else Path(f"/proc/self/fd/{self._copy.fileno()}")

    def intact(self) -> bool:
        """Whether `path` still is what `digest` is of. Raises ModelError."""
        return self._copy is not None or digest_of(self.source) == self.digest

    def close(self) -> None:
        """Give the copy up, if there is one."""
        if self._copy is not None:
            self._copy.close()


def digest_of(path: Path) -> str:
    """SHA-256 in hexadecimal. Raises ModelError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _copy(source: Path) -> IO[bytes]:
    with source.open("rb") as original:
        try:
            return _copy_into(tempfile.TemporaryFile(), original)
        except OSError:
            original.seek(0)
            return _copy_into(os.fdopen(os.memfd_create("model"), "w+b"), original)


def _copy_into(copy: IO[bytes], original: IO[bytes]) -> IO[bytes]:
    try:
        shutil.copyfileobj(original, copy, 1 << 20)
        copy.flush()
    except OSError:
        copy.close()
        raise
    return copy


def _unreadable(path: Path, error: OSError) -> ModelError:
    return ModelError(f"{path}: cannot be read: {error.strerror}", "its file cannot be read")
