"""A scenario as it is written down: the same keys in a TOML file and as flags of `sponge simulate`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, structs

from core.config import ConfigError, Section, load
from evaluation import bandwidth
from evaluation.bandwidth import BandwidthTrace, Outage
from evaluation.simulation import offered, profile
from evaluation.simulation.offered import Mix
from evaluation.simulation.profile import ProfileError, Truth
from evaluation.simulation.scenario import Order, Scenario, Service

_START_UTILISATION = 0.7
# Arrivals that are no file of rates.
_PATTERNS = ("constant", "poisson", "flash:", "drift:")

Positive = Annotated[int, Meta(ge=1)]
Above = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class ServiceDescription(Section, frozen=True, kw_only=True):
    """One `[[service]]`; a key that is left out is as the scenario around it says."""

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
    max_instances: Positive | None = None
    followed_from: Positive | None = None
    start_cores: Positive | None = None
    weight: Above | None = None


class Description(Section, frozen=True, kw_only=True):
    """A host and what it serves: one service by the keys here, or those of `service`, each with what differs."""

    profile: str = ""  # file of latencies by batch and cores
    bandwidth: str | None = None  # log that each upload goes over; None: synthetic 4G
    payload_kb: str | float = 284  # KiB: 284, "100,200,500" or "100:2,500:1"
    arrivals: str = "poisson"  # or constant, or a file of rates per second
    rate: Above = 20.0  # requests/s of constant and poisson
    scale_to: Above | None = None  # mean requests/s to scale the rates to
    slo_ms: str | float = 1000  # as payload_kb
    max_cores: Positive = 16  # of one container
    max_batch: Positive = 8
    max_instances: Positive | None = None  # of ours; None: as many as cores
    followed_from: Positive | None = None  # see profile.followed
    start_cores: Positive | None = None  # None: 70 % used by the mean rate on one-thread instances
    weight: Above = 1.0

    host_cores: Positive | None = None  # None: the largest max_cores
    seconds: Above = 600.0
    outage: tuple[str, ...] = ()  # "AT_S:LENGTH_S" each: nothing gets through to any service
    truth: Literal["grid", "fit"] = "grid"
    noise: NotNegative = 0.0
    contention: NotNegative = 0.04
    actuation_ms: NotNegative = 30.0
    cold_start_s: NotNegative = 5.0
    interval_s: Above = 1.0
    distress: bool = True
    order: Order = Order.EDF
    grace_ms: NotNegative = 0.0
    patience_ms: NotNegative = 250.0  # see dataplane.config
    seed: int = 1

    service: tuple[ServiceDescription, ...] = ()

    def scenario(self) -> Scenario:
        """Read the files, and let clients send.

        Raises ConfigError, ProfileError, TraceError and RatesError.
        """
        services = tuple(self._service(one, index) for index, one in enumerate(self._described()))
        host_cores = self.host_cores or max(service.max_cores for service in services)
        if host_cores < len(services):
            raise ConfigError(f"host_cores: expected a core for each of {len(services)} services")
        return Scenario(
            services=services,
            host_cores=host_cores,
            seconds=self.seconds,
            seed=self.seed,
            noise=self.noise,
            contention=self.contention,
            actuation_s=self.actuation_ms / 1000,
            cold_start_s=self.cold_start_s,
            interval_s=self.interval_s,
            distress=self.distress,
            grace_s=self.grace_ms / 1000,
            patience_s=self.patience_ms / 1000,
            order=self.order,
        )

    def files(self) -> list[str]:
        """Name the files that `scenario` reads."""
        services = [self._with(described) for described in self._described()]
        named = [file for one in services for file in (one.profile, one.bandwidth) if file]
        return named + [one.arrivals for one in services if not one.arrivals.startswith(_PATTERNS)]

    def within(self, folder: Path) -> "Description":
        """Give the same with its files taken from `folder`, unless they are named by absolute paths."""

        def placed(file: str | None) -> str | None:
            return file and (file if file.startswith(_PATTERNS) else str(folder / file))

        return structs.replace(
            self,
            profile=placed(self.profile),
            bandwidth=placed(self.bandwidth),
            arrivals=placed(self.arrivals),
            service=tuple(
                structs.replace(
                    one,
                    profile=placed(one.profile),
                    bandwidth=placed(one.bandwidth),
                    arrivals=placed(one.arrivals),
                )
                for one in self.service
            ),
        )

    def cut(self, seconds: float) -> "Description":
        """Give the same in a run of another length, without the outages that it does not reach. Raises ConfigError."""
        reached = tuple(text for text in self.outage if _outages(text)[0].at_s < seconds)
        return structs.replace(self, seconds=seconds, outage=reached)

    def _with(self, described: ServiceDescription) -> "Description":
        """What of this is a service's, its own keys in place."""
        own = {k: v for k, v in structs.asdict(described).items() if v is not None and k != "name"}
        return structs.replace(self, **own)

    def _described(self) -> tuple[ServiceDescription, ...]:
        described = self.service or (ServiceDescription(name="service"),)
        names = [service.name for service in described]
        if len(set(names)) != len(names):
            raise ConfigError(f"service: expected each with a name of its own, got {', '.join(names)}")
        return described

    def _service(self, described: ServiceDescription, index: int) -> Service:
        one = self._with(described)
        if not one.profile:
            raise ProfileError("profile: expected a file of measured latencies, as sponge profile writes it")
        points = profile.read(Path(one.profile))
        if one.followed_from is not None:
            points = profile.followed(points, one.followed_from)
        # Nothing is larger than the host: no allocation, and so no execution that says who was dead on arrival.
        max_cores = min(one.max_cores, self.host_cores or one.max_cores)
        truth = (Truth.fit if self.truth == "fit" else Truth.grid)(points, max_cores, one.max_batch)
        payload_bytes, slo_s = _mix("payload_kb", one.payload_kb, 1024.0), _mix("slo_ms", one.slo_ms, 1e-3)
        # Of an upload that takes longer nobody awaits the end.
        link = one.link(index).interrupted(self._outages(), until_s=self.seconds + max(slo_s.values))
        seed = self.seed + 1000 * index
        sent = offered.send_times(one.arrivals, one.rate, self.seconds, one.scale_to, seed)
        needed = len(sent) / self.seconds * truth.seconds(1, 1) / _START_UTILISATION
        return Service(
            name=described.name,
            profile=points,
            truth=truth,
            link=link,
            payload_bytes=payload_bytes,
            slo_s=slo_s,
            offered=offered.offer(sent, link, payload_bytes, slo_s, (seed, 0)),
            max_cores=max_cores,
            max_batch=one.max_batch,
            max_instances=one.max_instances,
            start_cores=min(max_cores, one.start_cores or max(1, math.ceil(needed))),
            weight=one.weight,
        )

    def _outages(self) -> list[Outage]:
        outages = [outage for text in self.outage for outage in _outages(text)]
        for outage in outages:
            if outage.at_s >= self.seconds:
                raise ConfigError(f"outage: expected it to begin within the {self.seconds:g} s of the run")
        return outages

    def link(self, index: int) -> BandwidthTrace:
        """Read the log, or make one up for the service at `index`. Raises TraceError."""
        if self.bandwidth is None:
            return bandwidth.synthetic(self.seed + index, math.ceil(self.seconds))
        return bandwidth.read(Path(self.bandwidth))


class _Services(Section, frozen=True, kw_only=True):
    service: Annotated[tuple[ServiceDescription, ...], Meta(min_length=1)]


def read_services(path: Path) -> tuple[ServiceDescription, ...]:
    """Read a file of `[[service]]`s, one at least. Raises ConfigError."""
    return load(path, _Services).service


def _outages(text: str) -> tuple[Outage, ...]:
    try:
        return Outage.parse(text)
    except ValueError as error:
        raise ConfigError(f"outage: {error}") from error


def _mix(name: str, text: str | float, unit: float) -> Mix:
    try:
        mix = Mix.parse(str(text))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
    return replace(mix, values=tuple(value * unit for value in mix.values))
