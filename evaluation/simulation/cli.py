"""`sponge simulate`: flags and files to a scenario, policies by name, one line each."""

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from core.config import ConfigError, Section, load
from evaluation import bandwidth
from evaluation.bandwidth import Outage, TraceError
from evaluation.simulation import offered, profile
from evaluation.simulation import run as simulation
from evaluation.simulation.flags import DEFAULT_POLICIES, POLICIES
from evaluation.simulation.offered import Mix, RatesError
from evaluation.simulation.policies import Policy, static
from evaluation.simulation.policies.bound import bound
from evaluation.simulation.policies.fa2 import Fa2
from evaluation.simulation.policies.paper import Paper, PaperInstances
from evaluation.simulation.policies.sponge import Sponge
from evaluation.simulation.policies.usage import Usage, UsageInstances
from evaluation.simulation.profile import ProfileError, Truth
from evaluation.simulation.run import Run
from evaluation.simulation.scenario import Order, Scenario, Service
from evaluation.simulation.score import Score, table

_STATIC = r"static:([1-9]\d*)"
_USAGE = r"(usage|usage-nt):([1-9]\d?)"
_START_UTILISATION = 0.7

Positive = Annotated[int, Meta(ge=1)]
Above = Annotated[float, Meta(gt=0)]


class ServiceOptions(Section, frozen=True, kw_only=True):
    """One `[[service]]` of a services file; what is left out is what the flag of the same name says."""

    name: str
    profile: str | None = None
    bandwidth: str | None = None
    payload_kb: str | float | None = None
    arrivals: str | None = None
    rate: Above | None = None
    scale_to: Above | None = None
    slo_ms: str | float | None = None
    max_cores: Positive | None = None
    max_batch: Positive | None = None
    start_cores: Positive | None = None
    weight: Above | None = None


class _Services(Section, frozen=True, kw_only=True):
    service: list[ServiceOptions]


class PolicyError(ValueError):
    """A policy that there is not; the text is one line."""


def run(parsed: argparse.Namespace) -> int:
    """Simulate each policy; 2 and one line on stderr for input that cannot be used."""
    try:
        names = parsed.policy or list(DEFAULT_POLICIES)
        for name in names:
            check(name)
        scores = []
        for score in scores_of(scenario(parsed), names):
            scores.append(score)
            if parsed.json:
                print(score.json(), flush=True)
    except (ProfileError, TraceError, RatesError, ConfigError, PolicyError) as error:
        print(f"sponge simulate: {error}", file=sys.stderr)
        return 2
    if not parsed.json:
        print(table(scores))
    return 0


def scenario(parsed: argparse.Namespace) -> Scenario:
    """Build what the flags and the services file describe. Raises the errors of its inputs."""
    if parsed.services is None:
        described = [ServiceOptions(name="service")]
    else:
        described = load(parsed.services, _Services).service
        names = [options.name for options in described]
        if not names or len(set(names)) != len(names):
            raise ConfigError(
                f"{parsed.services}: service: expected at least one, each with a name of its own"
            )
    services = tuple(_service(options, parsed, index) for index, options in enumerate(described))
    host_cores = parsed.host_cores or max(service.max_cores for service in services)
    if host_cores < len(services):
        raise ConfigError(f"--host-cores: expected a core for each of {len(services)} services")
    return Scenario(
        services=services,
        host_cores=host_cores,
        seconds=parsed.seconds,
        seed=parsed.seed,
        noise=parsed.noise,
        contention=parsed.contention,
        actuation_s=parsed.actuation_ms / 1000,
        cold_start_s=parsed.cold_start_s,
        interval_s=parsed.interval_s,
        distress=not parsed.no_distress,
        grace_s=parsed.grace_ms / 1000,
        order=Order(parsed.order),
    )


