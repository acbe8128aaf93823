"""The rounds: each policy in turn, with a fleet of its own, on the same workload."""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec

from controlplane.allocation import Allocation
from controlplane.config import ActuatorKind
from evaluation import demo, measure
from evaluation.bench import cpu
from evaluation.bench.policy import Policy, turns
from evaluation.bench.record import Bench, Events, Service, Trial
from evaluation.bench.workload import Workload
from evaluation.embedded import Embedded
from evaluation.experiment.finding import machine
from evaluation.fleet import ControlSpec, Fleet, WorkerSpec
from evaluation.link import Links
from evaluation.measure import Network, Progress, Stage

GENERATOR = "load generator and links"


class Workers(enum.Enum):
    """Where workers and control plane run."""

    EMBEDDED = "embedded"  # processes of this machine
    DOCKER = "docker"


class Link(enum.Enum):
    """What emulates the network."""

    PROXY = "proxy"  # in user space
    NETNS = "netns"  # namespaces and the kernel's token buckets


@dataclass(frozen=True, slots=True)
class Options:
    """How the rounds are run."""

    command: str
    output: Path
    policies: Sequence[Policy]
    rounds: int
    warmup_s: float
    workers: Workers = Workers.EMBEDDED
    link: Link = Link.PROXY
    shared_link: bool = False


StartFleet = Callable[[Path, Sequence[WorkerSpec], int, ControlSpec], Fleet]


async def run(options: Options, workload: Workload, settings: Mapping[str, str], progress: Progress) -> Bench:
    """Run all rounds, writing every trial into `output` as it ends, and the document after each.

    Raises StartError, ControlPlaneError, PolicyError, OSError. Stops what it started, also when cancelled.
    """
    starts = {policy: workload.start(policy) for policy in options.policies}
    bench = _begun(options, workload, settings)
    options.output.mkdir(parents=True, exist_ok=True)
    for number in range(options.rounds):
        for policy in turns(options.policies, number):
            name = f"round {number + 1} of {options.rounds}: {policy.name}"
            directory = options.output / f"{number + 1}-{policy.name.replace(':', '-').replace('%', 'pct')}"
            trial, kind = await _trial(
                options, workload, policy, starts[policy], number + 1, directory, _named(name, progress)
            )
            bench = _with(bench, trial, kind)
            bench.write(options.output)
    return bench


async def _trial(
    options: Options,
    workload: Workload,
    policy: Policy,
    start: Mapping[str, Allocation],
    number: int,
    directory: Path,
    progress: Progress,
) -> tuple[Trial, ActuatorKind]:
    specs = [
        demo.worker_spec(subject, start[subject.name], workload.host_millicores)
        for subject in workload.subjects
    ]
    progress(Stage("starting", 0, 1))
    make = _fleet(options.workers)
    async with make(directory, specs, workload.host_millicores, policy.control()) as fleet:
        before = cpu.use(fleet.pids())
        done = await measure.run(
            policy.name, fleet.admin, fleet.addresses, workload.offered, progress, _network(options)
        )
        taken = cpu.between(before, cpu.use(fleet.pids()))
        kind = fleet.kind
    Events(done.rows, done.points, done.changes).write(directory)
    trial = Trial(
        round=number,
        policy=policy.name,
        directory=directory.name,
        start={name: _words(configuration) for name, configuration in start.items()},
        host_busy_share=done.host_busy_share,
        cpu_s={GENERATOR: done.generator_cpu_s, **taken},
    )
    return trial, kind


def _fleet(workers: Workers) -> StartFleet:
    if workers is Workers.EMBEDDED:
        return Embedded
    from evaluation.bench.containers import Containers

    return Containers


def _network(options: Options) -> Network:
    if options.link is Link.PROXY:
        return partial(Links, shared=options.shared_link)
    from evaluation.kernel_link import KernelLinks

    return partial(KernelLinks, shared=options.shared_link)


def _begun(options: Options, workload: Workload, settings: Mapping[str, str]) -> Bench:
    threads = -(-workload.host_millicores // 1000)
    return Bench(
        command=options.command,
        settings={
            **machine(),
            **settings,
            "CPU for workers": f"{workload.host_millicores} millicores",
            "workers": options.workers.value,
            "links": ("one for all of a service" if options.shared_link else "one for each request")
            + f", {options.link.value}",
        },
        services=[
            Service(
                name=subject.name,
                slo_ms=subject.slo_ms,
                rate=workload.rates[subject.name],
                row_ms=1000 * subject.row_cpu_s,
                fastest_ms=1000 * subject.row_cpu_s / threads,
            )
            for subject in workload.subjects
        ],
        host_millicores=workload.host_millicores,
        holds_quota=True,
        warmup_s=options.warmup_s,
        seconds=workload.offered.seconds - options.warmup_s,
        trials=(),
    )


def _with(bench: Bench, trial: Trial, kind: ActuatorKind) -> Bench:
    return msgspec.structs.replace(
        bench,
        trials=(*bench.trials, trial),
        holds_quota=bench.holds_quota and kind is not ActuatorKind.THREADS,
    )


def _words(configuration: Allocation) -> str:
    return (
        f"{configuration.cpu_millicores} millicores, {configuration.instances} × {configuration.threads} "
        f"threads, batch {configuration.max_batch}"
    )


def _named(name: str, progress: Progress) -> Progress:
    return lambda stage: progress(replace(stage, name=name))
