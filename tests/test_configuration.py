"""The page that lists every key says what there is, with the defaults that it has."""

import enum
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from controlplane.config import Config as ControlPlane
from core.config import Section
from dataplane.config import Config as Worker
from socketproxy.config import Config as SocketProxy

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"


def section(annotated: object) -> tuple[type[Section], str] | None:
    """The table that a field is, or has by name; None of a value."""
    if isinstance(annotated, type):
        return (annotated, "") if issubclass(annotated, Section) else None
    arguments = typing.get_args(annotated)
    if typing.get_origin(annotated) is dict:
        found = section(arguments[1])
        return None if found is None else (found[0], ".NAME")
    return next((found for each in arguments if (found := section(each)) is not None), None)


def keys(table: type[Section], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every key below a table, and its default."""
    hints = typing.get_type_hints(table)
    for field in msgspec.structs.fields(table):
        if (within := section(hints[field.name])) is not None:
            yield from keys(within[0], f"{prefix}{field.name}{within[1]}.")
            continue
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        yield f"{prefix}{field.name}", default.value if isinstance(default, enum.Enum) else default


def listed(title: str) -> Mapping[str, object]:
    """What the table under a title says."""
    part = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.split(" | ")] for line in part.splitlines() if line.startswith("| `")
    ]
    assert all(len(row) == 3 and len(row[2]) > 2 for row in rows)
    return {key.strip("| `"): stated(default) for key, default, _ in rows}


def stated(default: str) -> object:
    if default == "required":
        return msgspec.NODEFAULT
    return None if default == "–" else tomllib.loads(f"default = {default.strip('`')}")["default"]


@pytest.mark.parametrize(
    ("title", "config"),
    [("The control plane", ControlPlane), ("A worker", Worker), ("The socket proxy", SocketProxy)],
)
def test_every_key_is_listed_with_its_default(title: str, config: type[Section]) -> None:
    assert listed(title) == {
        key: default or None if default == {} else default for key, default in keys(config)
    }