def _service(options: ServiceOptions, flags: argparse.Namespace, index: int) -> Service:
    given = {name: value for name, value in msgspec.structs.asdict(options).items() if value is not None}
    chosen = argparse.Namespace(**{**vars(flags), **given})
    if chosen.profile is None:
        raise ProfileError("--profile: expected a file of measured latencies")
    points = profile.read(Path(chosen.profile))
    make = Truth.fit if flags.truth == "fit" else Truth.grid
    truth = make(points, chosen.max_cores, chosen.max_batch)
    if chosen.bandwidth is None:
        link = bandwidth.synthetic(flags.seed + index, math.ceil(flags.seconds))
    else:
        link = bandwidth.read(Path(chosen.bandwidth))
    payload_bytes, slo_s = _mix("payload_kb", chosen.payload_kb, 1024.0), _mix("slo_ms", chosen.slo_ms, 1e-3)
    # Of an upload that takes longer nobody awaits the end.
    link = link.interrupted(_outages(flags), until_s=flags.seconds + max(slo_s.values))
    seed = flags.seed + 1000 * index
    sent = offered.send_times(str(chosen.arrivals), chosen.rate, flags.seconds, chosen.scale_to, seed)
    offer = offered.offer(sent, link, payload_bytes, slo_s, (seed, 0))
    needed = len(sent) / flags.seconds * truth.seconds(1, 1) / _START_UTILISATION
    return Service(
        name=options.name,
        profile=points,
        truth=truth,
        link=link,
        payload_bytes=payload_bytes,
        slo_s=slo_s,
        offered=offer,
        max_cores=chosen.max_cores,
        max_batch=chosen.max_batch,
        start_cores=min(chosen.max_cores, chosen.start_cores or max(1, math.ceil(needed))),
        weight=options.weight or 1.0,
    )


def scores_of(where: Scenario, names: list[str]) -> Iterator[Score]:
    """Give the score of each policy in turn. Raises PolicyError."""
    ours: Score | None = None
    for name in names:
        if name == "bound":
            yield bound(where, name)
        elif name == "static-best":
            if ours is None:
                ours = simulation.run(where, Sponge(), "sponge").score
            yield _searched(partial(static.smallest, where, ours.avoidable_missed, name))
        elif match := re.fullmatch(_STATIC, name):
            yield _searched(partial(static.best, where, int(match[1]), name))
        else:
            found = simulation.run(where, policy(name), name).score
            if name == "sponge":
                ours = found
            yield found


def check(name: str) -> None:
    """Raises PolicyError for a name that is none."""
    if name not in ("bound", "static-best") and not re.fullmatch(_STATIC, name):
        policy(name)


def policy(name: str) -> Policy:
    """Give the policy of that name, of those that decide while they run. Raises PolicyError."""
    match name:
        case "sponge":
            return Sponge()
        case "paper":
            return Paper()
        case "paper-hold":
            return Paper(hold=True)
        case "paper-nt":
            return PaperInstances()
        case "fa2":
            return Fa2()
        case "usage":
            return Usage()
        case "usage-nt":
            return UsageInstances()
    if found := re.fullmatch(_USAGE, name):
        target = int(found[2]) / 100
        return Usage(target) if found[1] == "usage" else UsageInstances(target)
    raise PolicyError(f"--policy: expected one of {POLICIES}; got {name!r}")


def _searched(search: Callable[[], Run]) -> Score:
    """Charge a policy that is searched for with its search."""
    began = time.perf_counter()
    found = search().score
    return replace(found, sim_wall_s=time.perf_counter() - began)


def _outages(flags: argparse.Namespace) -> list[Outage]:
    try:
        outages = [outage for text in flags.outage or () for outage in Outage.parse(text)]
    except ValueError as error:
        raise ConfigError(f"--outage: {error}") from error
    for outage in outages:
        if outage.at_s >= flags.seconds:
            raise ConfigError(f"--outage: expected it to begin within the {flags.seconds:g} s of the run")
    return outages


def _mix(name: str, text: object, unit: float) -> Mix:
    try:
        mix = Mix.parse(str(text))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
    return replace(mix, values=tuple(value * unit for value in mix.values))
