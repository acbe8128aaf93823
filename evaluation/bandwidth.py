"""Bandwidth over time: how long a link needs for a request, readers of measured logs, a made-up 4G link."""

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np


class TraceError(ValueError):
    """A bandwidth file that cannot be used; the text is one line with file, place and expectation."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A stretch of time in which nothing gets through."""

    at_s: float
    length_s: float

    @property
    def end_s(self) -> float:
        return self.at_s + self.length_s

    @classmethod
    def parse(cls, text: str) -> tuple[Self, ...]:
        """Read `AT_S:LENGTH_S`, or several such with commas between them. Raises ValueError."""
        outages = []
        for part in text.split(","):
            at_s, _, length_s = part.partition(":")
            try:
                outage = cls(float(at_s), float(length_s))
            except ValueError:
                raise ValueError(
                    f"expected AT_S:LENGTH_S, as in 100:3 or 100:3,400:5, got {part!r}"
                ) from None
            if not (0 <= outage.at_s < math.inf and 0 < outage.length_s < math.inf):
                raise ValueError(f"expected a beginning of 0 or more and a length above 0, got {part!r}")
            outages.append(outage)
        return tuple(outages)


@dataclass(frozen=True, slots=True)
class BandwidthTrace:
    """Piecewise-constant bandwidth: bytes_per_s[i] for durations_s[i]; starts again after its end.

    Raises ValueError unless durations are positive, bandwidths non-negative, and some bandwidth is not zero.
    """

    durations_s: tuple[float, ...]
    bytes_per_s: tuple[float, ...]
    # Time and bytes at the borders of the pieces. Plain tuples: a look-up in them takes a tenth of what
    # numpy's searchsorted takes for a single value, and emulated links ask hundreds of times a second.
    _time_s: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _bytes: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.durations_s) != len(self.bytes_per_s):
            raise ValueError("expected as many durations as bandwidths")
        if not all(0 < duration < math.inf for duration in self.durations_s):
            raise ValueError("durations_s: expected positive seconds")
        if not all(0 <= rate < math.inf for rate in self.bytes_per_s):
            raise ValueError("bytes_per_s: expected non-negative numbers")
        amounts = (s * rate for s, rate in zip(self.durations_s, self.bytes_per_s, strict=True))
        object.__setattr__(self, "_time_s", tuple(accumulate(self.durations_s, initial=0.0)))
        object.__setattr__(self, "_bytes", tuple(accumulate(amounts, initial=0.0)))
        if self._bytes[-1] <= 0:
            raise ValueError("bytes_per_s: expected at least one bandwidth above zero")

    @classmethod
    def constant(cls, bytes_per_s: float) -> Self:
        """Give a link that never changes."""
        return cls((1.0,), (bytes_per_s,))

    @property
    def length_s(self) -> float:
        """Time after which the trace repeats."""
        return self._time_s[-1]

    @property
    def mean_bytes_per_s(self) -> float:
        """Mean over time."""
        return self._bytes[-1] / self._time_s[-1]

    def delivered(self, start_s: float, now_s: float) -> float:
        """Bytes that a link busy since start_s has carried by now_s: the integral of the bandwidth."""
        laps, since_s = divmod(start_s, self.length_s)
        more_laps, until_s = divmod(now_s - laps * self.length_s, self.length_s)
        return max(0.0, more_laps * self._bytes[-1] + self._carried(until_s) - self._carried(since_s))

    def finish(self, start_s: float, size_bytes: float) -> float:
        """Time at which the last of size_bytes is through, if the first is sent at start_s on an idle link.

        The earliest t with delivered(start_s, t) = size_bytes; never size divided by one second's bandwidth.
        """
        if size_bytes <= 0:
            return start_s
        laps, since_s = divmod(start_s, self.length_s)
        more_laps, rest = divmod(self._carried(since_s) + size_bytes, self._bytes[-1])
        if rest == 0:  # exactly at the end of a lap, and not after the zeros that the next may begin with
            more_laps, rest = more_laps - 1, self._bytes[-1]
        piece = bisect_left(self._bytes, rest) - 1
        within_s = (rest - self._bytes[piece]) / self.bytes_per_s[piece]
        return max(start_s, (laps + more_laps) * self.length_s + self._time_s[piece] + within_s)

    def interrupted(self, outages: Sequence[Outage], until_s: float) -> Self:
        """Give the same trace with nothing during the outages, each of which comes once and not every lap.

        So laps are written out, as many as reach `until_s` and a whole one beyond the last outage; what
        starts again after those is all of it.
        """
        if not outages:
            return self
        reach_s = max(until_s, max(outage.end_s for outage in outages) + self.length_s)
        laps = math.ceil(reach_s / self.length_s)
        starts = np.add.outer(np.arange(laps) * self.length_s, self._time_s[:-1]).ravel()
        cuts = [border for outage in outages for border in (outage.at_s, outage.end_s)]
        borders = np.union1d([*starts, laps * self.length_s], cuts)
        middles = (borders[:-1] + borders[1:]) / 2
        rates = np.tile(self.bytes_per_s, laps)[np.searchsorted(starts, middles) - 1]
        for outage in outages:
            rates[(outage.at_s < middles) & (middles < outage.end_s)] = 0.0
        return type(self)(tuple(np.diff(borders).tolist()), tuple(rates.tolist()))

    def rate(self, now_s: float) -> float:
        """Bandwidth at now_s, in bytes per second."""
        return self.bytes_per_s[self._place(now_s)[1]]

    def next_change(self, now_s: float) -> float:
        """First time after now_s from which on the bandwidth is another; ∞ if it is never another."""
        laps, here = self._place(now_s)
        count = len(self.durations_s)
        for ahead in range(here + 1, here + count):
            if self.bytes_per_s[ahead % count] != self.bytes_per_s[here]:
                return (laps + ahead // count) * self.length_s + self._time_s[ahead % count]
        return math.inf

    def _place(self, now_s: float) -> tuple[float, int]:
        """Laps before now_s, and the index of the piece at it; a border that is now but for rounding is past."""
        laps, within_s = divmod(now_s + 1e-9, self.length_s)
        return laps, min(bisect_right(self._time_s, within_s), len(self.durations_s)) - 1

    def _carried(self, t: float) -> float:
        """Bytes from the start of the trace to t, for t within it."""
        piece = min(bisect_right(self._time_s, t), len(self.durations_s)) - 1
        return self._bytes[piece] + (t - self._time_s[piece]) * self.bytes_per_s[piece]


@dataclass(slots=True)
class ByteClock:
    """What one link may have carried by now; it owns no clock, and times are those of the trace.

    Runs from the first byte on. A pause of the sender shorter than `idle_s` does not stop it: on a busy machine
    that is the machine's doing, and the link catches up. After a longer one the unused time is lost, as on a
    real link.
    """

    trace: BandwidthTrace
    idle_s: float
    carried: int = 0
    start_s: float | None = None
    empty_since_s: float = 0.0

    def begin(self, now_s: float) -> None:
        """Note that bytes arrived where none were waiting."""
        if self.start_s is None or now_s - self.empty_since_s >= self.idle_s:
            self.start_s, self.carried = now_s, 0

    def get_credit(self, now_s: float) -> int:
        """Bytes that may go now."""
        if self.start_s is None:
            return 0
        return int(self.trace.delivered(self.start_s, now_s)) - self.carried

    def carry(self, size: int, now_s: float, *, empty: bool) -> None:
        """Note that `size` bytes went, and whether that was all there were."""
        self.carried += size
        if empty:
            self.empty_since_s = now_s


def synthetic(seed: int, seconds: int) -> BandwidthTrace:
    """Make up a 4G link, one piece a second, as moving people see it: mean about 3.4 MB/s, down to nothing.

    Bandwidth is a normal variable cut off at zero, with a slow part (where one is) and a fast one (fading).
    Its parameters are chosen after 11 logs of Ghent University (van der Hooft et al., IEEE Communications
    Letters 2016); means over them, and over 40 seeds of 600 s:

    |           | mean MB/s | 5, 50, 95 % quantile | std/mean | autocorrelation 1, 5, 20 s | < 50 kB/s |
    |-----------|-----------|----------------------|----------|----------------------------|-----------|
    | logs      | 3.33      | 0.83, 3.12, 6.21     | 0.55     | 0.73, 0.62, 0.37           | 1.9 %     |
    | synthetic | 3.33      | 0.71, 3.34, 5.94     | 0.49     | 0.74, 0.56, 0.34           | 2.9 %     |
    """
    mean, deviation = 3.4e6, 1.7e6
    slow_share, slow_memory, fast_memory = 0.7, 0.975, 0.3  # shares of the variance, AR(1) coefficients
    draws = np.random.default_rng(seed).standard_normal((seconds, 2))
    slow, fast = draws[0]
    rates = []
    for slow_step, fast_step in draws:
        slow = slow_memory * slow + math.sqrt(1 - slow_memory**2) * slow_step
        fast = fast_memory * fast + math.sqrt(1 - fast_memory**2) * fast_step
        mixed = math.sqrt(slow_share) * slow + math.sqrt(1 - slow_share) * fast
        rates.append(max(0.0, float(mean + deviation * mixed)))
    return BandwidthTrace((1.0,) * seconds, tuple(rates))


def read(path: Path) -> BandwidthTrace:
    """Read a bandwidth log; its format is told by the name's ending and the first line.

    - `*.json`: a list of objects with duration_ms and bandwidth_kbps (1 kbps = 125 bytes/s);
    - six columns, blank-separated, the fifth bytes and the sixth milliseconds (Ghent 4G logs);
    - a header `t_ms,bytes_in_next_<n>ms` and a line for every n milliseconds;
    - one number a line: Mbit/s, one second each.

    Raises TraceError.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: expected a text file in UTF-8") from error
    pieces = _json(path, text) if path.suffix == ".json" else _lines(path, text.splitlines())
    try:
        return BandwidthTrace(
            tuple(duration for duration, _ in pieces), tuple(amount / duration for duration, amount in pieces)
        )
    except ValueError as error:
        raise TraceError(f"{path}: {error}") from error


def _json(path: Path, text: str) -> list[tuple[float, float]]:
    """Pieces as seconds and bytes."""
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise TraceError(f"{path}: line {error.lineno}: not valid JSON: {error.msg}") from error
    if not isinstance(entries, list):
        raise TraceError(f"{path}: expected a list of objects with duration_ms and bandwidth_kbps")
    return [_entry(f"{path}: entry {number}", entry) for number, entry in enumerate(entries, 1)]


def _entry(place: str, entry: Any) -> tuple[float, float]:
    match entry:
        case {"duration_ms": float() | int() as ms, "bandwidth_kbps": float() | int() as kbps}:
            return _piece(place, ms / 1000, kbps * 125 * ms / 1000)
        case _:
            raise TraceError(f"{place}: expected an object with the numbers duration_ms and bandwidth_kbps")


def _lines(path: Path, lines: list[str]) -> list[tuple[float, float]]:
    """Pieces as seconds and bytes."""
    numbered = [(f"{path}: line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise TraceError(f"{path}: expected at least one line")
    place, first = numbered[0]
    if header := re.fullmatch(r"t_ms,bytes_in_next_([1-9]\d*)ms", first.strip()):
        interval_s = int(header[1]) / 1000
        rows = [(place, _numbers(place, line.split(","), 2)) for place, line in numbered[1:]]
        return [_piece(place, interval_s, row[1]) for place, row in rows]
    columns = len(first.split())
    rows = [(place, _numbers(place, line.split(), columns)) for place, line in numbered]
    match columns:
        case 6:
            return [_piece(place, row[5] / 1000, row[4]) for place, row in rows]
        case 1:
            return [_piece(place, 1.0, row[0] * 1e6 / 8) for place, row in rows]
        case _:
            raise TraceError(
                f"{place}: expected six columns, a single number of Mbit/s, or t_ms,bytes_in_next_<n>ms"
            )


def _numbers(place: str, words: list[str], count: int) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise TraceError(f"{place}: expected numbers only") from None
    if len(numbers) != count:
        raise TraceError(f"{place}: expected {count} numbers, found {len(numbers)}")
    return numbers


def _piece(place: str, duration_s: float, amount_bytes: float) -> tuple[float, float]:
    if not 0 < duration_s < math.inf:
        raise TraceError(f"{place}: expected an interval above zero")
    if not 0 <= amount_bytes < math.inf:
        raise TraceError(f"{place}: expected a bandwidth of zero or more")
    return duration_s, amount_bytes
