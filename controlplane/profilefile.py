"""Files of `sponge profile`: executions as they were measured, by rows and threads."""

import csv
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from controlplane.profiled import Times

_NAMES = ("rows", "threads", "mean_ms", "p50_ms", "p95_ms", "p99_ms")
# Columns that profiles had not always: what was measured besides single executions without a quota.
_INSTANCES, _MILLICORES = "instances", "millicores"
_DIGEST = re.compile(r"# model: .*, SHA-256 ([0-9a-f]{64})\s*")
_COUNT = re.compile(r"[1-9]\d{0,5}")

Numbered = Sequence[tuple[int, Sequence[str]]]


class ProfileError(ValueError):
    """A profile that cannot be used; the text is one line with file and expectation."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a file tells of executions without a quota: by instances, and by (rows, threads)."""

    digest: str  # SHA-256 of the model, in hexadecimal; "" where the file does not tell
    times: dict[int, dict[tuple[int, int], Times]]


def read(path: Path) -> Profile:
    """Read a whole file; under a quota nothing is read. Raises ProfileError."""
    text, header, lines = table(path)
    if not set(_NAMES) <= set(header):
        raise ProfileError(f"{path}: expected the columns {', '.join(_NAMES)}")
    digest = next((match[1] for line in text if (match := _DIGEST.fullmatch(line))), "")
    times = {}
    for instances, part in sorted(_by_instances(path, header, lines).items()):
        times[instances] = {
            key: _times(path, key, values) for key, values in cells(path, _NAMES, header, part).items()
        }
    if 1 not in times:
        raise ProfileError(f"{path}: expected cells of 1 instance without a quota")
    return Profile(digest, times)


def read_times(path: Path) -> dict[tuple[int, int], Times]:
    """Read executions with nothing beside them, by (rows, threads), whole. Raises ProfileError."""
    return read(path).times[1]


def table(path: Path) -> tuple[list[str], list[str], Numbered]:
    """Read all lines as they are, the header, and the lines below it with their numbers. Raises ProfileError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}: expected a text file in UTF-8") from error
    numbers = [n for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    rows = csv.reader(lines[n - 1] for n in numbers)
    header = next(rows, [])
    return lines, header, list(zip(numbers[1:], rows, strict=False))


def alone(path: Path, header: Sequence[str], numbered: Numbered) -> Numbered:
    """Of the lines those of single executions without a quota; all of a file that knows no others."""
    return _by_instances(path, header, numbered).get(1, [])


def _by_instances(path: Path, header: Sequence[str], numbered: Numbered) -> dict[int, Numbered]:
    found: dict[int, list[tuple[int, Sequence[str]]]] = {}
    for number, words in numbered:
        told = {
            name: words[header.index(name)].strip() if header.index(name) < len(words) else ""
            for name in (_INSTANCES, _MILLICORES)
            if name in header
        }
        instances, millicores = told.get(_INSTANCES, "1"), told.get(_MILLICORES, "0")
        if not _COUNT.fullmatch(instances):
            raise ProfileError(
                f"{path}: line {number}: {_INSTANCES}: expected a whole number from 1 on, got {instances!r}"
            )
        if not re.fullmatch(r"\d{1,9}", millicores):
            raise ProfileError(
                f"{path}: line {number}: {_MILLICORES}: expected a whole number, 0 for no quota, got {millicores!r}"
            )
        if int(millicores) == 0:
            found.setdefault(int(instances), []).append((number, words))
    return dict(found)


def _times(path: Path, key: tuple[int, int], values: Sequence[float]) -> Times:
    mean, p50, p95, p99 = values
    if not p50 <= p95 <= p99:
        raise ProfileError(
            f"{path}: {key[0]} rows on {key[1]} threads: expected quantiles that do not fall, "
            f"got p50_ms = {p50:g}, p95_ms = {p95:g}, p99_ms = {p99:g}"
        )
    return Times(mean / 1000, p50 / 1000, p95 / 1000, p99 / 1000)


def cells(
    path: Path,
    names: Sequence[str],
    header: Sequence[str],
    numbered: Iterable[tuple[int, Sequence[str]]],
) -> dict[tuple[int, int], tuple[float, ...]]:
    """Read lines with their numbers: latencies by (batch, cores), whose columns come first in `names`.

    Every cell of the grid has a line.
    """
    columns = [header.index(name) for name in names]
    seen: dict[tuple[int, int], int] = {}
    cells = {}
    for number, words in numbered:
        batch, cores, *latencies = (words[c] if c < len(words) else "" for c in columns)
        for name, word in zip(names, (batch, cores), strict=False):
            if not re.fullmatch(r"[1-9]\d{0,5}", word.strip()):
                raise ProfileError(
                    f"{path}: line {number}: {name}: expected a whole number from 1 on, got {word!r}"
                )
        key = int(batch), int(cores)
        cells[key] = tuple(
            _latency(f"{path}: line {number}: {name}", word)
            for name, word in zip(names[2:], latencies, strict=True)
        )
        before = seen.setdefault(key, number)
        if before != number:
            raise ProfileError(f"{path}: line {number}: the same batch and cores as in line {before}")
    grid = itertools.product(sorted({b for b, _ in cells}), sorted({c for _, c in cells}))
    for batch_size, count in ((1, 1), *grid):
        if (batch_size, count) not in cells:
            raise ProfileError(
                f"{path}: expected every batch size with every number of cores, and both from 1 on: "
                f"a batch of {batch_size} on {count} is missing"
            )
    return cells


def _latency(place: str, word: str) -> float:
    try:
        latency = float(word)
    except ValueError:
        latency = math.nan
    if not 0 < latency < math.inf:
        raise ProfileError(f"{place}: expected a number above 0, got {word!r}")
    return latency
