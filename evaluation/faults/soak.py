"""The demo's two services for as long as one likes: whether anything grows that should not."""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from controlplane.allocation import Allocation
from evaluation import cache, demo, load, scenario, workload
from evaluation.admin import Admin
from evaluation.embedded import CONTROL, Embedded
from evaluation.endurance import memory
from evaluation.faults import bed
from evaluation.faults.outcome import Check, Outcome
from evaluation.fleet import ControlSpec
from evaluation.load import Service
from evaluation.models import Vision
from evaluation.process import free_port
from evaluation.rows import Outcome as Became
from evaluation.rows import Row
from evaluation.scenario import Subject
from evaluation.simulation.offered import read_rates
from evaluation.workload import Arrival, Phase

GROWTH = 0.03
_MORE = 3  # threads or files: pools fill when they are first used to the full, and what leaks goes on
# Until then sessions are built and allocators fill; and the part that is compared with the end.
_WARM_SHARE, _COMPARED_SHARE = 1 / 3, 1 / 6
_START_MILLICORES = 700
_LOOK_S = 0.5
_SEED = 61
_DAY_S = 60.0
_SLACK_S = 1.0
_OVERDUE = "sponge_control_overdue{"


@dataclass(frozen=True, slots=True)
class Look:
    """What one process has at one time."""

    at_s: float
    rss_bytes: int
    threads: int
    files: int

    @classmethod
    def at(cls, pid: int, at_s: float) -> "Look":
        """Raises OSError if it has ended."""
        proc = Path(f"/proc/{pid}")
        return cls(
            at_s,
            memory.rss_bytes(pid),
            sum(1 for _ in (proc / "task").iterdir()),
            sum(1 for _ in (proc / "fd").iterdir()),
        )


@dataclass(slots=True)
class Watched:
    """What was seen: of each process, of the fleet, and of every request."""

    looks: dict[str, list[Look]] = field(default_factory=dict)
    workers: set[int] = field(default_factory=set)  # how many were attached
    overdue: int = 0  # times that an acknowledgement was
    rows: list[Row] = field(default_factory=list)
    models: int = 0  # whose latencies are kept
    cells: int = 0  # of those


def compared(
    values: Sequence[int], times_s: Sequence[float], seconds: float
) -> tuple[Sequence[int], Sequence[int]]:
    """Give those of the first part after warming up, and of the last. Raises ValueError where there are none."""
    warm, part = seconds * _WARM_SHARE, seconds * _COMPARED_SHARE
    early = [value for value, at in zip(values, times_s, strict=True) if warm <= at < warm + part]
    late = [value for value, at in zip(values, times_s, strict=True) if at >= seconds - part]
    if not early or not late:
        raise ValueError(
            f"expected readings after {warm:.0f} s, and in the last {part:.0f} s of {seconds:.0f} s"
        )
    return early, late


def growth(values: Sequence[int], times_s: Sequence[float], seconds: float) -> float:
    """Growth between those parts, by medians, as a share."""
    early, late = compared(values, times_s, seconds)
    return float(np.median(late)) / float(np.median(early)) - 1


