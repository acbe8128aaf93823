"""A bench as its flags or its experiment's file describe it, and from there to rounds."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from core.config import Section
from evaluation import demo, scenario
from evaluation.bench import policy, workload
from evaluation.bench.record import Bench
from evaluation.bench.run import Link, Options, Workers, run
from evaluation.bench.workload import DAY
from evaluation.measure import Progress, Stage
from evaluation.models import Vision

Above = Annotated[float, Meta(gt=0)]

_MEASURE_S = 5.0


class Description(Section, frozen=True, kw_only=True):
    """What is run. Every key has a flag of the same name."""

    policies: Annotated[Sequence[str], Meta(min_length=1)] = (policy.SPONGE, policy.STATIC_MAX)
    rounds: Annotated[int, Meta(ge=1)] = 1
    seconds: Above = 60.0  # of each run, after the warm-up
    warmup_s: Annotated[float, Meta(ge=0)] = 8.0  # longer than a shrink is held back
    workers: Workers = Workers.EMBEDDED
    link: Link = Link.PROXY
    shared_link: bool = False
    bandwidth: str | None = None  # log that each upload goes over; None: synthetic 4G
    arrivals: str = DAY  # or a file of rates per second, scaled to `rate`
    rate: Above | None = None  # requests/s of each service in the mean; None: what the host can take
    stagger: bool = False  # whether the services' peaks fall at different times
    vision: Vision = Vision.RESNET50
    host_millicores: Annotated[int, Meta(ge=200)] | None = (
        None  # for workers; None: what is left beside the load
    )
    min_millicores: Annotated[int, Meta(ge=100)] | None = None  # of each service; None: the demo's
    seed: int = 59


async def execute(
    description: Description, models: Path, output: Path, command: str, progress: Progress
) -> Bench:
    """Measure the models, run all rounds, and leave everything in `output`.

    Raises PolicyError, RatesError, TraceError, StartError, ControlPlaneError, OSError.
    """
    policies = [policy.parse(name) for name in dict.fromkeys(description.policies)]
    phases = workload.pattern(description.arrivals, description.seconds)
    length_s = description.warmup_s + description.seconds
    log = None if description.bandwidth is None else Path(description.bandwidth)
    trace = demo.network(log, description.seed, length_s)
    progress(Stage("preparing models and inputs, measuring this host", 0, 1))
    measured = await scenario.prepare(models, description.seed, _MEASURE_S, description.vision)
    if description.min_millicores is not None:
        measured = tuple(replace(s, min_millicores=description.min_millicores) for s in measured)
    if description.rate is None:
        offer = scenario.offer(measured, workload.cpus(), workload.RESERVED_MILLICORES)
        rates, host = offer.rates, offer.host_millicores
    else:
        rates = {subject.name: description.rate for subject in measured}
        host = workload.host_millicores(measured, rates)
    offered = workload.make(
        measured,
        rates,
        description.host_millicores or host,
        phases,
        trace,
        description.seed,
        warmup_s=description.warmup_s,
        stagger=description.stagger,
    )
    options = Options(
        command=command,
        output=output,
        policies=policies,
        rounds=description.rounds,
        warmup_s=description.warmup_s,
        workers=description.workers,
        link=description.link,
        shared_link=description.shared_link,
    )
    return await run(options, offered, _settings(description), progress)


def measured(description: Description, models: Path, output: Path, command: str, progress: Progress) -> Bench:
    """As `execute`, from outside of an event loop. Raises KeyboardInterrupt once all that it started has ended."""
    try:
        return asyncio.run(execute(description, models, output, command, progress))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def within(description: Description, folder: Path) -> Description:
    """Take the paths of logs and rates relative to `folder`."""
    arrivals, log = description.arrivals, description.bandwidth
    return msgspec.structs.replace(
        description,
        arrivals=arrivals if arrivals == DAY else str(folder / arrivals),
        bandwidth=None if log is None else str(folder / log),
    )


def _settings(description: Description) -> Mapping[str, str]:
    return {
        "vision": description.vision.value,
        "arrivals": description.arrivals if description.arrivals == DAY else Path(description.arrivals).name,
        "peaks": "of each service at another time" if description.stagger else "of all services at once",
        "bandwidth": "synthetic 4G" if description.bandwidth is None else Path(description.bandwidth).name,
        "seed": str(description.seed),
        "run": f"{description.rounds} rounds of {description.seconds:g} s after {description.warmup_s:g} s of warm-up",
    }
