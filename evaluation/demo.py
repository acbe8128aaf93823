"""The demo: two services under a day of load in a minute, run by Sponge and by the best fixed split."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from controlplane.allocation import Allocation
from controlplane.config import ActuatorKind, Governor
from evaluation import bandwidth, measure, scenario, split
from evaluation.bandwidth import BandwidthTrace
from evaluation.embedded import Embedded, actuator_kind
from evaluation.fleet import ControlSpec, WorkerSpec
from evaluation.measure import Offered, Progress, Stage
from evaluation.result import Result
from evaluation.scenario import Offer, Subject

_RESERVED_MILLICORES = 300
# What a worker starts with under Sponge: one core's worth, until it is known what it needs.
_START_MILLICORES = 700

_RESIZED_BY = {
    ActuatorKind.DOCKER: "container update",
    ActuatorKind.LOCAL: "control groups of local processes",
    ActuatorKind.THREADS: "instances and threads only: no control group may be made here, and so nobody holds a quota",
}

SPONGE, FIXED = "sponge", "best fixed split"


@dataclass(frozen=True, slots=True)
class Options:
    """What a demo is run with. `seconds` is the length of each of the two runs."""

    models: Path
    output: Path
    bandwidth: Path | None = None
    seconds: float = 40.0
    seed: int = 59


async def run(options: Options, progress: Progress) -> Result:
    """Measure the host, offer it the load twice, and give everything that came of it.

    Raises StartError, ControlPlaneError, bandwidth.TraceError, OSError.
    Stops everything it started, also when cancelled.
    """
    trace = network(options.bandwidth, options.seed, options.seconds)
    progress(Stage("preparing models and inputs, measuring this host", 0, 1))
    measured = await scenario.prepare(options.models, options.seed, options.seconds)
    cpus = len(os.sched_getaffinity(0))
    offered = scenario.offer(measured, cpus, _RESERVED_MILLICORES)
    schedule = scenario.arrivals(offered, measured, options.seconds, options.seed)
    workload = Offered(measured, schedule, trace, options.seconds)
    peak = {name: 2 * rate for name, rate in offered.rates.items()}
    fixed = split.best(measured, peak, trace, offered.host_millicores)

    runs = []
    start = min(_START_MILLICORES, offered.host_millicores // len(measured))
    kind, _ = actuator_kind()
    for policy in (SPONGE, FIXED):
        configurations = fixed if policy == FIXED else _start(measured, start)
        directory = options.output / policy.replace(" ", "-")
        specs = [
            worker_spec(subject, configurations[subject.name], offered.host_millicores)
            for subject in measured
        ]
        progress(Stage(f"{policy}: starting", 0, 1))
        control = ControlSpec(governor=Governor(paused=policy == FIXED))
        async with Embedded(directory, specs, offered.host_millicores, control) as embedded:
            runs.append(await measure.run(policy, embedded.admin, embedded.addresses, workload, progress))
    return Result(
        settings=_settings(options, fixed, kind) | describe(offered, measured, trace),
        slo_ms={subject.name: subject.slo_ms for subject in measured},
        minimum_service_ms={subject.name: 1000 * subject.row_cpu_s for subject in measured},
        holds_quota=kind is not ActuatorKind.THREADS,
        runs=runs,
    )


def network(path: Path | None, seed: int, seconds: float) -> BandwidthTrace:
    """Read the bandwidth log, or make a synthetic one that is long enough."""
    return bandwidth.synthetic(seed, int(seconds) + 10) if path is None else bandwidth.read(path)


def _start(measured: Sequence[Subject], millicores: int) -> dict[str, Allocation]:
    return {subject.name: Allocation(millicores, 1, 1, 1) for subject in measured}


def worker_spec(subject: Subject, start: Allocation, host_millicores: int) -> WorkerSpec:
    """Give the worker of a service on a host of this size."""
    return WorkerSpec(
        service=subject.name,
        model=subject.model.resolve(),
        slo_ms=subject.slo_ms,
        start=start,
        limits=split.limits(subject.min_millicores, host_millicores),
        warmup_shapes=scenario.WARMUP_SHAPES[subject.name],
    )


def describe(offered: Offer, measured: Sequence[Subject], trace: BandwidthTrace) -> dict[str, str]:
    """What was chosen for this host, in words."""
    cpus = len(os.sched_getaffinity(0))
    settings = {
        "machine": f"{cpus} CPUs, {platform.machine()}, {platform.system()} {platform.release()}",
        "CPU for workers": f"{offered.host_millicores} millicores",
        "network": f"{trace.mean_bytes_per_s / 1e6:.2f} MB/s in the mean, a link of its own for each request",
    }
    for subject in measured:
        settings[subject.name] = (
            f"{offered.rates[subject.name]:.1f} requests/s in the mean, 2 × in the burst, 0.3 × in the lull; "
            f"SLO {subject.slo_ms:g} ms; {1000 * subject.row_cpu_s:.1f} ms a row on one thread"
        )
    names = ("sponge-serving", "onnxruntime", "ortools", "grpcio", "numpy")
    versions = [f"{name} {version(name)}" for name in names]
    settings["versions"] = ", ".join([*versions, f"Python {platform.python_version()}"])
    return settings


def _settings(options: Options, fixed: Mapping[str, Allocation], kind: ActuatorKind) -> dict[str, str]:
    command = f"sponge demo --seconds {options.seconds:g} --seed {options.seed}"
    if options.bandwidth is not None:
        command += f" --bandwidth {options.bandwidth}"
    settings = {"command": command, "resized by": _RESIZED_BY[kind]}
    for name, configuration in fixed.items():
        settings[f"{name}, fixed"] = (
            f"{configuration.cpu_millicores} millicores, {configuration.instances} × "
            f"{configuration.threads} threads, batch {configuration.max_batch}"
        )
    return settings