async def soak(
    folder: Path,
    seconds: float,
    trace: Path | None = None,
    vision: Vision = Vision.RESNET50,
    progress: Callable[[str], None] = lambda _line: None,
) -> Outcome:
    """Serve the demo's load for `seconds`, with arrivals as in a file of rates if one is given.

    Raises StartError, RatesError, OSError.
    """
    measured = await scenario.prepare(cache.models(), _SEED, seconds, vision)
    cpus = len(os.sched_getaffinity(0))
    offered = scenario.offer(measured, cpus, 300)
    watched = Watched()
    store = folder / "control.sqlite"
    specs = [
        demo.worker_spec(
            subject,
            Allocation(min(_START_MILLICORES, offered.host_millicores // 2), 1, 1, 1),
            offered.host_millicores,
        )
        for subject in measured
    ]
    metrics = f"127.0.0.1:{free_port()}"
    control = ControlSpec(store=str(store), metrics_listen=metrics)
    async with Embedded(folder, specs, offered.host_millicores, control) as fleet:
        pids = {name: fleet.process(name).process.pid for name in (CONTROL, *fleet.addresses)}
        schedule = arrivals(measured, offered.rates, seconds, trace)
        services = {subject.name: _service(subject, fleet.addresses[subject.name]) for subject in measured}
        t0 = time.monotonic() + _SLACK_S

        def ended(row: Row) -> None:
            watched.rows.append(row)
            progress(f"soak: {row.scheduled_s:.0f} of {seconds:.0f} s")

        watching = asyncio.create_task(_watch(fleet.admin, metrics, pids, t0, watched))
        try:
            await load.run(schedule, services, t0=t0, progress=ended)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
    with closing(sqlite3.connect(store)) as file:
        found = file.execute("SELECT count(DISTINCT model_digest), count(*) FROM latency").fetchone()
        watched.models, watched.cells = found
    most = sum(spec.limits.max_threads * spec.limits.max_batch for spec in specs)
    return judge(
        watched, seconds, most, "synthetic arrivals" if trace is None else f"arrivals of {trace.stem}"
    )


def arrivals(
    measured: Sequence[Subject], rates: Mapping[str, float], seconds: float, trace: Path | None
) -> tuple[Arrival, ...]:
    """A day after the other, or the rates of a trace, scaled so that each service's mean is the same as of those."""
    if trace is None:
        days = max(1, round(seconds / _DAY_S))
        pattern = workload.day(seconds / days) * days
    else:
        told_rates = read_rates(trace)
        series = [told_rates[second % len(told_rates)] for second in range(int(seconds))]
        mean = sum(series) / len(series)
        pattern = tuple(Phase(1.0, rate / mean) for rate in series)
    return workload.merge(
        *(
            workload.schedule(s.name, rates[s.name], pattern, len(s.payloads), seed=_SEED + index)
            for index, s in enumerate(measured)
        )
    )


def judge(watched: Watched, seconds: float, most_cells: int, load_was: str) -> Outcome:
    """Hold what was seen to what is promised. Raises ValueError for a watch that was too short."""
    checks = []
    errors = [row for row in watched.rows if row.outcome in (Became.FAILED, Became.WRONG)]
    on_time = sum(row.outcome is Became.ON_TIME for row in watched.rows)
    checks.append(Check("no request fails", f"{len(errors)} of {len(watched.rows)}", not errors))
    checks.append(
        Check("requests on time", f"{100 * on_time / max(1, len(watched.rows)):.1f} %", None, timed=True)
    )
    for name, looks in watched.looks.items():
        times = [look.at_s for look in looks]
        rss = growth([look.rss_bytes for look in looks], times, seconds)
        checks.append(
            Check(
                f"memory of {name} within {GROWTH:.0%} of that when warm",
                f"{rss:+.1%}, {looks[-1].rss_bytes / 2**20:.0f} MiB",
                rss <= GROWTH,
            )
        )
        for what, values in (
            ("threads", [look.threads for look in looks]),
            ("open files", [look.files for look in looks]),
        ):
            early, late = compared(values, times, seconds)
            more = min(late) - min(early)  # how many requests are open says nothing of what is left open
            checks.append(Check(f"at most {_MORE} {what} of {name} more", f"{more:+.0f}", more <= _MORE))
    checks += [
        Check("as many workers all the time", f"{sorted(watched.workers)}", watched.workers == {2}),
        Check("no allocation acknowledged late", f"{watched.overdue} times", not watched.overdue),
        Check(
            "what is learned stays bounded",
            f"{watched.cells} sizes of {watched.models} models",
            watched.models == 2 and watched.cells <= most_cells,
        ),
    ]
    return Outcome("soak", f"the demo's services for {seconds:g} s, {load_was}", checks)


async def _watch(admin: Admin, metrics: str, pids: Mapping[str, int], t0: float, watched: Watched) -> None:
    while True:
        at_s = time.monotonic() - t0
        for name, pid in pids.items():
            watched.looks.setdefault(name, []).append(await asyncio.to_thread(Look.at, pid, at_s))
        watched.workers.add(len((await admin.fleet()).workers))
        told = await bed.scrape(metrics)
        watched.overdue += sum(value > 0 for name, value in told.items() if name.startswith(_OVERDUE))
        await asyncio.sleep(_LOOK_S)


def _service(subject: Subject, address: str) -> Service:
    host, _, port = address.rpartition(":")
    return Service(subject.name, (host, int(port)), subject.slo_ms, subject.payloads, subject.agrees)
