"""A worker that lies to the control plane, beside two that do not."""

import asyncio
import enum
import itertools
import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controlplane.latency import MOST_ROWS, MOST_THREADS
from core.cgroup import Cgroup
from dataplane.telemetry import BOUNDS_MS
from dataplane.uplink import Uplink
from evaluation.embedded import CONTROL
from evaluation.experiment.reporter import Reporter
from evaluation.faults import bed
from evaluation.faults.bed import ONE, OTHER, SERVICES, Bed
from evaluation.faults.outcome import Check, Outcome
from evaluation.faults.traffic import offered, told
from evaluation.fleet import PERIOD_US
from evaluation.serving.subjects import Subject
from protos import control_pb2 as pb

LIAR = "liar"
_REFUSED = f'sponge_control_samples_refused_total{{service="{LIAR}"}}'
_REPORT_S, _POLL_S = 0.2, 0.05


def _window_nan(sample: pb.Sample) -> None:
    sample.window_s = math.nan


def _window_negative(sample: pb.Sample) -> None:
    sample.window_s = -1.0


def _billion(sample: pb.Sample) -> None:
    sample.headers = sample.arrivals = sample.arrived_rows = 10**9


def _waiting_infinite(sample: pb.Sample) -> None:
    sample.waiting.add(remaining_ms=math.inf, rows=1)


def _waiting_billion(sample: pb.Sample) -> None:
    sample.waiting.add(remaining_ms=10.0, rows=10**9)


def _execution_nan(sample: pb.Sample) -> None:
    sample.executions.add(rows=1, threads=1, wall_ms=math.nan, busy=1.0)


def _execution_negative(sample: pb.Sample) -> None:
    sample.executions.add(rows=1, threads=1, wall_ms=-5.0, busy=1.0)


def _rows_million(sample: pb.Sample) -> None:
    sample.headers = sample.arrivals = 1
    sample.arrived_rows = 10**6
    sample.budget_at_arrival.count[:] = [1, *(0 for _ in BOUNDS_MS)]


def _budget_nan(sample: pb.Sample) -> None:
    sample.budget_at_arrival.upper_bound_ms.append(math.nan)


def _cpu_negative(sample: pb.Sample) -> None:
    sample.usage.cpu_s = -1.0


def _crowd(sample: pb.Sample) -> None:
    sample.headers = sample.arrivals = sample.arrived_rows = crowd = round(1e6 * sample.window_s)
    sample.budget_at_arrival.count[bisect_left(BOUNDS_MS, 500.0)] = crowd


def _wide(sample: pb.Sample) -> None:
    sample.executions.add(rows=MOST_ROWS, threads=MOST_THREADS, wall_ms=500.0, cpu_ms=500.0, busy=1.0)


def _starting(sample: pb.Sample) -> None:
    sample.starting = True


def _as_it_is(_sample: pb.Sample) -> None:
    pass


ABSURD: Sequence[Callable[[pb.Sample], None]] = (
    _window_nan,
    _window_negative,
    _billion,
    _waiting_infinite,
    _waiting_billion,
    _execution_nan,
    _execution_negative,
    _rows_million,
    _budget_nan,
    _cpu_negative,
)


class Lie(enum.Enum):
    """What it says that could be true: numbers that pass for those of a worker."""

    CROWD = "a million requests a second"
    SLOW = "executions of a third of a second, and six of them a second"
    QUEUE = "a thousand requests waiting, due in a moment"
    GIANT = "ten thousand cores in use while it starts, for ever"
    WIDE = "executions of as many rows, on as many threads, as any worker may have"


class Liar:
    """A `dataplane.uplink.Source`: what a reporter says, each sample spoilt in the next of the given ways."""

    def __init__(
        self, reporter: Reporter, ways: Sequence[Callable[[pb.Sample], None]], lie: Lie | None = None
    ) -> None:
        self._reporter = reporter
        self._ways = itertools.cycle(ways)
        self._lie = lie
        self.sent = 0

    def hello(self) -> pb.Hello:
        """As that of the reporter, but of a giant, or of one that is wide."""
        hello = self._reporter.hello()
        if self._lie is Lie.GIANT:
            hello.starting = True
            hello.allocation.cpu_millicores = 10_000_000
        if self._lie is Lie.WIDE:
            hello.max_threads, hello.max_batch = MOST_THREADS, MOST_ROWS
        return hello

    def sample(self, *, distress: bool) -> pb.Sample:
        """The next window, and a lie about it."""
        sample = self._reporter.sample(distress=distress)
        next(self._ways)(sample)
        self.sent += 1
        return sample

    def on_acknowledged(self, acknowledge: Callable[[], None]) -> None:
        """Say what is called when a directive is in force."""
        self._reporter.on_acknowledged = acknowledge

    async def obey(self, directive: pb.Directive) -> None:
        """As the reporter."""
        await self._reporter.obey(directive)


