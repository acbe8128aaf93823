"""What a bench leaves behind: one document, and for each trial its requests, points and changes as CSV."""

import csv
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, get_type_hints

import msgspec

from evaluation import rows
from evaluation.result import Change, Point
from evaluation.rows import Row

FILE = "recorded.json"

T = TypeVar("T", Point, Change)


class Service(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was served. A budget below `fastest_ms` on arrival is dead, one below 1.5 × `row_ms` tight."""

    name: str
    slo_ms: float
    rate: float  # requests/s in the mean
    row_ms: float  # CPU of one row on one thread, measured before the first round
    fastest_ms: float  # no execution of one row is faster


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One policy's turn in one round; `directory` holds its files."""

    round: int
    policy: str
    directory: str
    start: Mapping[str, str]  # what each service began with, for people
    host_busy_share: float
    cpu_s: Mapping[str, float]  # beside the workers, by what took it


class Bench(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All trials of one workload. The first `warmup_s` of each count for nothing, the `seconds` after it do."""

    command: str
    settings: Mapping[str, str]
    services: Sequence[Service]
    host_millicores: int
    holds_quota: bool
    warmup_s: float
    seconds: float
    trials: Sequence[Trial]

    def write(self, directory: Path) -> None:
        """Write the document. Raises OSError."""
        (directory / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read what `write` wrote. Raises OSError, and ValueError, naming the file, for anything else."""
        path = directory / FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class Events:
    """Everything that was seen of a trial; times in seconds from its first request on."""

    rows: Sequence[Row]
    points: Sequence[Point]
    changes: Sequence[Change]

    def write(self, directory: Path) -> None:
        """Write three CSV files. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        rows.write(directory / "rows.csv", self.rows)
        _write(directory / "points.csv", Point, self.points)
        _write(directory / "changes.csv", Change, self.changes)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read what `write` wrote. Raises OSError, and ValueError, naming the file, for anything else."""
        return cls(
            rows.read(directory / "rows.csv"),
            _read(directory / "points.csv", Point),
            _read(directory / "changes.csv", Change),
        )


def _write(path: Path, kind: type[T], items: Iterable[T]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column.name for column in dataclasses.fields(kind)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(item) for item in items)


def _read(path: Path, kind: type[T]) -> list[T]:
    hints: dict[str, Any] = get_type_hints(kind)
    columns = [column.name for column in dataclasses.fields(kind)]
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != columns:
            raise ValueError(f"{path}: line 1: expected the columns {','.join(columns)}")
        items = []
        for fields in reader:
            try:
                items.append(kind(**{name: hints[name](fields[name]) for name in columns}))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}: line {reader.line_num}: {error}") from error
        return items
