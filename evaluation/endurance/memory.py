"""How much memory a process has."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Reading:
    """Resident memory after so many requests and swaps."""

    requests: int
    swaps: int
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Levels:
    """Resident memory after the first requests, at the end, and at most."""

    early_bytes: float
    late_bytes: float
    most_bytes: int

    @property
    def growth(self) -> float:
        """From early to late, as a share."""
        return self.late_bytes / self.early_bytes - 1


def rss_bytes(pid: int) -> int:
    """Resident memory of a process. Raises OSError if it has ended."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most it ever had. Raises OSError if it has ended."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return 1024 * int(value.split()[0])
    raise ProcessLookupError(pid)


def levels(readings: list[Reading], after: int) -> Levels:
    """Of a worker that is resized all the time: medians over as many requests, from `after` on and at the end.

    What is resident differs by what the present shape uses, so that single readings say little.
    """
    total = readings[-1].requests
    early = [one.rss_bytes for one in readings if after <= one.requests < 2 * after]
    late = [one.rss_bytes for one in readings if one.requests >= total - after]
    if not early:
        raise ValueError(f"expected readings between {after} and {2 * after} requests")
    return Levels(float(np.median(early)), float(np.median(late)), max(one.rss_bytes for one in readings))
