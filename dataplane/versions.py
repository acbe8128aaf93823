"""The versions of a model on disk."""

from dataclasses import dataclass
from pathlib import Path

from dataplane.execution import ModelError

# Triton's layout of a model's directory: one for each version, by number.
FILE_NAME = "model.onnx"


@dataclass(frozen=True, slots=True)
class Version:
    """One version, and the file to load it from."""

    name: str
    file: Path


def find(path: Path, version: str) -> list[Version]:
    """All that there are, the newest first.

    A file is one version, and `version` its name. A directory has one at `<number>/model.onnx` for each number;
    whatever else it has is no version. Raises ModelError.
    """
    if not path.is_dir():
        return [Version(version, path)]
    try:
        numbers = [each.name for each in path.iterdir() if _is_number(each.name)]
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read: {error.strerror}", "its directory cannot be read"
        ) from error
    newest_first = sorted(numbers, key=int, reverse=True)
    return [
        Version(number, path / number / FILE_NAME)
        for number in newest_first
        if (path / number / FILE_NAME).is_file()
    ]


def newest(path: Path, version: str) -> Version:
    """The first that `find` finds. Raises ModelError if there is none."""
    for found in find(path, version):
        return found
    raise ModelError(
        f"{path}: expected a version of the model, <number>/{FILE_NAME}, found none",
        "there is no version of it",
    )


def _is_number(name: str) -> bool:
    """As Triton reads it: 1 or more, in decimal, without leading zeros."""
    return name.isascii() and name.isdecimal() and not name.startswith("0")