async def absurd(subject: Subject, folder: Path, seconds: float) -> Outcome:
    """Let a third worker report what cannot be, for `seconds`. Raises StartError."""
    fault = "absurd telemetry"
    done = f"{len(ABSURD)} kinds of numbers that no worker can mean, by a third worker for {seconds:g} s"
    async with bed.scenario(fault, done):
        seen = await _beside(subject, folder, seconds, None)
    return Outcome(
        fault,
        done,
        [
            Check("all refused and counted", f"{seen.refused:.0f} of {seen.sent}", seen.refused == seen.sent),
            Check("logged once for each cause", seen.repeated or "none twice", not seen.repeated),
            *seen.others(),
        ],
    )


async def plausible(subject: Subject, folder: Path, seconds: float, lie: Lie) -> Outcome:
    """Let a third worker report what could be, and is not, for `seconds`. Raises StartError."""
    fault = f"a worker that lies: {lie.name.lower()}"
    done = f"{lie.value}, by a third worker for {seconds:g} s, while another needs more"
    async with bed.scenario(fault, done):
        seen = await _beside(subject, folder, seconds, lie)
    return Outcome(fault, done, seen.others())


@dataclass(frozen=True, slots=True)
class _Seen:
    """Samples sent and refused; of the honest: the least quota, those of one that needs more, and failures."""

    sent: int
    refused: float
    least: int
    before: int
    after: int
    failures: Counter[str]
    repeated: str  # causes that the control plane has logged twice

    def others(self) -> list[Check]:
        """What must hold of every service that does not lie."""
        return [
            Check("no request of another service fails", told(self.failures), not self.failures),
            Check(
                "no other service falls below its floor",
                f"{self.least} millicores at least",
                self.least >= bed.FLOOR_MILLICORES,
            ),
            bed.follows("one that needs more gets more", self.before, self.after),
        ]


async def _beside(subject: Subject, folder: Path, seconds: float, lie: Lie | None) -> _Seen:
    async with (
        bed.up(subject, folder) as fleet,
        offered(fleet.services, dict.fromkeys(SERVICES, bed.RATE)) as traffic,
    ):
        await fleet.calm()
        with _group(fleet) as group:
            liar = telling(lie, time.monotonic, str(group.cpu))
            uplink = Uplink(fleet.embedded.control_addresses[CONTROL], liar, _REPORT_S, time.monotonic)
            liar.on_acknowledged(uplink.acknowledge)
            lying = asyncio.create_task(uplink.run())
            try:
                await bed.until(lambda: _sent(liar), what="samples sent")
                before, over, least = fleet.quota(OTHER) or 0, time.monotonic() + seconds, bed.HOST_MILLICORES
                # An honest one needs more just now.
                async with offered({OTHER: fleet.services[OTHER]}, {OTHER: bed.MORE_RATE}, seed=9) as more:
                    while time.monotonic() < over:
                        least = min(least, *(quota or 0 for quota in fleet.quotas().values()))
                        await asyncio.sleep(_POLL_S)
                    await bed.at_last(lambda: fleet.grown(OTHER, before))
                    after = fleet.quota(OTHER) or 0
                # What was sent last may be on its way.
                lying.cancel()
                await asyncio.wait([lying])
                refused = await fleet.metric(_REFUSED)
            finally:
                lying.cancel()
            said = bed.repeated(fleet.events(CONTROL))
    failures = traffic.failures() + more.failures()
    return _Seen(liar.sent, refused, least, before, after, failures, "; ".join(said))


async def _sent(liar: Liar) -> bool:
    return liar.sent >= len(ABSURD)


@contextmanager
def _group(fleet: Bed) -> Iterator[Cgroup]:
    """A control group beside those of the workers, with nobody in it."""
    group = Cgroup.create(LIAR, Cgroup.at(fleet.embedded.group(ONE).cpu.parent))
    try:
        group.set_quota(bed.START.cpu_millicores, PERIOD_US)
        yield group
    finally:
        group.remove()


def telling(lie: Lie | None, clock: Callable[[], float], cgroup_path: str = "") -> Liar:
    """Give a worker that tells this lie, or what cannot be without one; `clock` is in seconds."""
    rate, work_s, waiting, slack_s = _SAYS[lie]
    reporter = Reporter(
        LIAR,
        clock,
        rate=rate,
        waiting=waiting,
        work_s=work_s,
        slack_s=slack_s,
        cgroup_path=cgroup_path,
    )
    ways = {None: ABSURD, Lie.CROWD: (_crowd,), Lie.GIANT: (_starting,), Lie.WIDE: (_wide,)}.get(
        lie, (_as_it_is,)
    )
    return Liar(reporter, ways, lie)


# Rate, seconds of an execution, requests waiting, and their slack in seconds.
_SAYS: Mapping[Lie | None, tuple[float, float, int, float]] = {
    None: (5.0, 0.02, 0, 1.0),
    Lie.CROWD: (20.0, 0.02, 0, 1.0),
    Lie.SLOW: (6.0, 0.33, 0, 0.5),
    Lie.QUEUE: (10.0, 0.1, 1000, 0.5),
    Lie.GIANT: (0.0, 0.02, 0, 1.0),
    Lie.WIDE: (5.0, 0.02, 0, 1.0),
}
