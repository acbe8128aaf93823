"""What clients offer to one service: when each request is sent, arrives after its upload, and is due. Pure."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation import workload
from evaluation.bandwidth import BandwidthTrace
from evaluation.workload import Phase

ARRIVALS = "constant, poisson, flash:FACTOR,AT_S,LENGTH_S, drift:FACTOR, or a file of rates per second"


# What goes before the body on a connection of its own: HTTP/2 preface, settings and headers.
HEADER_BYTES = 500


class RatesError(ValueError):
    """Arrivals that cannot be used; the text is one line."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Values with the share of requests that have each."""

    values: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> "Mix":
        """Read `284`, `100,200,500` (equal shares) or `350:1,1000:2`. Raises ValueError."""
        values, weights = [], []
        for part in text.split(","):
            value, _, weight = part.partition(":")
            values.append(float(value))
            weights.append(float(weight or 1))
        if not all(0 < v < math.inf for v in values) or not all(0 < w < math.inf for w in weights):
            raise ValueError(f"expected numbers above zero, as in 284 or 100:1,500:2, got {text!r}")
        return cls(tuple(values), tuple(weight / sum(weights) for weight in weights))

    def draw(self, count: int, rng: np.random.Generator) -> list[float]:
        """Give each of `count` requests a value."""
        if len(self.values) == 1:
            return [self.values[0]] * count
        return [self.values[i] for i in rng.choice(len(self.values), size=count, p=self.shares).tolist()]


@dataclass(frozen=True, slots=True)
class Offered:
    """Requests of one service in the order in which they arrive at the worker; seconds of the run."""

    sent_s: Sequence[float]
    header_s: Sequence[float]
    arrived_s: Sequence[float]
    deadline_s: Sequence[float]
    # Send times in order: what a clairvoyant policy may count.
    schedule_s: Sequence[float]

    def __len__(self) -> int:
        return len(self.sent_s)

    def rate(self, since_s: float, until_s: float) -> float:
        """Requests/s sent from `since_s` on and before `until_s`."""
        count = bisect_left(self.schedule_s, until_s) - bisect_left(self.schedule_s, since_s)
        return count / (until_s - since_s)


def offer(
    sent_s: Sequence[float], link: BandwidthTrace, payload_bytes: Mix, slo_s: Mix, seed: Sequence[int]
) -> Offered:
    """Send at the given times, each on an idle link of its own over the same log, and see what arrives when.

    The upload takes until the integral of the bandwidth from the send time on reaches the size.
    """
    rng = np.random.default_rng(seed)
    sizes = payload_bytes.draw(len(sent_s), rng)
    slos = slo_s.draw(len(sent_s), rng)
    arrived = [link.finish(sent, size) for sent, size in zip(sent_s, sizes, strict=True)]
    order = sorted(range(len(sent_s)), key=lambda i: (arrived[i], i))
    return Offered(
        sent_s=[sent_s[i] for i in order],
        header_s=[link.finish(sent_s[i], min(HEADER_BYTES, sizes[i])) for i in order],
        arrived_s=[arrived[i] for i in order],
        deadline_s=[sent_s[i] + slos[i] for i in order],
        schedule_s=list(sent_s),
    )


def send_times(
    arrivals: str, rate: float, seconds: float, scale_to: float | None, seed: int
) -> tuple[float, ...]:
    """Give send times over `seconds`, of ARRIVALS: `rate` in the mean, but for a flash crowd, which adds to it.

    A file of rates has its own mean, starts again at its end, and ends a run with a whole second. `scale_to` is
    the mean that any of them is scaled to. All but `constant` are Poisson. Raises RatesError.
    """
    pattern, base = _pattern(arrivals, rate, seconds)
    if scale_to is not None:
        amount = sum(phase.duration_s * phase.factor for phase in pattern)
        base = scale_to * sum(phase.duration_s for phase in pattern) / amount
    schedule = workload.schedule("", base, pattern, 1, seed=seed, poisson=arrivals != "constant")
    return tuple(arrival.at_s for arrival in schedule if arrival.at_s < seconds)


def _pattern(arrivals: str, rate: float, seconds: float) -> tuple[tuple[Phase, ...], float]:
    """Phases, and the rate at factor 1."""
    if arrivals in ("constant", "poisson"):
        return (Phase(seconds, 1.0),), rate
    kind, _, text = arrivals.partition(":")
    try:
        match kind:
            case "flash":
                factor, at_s, length_s = (float(word) for word in text.split(","))
                return workload.flash(seconds, factor, at_s, length_s), rate
            case "drift":
                return workload.drift(seconds, float(text)), rate
    except ValueError as error:
        # What numbers and their count raise says nothing of arrivals.
        why = error if str(error).startswith("expected") else f"expected {ARRIVALS}"
        raise RatesError(f"arrivals: {arrivals!r}: {why}") from error
    rates = read_rates(Path(arrivals))
    whole = math.ceil(seconds)
    series = [rates[second % len(rates)] for second in range(whole)]
    if sum(series) <= 0:
        raise RatesError(f"{arrivals}: expected some rate above zero in the first {whole} s")
    return workload.phases(series), 1.0


def read_rates(path: Path) -> list[float]:
    """Read rates in requests/s, one a second, separated by blanks or line ends. Raises RatesError."""
    try:
        rates = [float(word) for word in path.read_text(encoding="utf-8").split()]
    except OSError as error:
        raise RatesError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RatesError(f"{path}: expected numbers only: {error}") from error
    if not rates or not all(0 <= rate < math.inf for rate in rates):
        raise RatesError(f"{path}: expected at least one rate, and none below zero")
    return rates
