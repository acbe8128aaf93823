"""A real run in one small file: what reached one worker under Sponge, what became of it, and what it ran with."""

import argparse
import asyncio
import gzip
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import msgspec

from controlplane.allocation import Allocation
from controlplane.shape import Limits
from evaluation import cache, demo, journal, measure, scenario
from evaluation.admin import ControlPlaneError
from evaluation.bandwidth import BandwidthTrace, TraceError
from evaluation.embedded import Embedded
from evaluation.experiment import finding
from evaluation.journal import Executed, Pages, Served
from evaluation.link import Links
from evaluation.measure import Front, Offered, Progress, Stage
from evaluation.process import StartError
from evaluation.result import Run
from evaluation.rows import Summary, summarise

_RESERVED_MILLICORES = 300
_START = Allocation(700, 1, 1, 1)
# Clock times are kept to a hundredth of a millisecond.
_DIGITS = 5


class Held(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What the worker ran with, from `at_s` until the next one."""

    at_s: float
    cpu_millicores: int
    instances: int
    threads: int
    max_batch: int


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """What clients saw, counted as in `rows.Summary`; a quantile is None where it is one without an answer."""

    offered: int
    on_time: int
    late: int
    refused: int
    dead: int
    failed: int
    wrong: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Recording(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One service under Sponge: seconds count from the first look at the fleet, before the first request.

    `request_cpu_s` is what a request cost the worker besides its executions; `client` is what clients saw, and
    `about` where, when and with what it was recorded.
    """

    about: Mapping[str, str]
    service: str
    seconds: float
    host_millicores: int
    limits: Limits
    request_cpu_s: float
    host_busy_share: float  # of all CPUs
    held: Sequence[Held]
    served: Sequence[Served]  # in the order of arrival
    executions: Sequence[Executed]  # in the order of starts
    client: Client
    resizes: int

    def write(self, path: Path) -> None:
        """Write gzipped JSON; the same recording gives the same bytes. Raises OSError."""
        path.write_bytes(gzip.compress(msgspec.json.encode(self), mtime=0))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote. Raises OSError, and ValueError, naming the file, for anything else."""
        try:
            return msgspec.json.decode(gzip.decompress(path.read_bytes()), type=cls)
        except (msgspec.MsgspecError, EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: expected a recording: {error}") from error

    @property
    def mean_cores(self) -> float:
        """Quota in the mean of the whole run."""
        ends = [held.at_s for held in self.held[1:]] + [self.seconds]
        spans = (
            held.cpu_millicores / 1000 * (end_s - held.at_s)
            for held, end_s in zip(self.held, ends, strict=True)
        )
        return sum(spans) / self.seconds


@dataclass(frozen=True, slots=True)
class Options:
    """What is recorded: `service` is one of the demo's, `seconds` the length of its load.

    `rate` is the mean in requests/s; None makes it what the demo would offer on this host.
    """

    models: Path
    service: str = scenario.VISION
    bandwidth: Path | None = None
    seconds: float = 180.0
    seed: int = 59
    rate: float | None = None


async def record(options: Options, progress: Progress) -> Recording:
    """Offer one service the demo's load, alone on this host under Sponge, and keep all that happened.

    Raises StartError, ControlPlaneError, bandwidth.TraceError, OSError. Stops everything it started.
    """
    trace = demo.network(options.bandwidth, options.seed, options.seconds)
    progress(Stage("preparing models and inputs, measuring this host", 0, 1))
    subjects = await scenario.prepare(options.models, options.seed, options.seconds)
    (subject,) = (subject for subject in subjects if subject.name == options.service)
    cpus = len(os.sched_getaffinity(0))
    offer = scenario.offer([subject], cpus, _RESERVED_MILLICORES)
    if options.rate is not None:
        offer = replace(offer, rates={subject.name: options.rate})
    schedule = scenario.arrivals(offer, [subject], options.seconds, options.seed)
    t0_s = 0.0

    def network(
        upstream: tuple[str, int], link: BandwidthTrace, zero_s: float
    ) -> AbstractAsyncContextManager[Front]:
        """The usual one; it is told when the run's time began, which all clocks of this host share."""
        nonlocal t0_s
        t0_s = zero_s
        return Links(upstream, link, zero_s)

    progress(Stage("starting", 0, 1))
    with tempfile.TemporaryDirectory(prefix="sponge-recording-") as name:
        pages_path = Path(name) / "journal.json"
        spec = replace(
            demo.worker_spec(subject, _START, offer.host_millicores),
            module="evaluation.journal",
            arguments=("--journal", str(pages_path)),
        )
        async with Embedded(Path(name), [spec], offer.host_millicores) as embedded:
            workload = Offered([subject], schedule, trace, options.seconds)
            run = await measure.run(
                options.service, embedded.admin, embedded.addresses, workload, progress, network
            )
        pages = journal.read(pages_path)
    about = {
        **finding.machine(),
        **demo.describe(offer, [subject], trace),
        "CPU of generator and emulated links": f"{run.generator_cpu_s:.1f} s",
    }
    return _recording(about, run, pages, t0_s, spec.limits, offer.host_millicores, 1000 * subject.row_cpu_s)


def _recording(
    about: Mapping[str, str],
    run: Run,
    pages: Pages,
    t0_s: float,
    limits: Limits,
    host_millicores: int,
    minimum_service_ms: float,
) -> Recording:
    began_s = run.points[0].at_s
    zero_s = t0_s + began_s
    served = sorted((_shifted(one, zero_s) for one in pages.served), key=lambda one: one.arrived_s)
    executions = sorted(
        (
            msgspec.structs.replace(
                one,
                started_s=round(one.started_s - zero_s, _DIGITS),
                **{
                    name: round(getattr(one, name), _DIGITS) for name in ("slot_s", "wall_s", "cpu_s", "busy")
                },
            )
            for one in pages.executions
        ),
        key=lambda one: one.started_s,
    )
    used_s = sum(cost.used for cost in run.cost.values())
    executing_s = sum(one.cpu_s for one in executions)
    return Recording(
        about=about,
        service=run.policy,
        seconds=round(run.seconds - began_s, _DIGITS),
        host_millicores=host_millicores,
        limits=limits,
        request_cpu_s=max(0.0, used_s - executing_s) / max(1, len(served)),
        host_busy_share=round(run.host_busy_share, 4),
        held=_held(run, began_s),
        served=served,
        executions=executions,
        client=_client(summarise(run.rows, {run.policy: minimum_service_ms})[run.policy]),
        resizes=len(run.changes),
    )


def _client(seen: Summary) -> Client:
    values = {name: getattr(seen, name) for name in Client.__struct_fields__}
    return msgspec.convert(
        {name: value if math.isfinite(value) else None for name, value in values.items()}, Client
    )


def _held(run: Run, began_s: float) -> list[Held]:
    """What the fleet said in turn, where it changed."""
    held: list[Held] = []
    for point in run.points:
        seen = Held(
            at_s=round(point.at_s - began_s, _DIGITS),
            cpu_millicores=point.cpu_millicores,
            instances=point.instances,
            threads=point.threads,
            max_batch=point.max_batch,
        )
        if point.at_s < run.seconds and (
            not held or msgspec.structs.replace(seen, at_s=held[-1].at_s) != held[-1]
        ):
            held.append(seen)
    return held


def _shifted(one: Served, zero_s: float) -> Served:
    times = ("header_s", "arrived_s", "deadline_s", "expires_s", "finished_s", "started_s")
    moved = {
        name: None if (at_s := getattr(one, name)) is None else round(at_s - zero_s, _DIGITS)
        for name in times
    }
    return msgspec.structs.replace(one, **moved)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record one run into a file; 2 and one line on stderr for what stands in the way."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.recording", description=__doc__)
    parser.add_argument("output", type=Path, metavar="FILE.json.gz")
    parser.add_argument("--service", choices=tuple(scenario.SLO_MS), default=scenario.VISION)
    parser.add_argument(
        "--bandwidth", type=Path, metavar="FILE", help="log to emulate; default: synthetic 4G"
    )
    parser.add_argument("--seconds", type=float, default=180.0, help="length of the load; default: 180")
    parser.add_argument("--seed", type=int, default=59, help="of arrivals and network; default: 59")
    parser.add_argument("--rate", type=float, help="mean requests/s; default: what this host can take")
    parser.add_argument("--models", type=Path, default=cache.models(), help=f"default: {cache.models()}")
    parsed = parser.parse_args(arguments)
    options = Options(
        parsed.models, parsed.service, parsed.bandwidth, parsed.seconds, parsed.seed, parsed.rate
    )
    try:
        recording = asyncio.run(record(options, lambda _: None))
        recording.write(parsed.output)
    except asyncio.CancelledError:
        return 130
    except (StartError, ControlPlaneError, TraceError, OSError) as error:
        print(f"recording: {error}", file=sys.stderr)
        return 2
    print(
        f"{parsed.output}: {len(recording.served)} requests in {recording.seconds:.0f} s, "
        f"{recording.mean_cores:.2f} cores in the mean, host {recording.host_busy_share:.0%} busy"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
