"""Strict TOML configuration: every mistake is one line that names file and key."""

import re
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

T = TypeVar("T")
LogLevel = Literal["debug", "info", "warning", "error"]

_LOCATION = re.compile(r"^(?P<problem>.*?)(?: - at `\$\.?(?P<key>[^`]*)`)?$", re.DOTALL)


class ConfigError(Exception):
    """Configuration that cannot be used; the text is one line for the user, with file, key and expectation."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every configuration section; unknown keys are refused."""


def load(path: Path, kind: type[T]) -> T:
    """Read the TOML file at `path` as `kind`.

    Raises ConfigError if the file cannot be read, is not TOML, or does not fit `kind`.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explain(str(error))}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def convert(value: object, kind: type[T], place: str) -> T:
    """Take `value`, of plain Python types, as `kind`. Raises ConfigError that names `place` and key."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{place}: {_explain(str(error))}") from error


def _explain(message: str) -> str:
    """Turn msgspec's «problem - at `$.a.b`» into «a.b: problem»."""
    match = _LOCATION.match(message)
    if match is None or match["key"] is None:
        return message
    key = match["key"] or "top level"
    return f"{key}: {match['problem']}"
