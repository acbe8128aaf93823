"""The file of `sponge plan`: a host and what it serves, as the planner takes them."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from controlplane import config
from controlplane.config import NonNegative
from controlplane.curve import Curve
from controlplane.demand import MAX_DISPERSION, MIN_DISPERSION, DemandEstimate, settled
from controlplane.latency import UPPER_SPREAD, LatencyModel
from controlplane.operation import ServiceState
from controlplane.profiled import MAX_SPREAD, of_curve, of_times
from controlplane.profilefile import ProfileError, read_times
from controlplane.shape import CORE_MILLICORES, Limits
from controlplane.whatif import Host
from core.config import ConfigError, Section, convert, load

Millicores = Annotated[int, Meta(ge=1, le=10_000_000)]
Milliseconds = Annotated[float, Meta(gt=0, le=3_600_000)]
Slots = Annotated[int, Meta(ge=1, le=1024)]
Work = Annotated[float, Meta(ge=0, le=3_600_000)]

_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")
_POINTS = 100  # that quantiles are spread over, before as many as the control plane keeps are made of them
_LIMITS = Limits()


class HostDescription(Section, frozen=True, kw_only=True):
    """`[host]`: what there is to give to workers."""

    millicores: Millicores
    memory_mib: NonNegative = 0  # 0: memory is not planned
    period_us: Annotated[int, Meta(ge=1000, le=1_000_000)] = config.Actuator().period_us


class Coefficients(Section, frozen=True, kw_only=True):
    """Mean time of b rows on t threads at full speed, (gamma·b + epsilon)/t + delta·b + eta."""

    gamma_ms: Work = 0.0
    delta_ms: Work = 0.0
    epsilon_ms: Work = 0.0
    eta_ms: Work = 0.0
    p95_ratio: Annotated[float, Meta(ge=1, le=MAX_SPREAD)] = UPPER_SPREAD  # 95 % quantile over the mean


class ServiceDescription(Section, frozen=True, kw_only=True):
    """`[services.NAME]`: one worker; what is a policy there is as in control.toml, maxima as in worker.toml."""

    profile: str | None = None  # file of `sponge profile`, beside this one
    latency: Coefficients | None = None  # instead of a profile
    rate: Annotated[float, Meta(ge=0, le=1e6)]  # requests/s
    slo_ms: Milliseconds
    # Left when requests arrive: of all the same, or quantiles, as in {p5 = 300, p50 = 700}. None: slo_ms.
    budgets_ms: Milliseconds | dict[str, Milliseconds] | None = None
    rows_per_request: Annotated[float, Meta(ge=1, le=1024)] = 1.0
    # Variance over mean of arrival counts; 1: Poisson.
    dispersion: Annotated[float, Meta(ge=MIN_DISPERSION, le=MAX_DISPERSION)] = 1.0
    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    reserve: Annotated[float, Meta(ge=0, le=10)] = 0.0
    min_millicores: Annotated[int, Meta(ge=100)] = _LIMITS.min_millicores
    max_millicores: Millicores = _LIMITS.max_millicores
    whole_cores: bool = False
    max_instances: Slots = _LIMITS.max_instances
    max_threads: Slots = _LIMITS.max_threads
    max_batch: Slots = _LIMITS.max_batch
    memory_mib: NonNegative | None = None  # in use while nothing is executed
    memory_mib_per_row: Annotated[float, Meta(ge=0, le=1e6)] = config.ServicePolicy().memory_mib_per_row
    max_memory_mib: config.MemoryCeiling | None = None


class _File(Section, frozen=True, kw_only=True):
    host: HostDescription
    planner: config.Planner = msgspec.field(default_factory=config.Planner)
    # Each is converted by itself: so an error can name it.
    services: Annotated[dict[str, dict[str, Any]], Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Question:
    """What the planner is asked."""

    host: Host
    services: tuple[ServiceState, ...]
    settings: config.Planner


def read(path: Path, rates: Mapping[str, float], millicores: int | None = None) -> Question:
    """Read a file and the profiles that it names; `rates` by service, and `millicores`, override what it says.

    Raises ConfigError with file and field.
    """
    file = load(path, _File)
    described = {
        name: convert(keys, ServiceDescription, f"{path}: services.{name}")
        for name, keys in file.services.items()
    }
    for name, rate in rates.items():
        if name not in described:
            raise unknown_service(path, "--rate", name, described)
        described[name] = msgspec.structs.replace(described[name], rate=rate)
    host = Host(millicores or file.host.millicores, file.host.memory_mib << 20)
    services = tuple(_state(path, name, one, file.host, file.planner) for name, one in described.items())
    return Question(host, services, file.planner)


def unknown_service(path: Path, flag: str, name: str, names: Iterable[str]) -> ConfigError:
    """The error for a flag that names a service which the file does not."""
    return ConfigError(f"{path}: {flag}: expected one of {', '.join(names)}, got {name}")


def _state(
    path: Path, name: str, one: ServiceDescription, host: HostDescription, settings: config.Planner
) -> ServiceState:
    place = f"{path}: services.{name}"
    for key, value in msgspec.structs.asdict(one).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{place}: {key}: expected a finite number, got {value}")
    if one.min_millicores > one.max_millicores:
        raise ConfigError(f"{place}: min_millicores: expected at most max_millicores = {one.max_millicores}")
    if one.whole_cores and one.max_millicores < CORE_MILLICORES:
        raise ConfigError(f"{place}: max_millicores: expected at least {CORE_MILLICORES} with whole_cores")
    if host.memory_mib and one.memory_mib is None:
        raise ConfigError(f"{place}: memory_mib: expected one, as host.memory_mib is given")
    if one.memory_mib is not None and not host.memory_mib:
        raise ConfigError(f"{place}: memory_mib: expected host.memory_mib beside it")
    if one.max_memory_mib is not None and not host.memory_mib:
        raise ConfigError(f"{place}: max_memory_mib: expected host.memory_mib beside it")
    memory_mib = one.memory_mib or 0
    per_row_mib = one.memory_mib_per_row if host.memory_mib else 0.0
    needed = 1 + settings.memory_head_room
    return ServiceState(
        name=name,
        latency=_latency(place, path.parent, one, settings.latency_quantile),
        demand=_demand(place, one),
        limits=Limits(
            min_millicores=one.min_millicores,
            max_millicores=one.max_millicores,
            max_instances=one.max_instances,
            max_threads=one.max_threads,
            max_batch=one.max_batch,
            whole_cores=one.whole_cores,
            max_memory_bytes=None if one.max_memory_mib is None else one.max_memory_mib << 20,
        ),
        weight=one.weight,
        reserve=one.reserve,
        request_overhead_s=settings.request_overhead_ms / 1000,
        period_s=host.period_us / 1e6,
        memory_base_bytes=int((memory_mib << 20) * needed),
        memory_per_row_bytes=int(per_row_mib * (1 << 20) * needed),
    )


def _latency(place: str, folder: Path, one: ServiceDescription, quantile: float) -> LatencyModel:
    if one.profile is not None and one.latency is None:
        try:
            return of_times(read_times(folder / one.profile), quantile)
        except ProfileError as error:
            raise ConfigError(f"{place}: profile: {error}") from error
    if one.latency is None or one.profile is not None:
        raise ConfigError(f"{place}: profile: expected that, or latency, and not both")
    told = one.latency
    milliseconds = (told.gamma_ms, told.delta_ms, told.epsilon_ms, told.eta_ms)
    if not 0 < sum(milliseconds) < math.inf:
        raise ConfigError(f"{place}: latency: expected gamma_ms, delta_ms, epsilon_ms or eta_ms above 0")
    curve = Curve(*(value / 1000 for value in milliseconds))
    return of_curve(curve, told.p95_ratio, one.max_threads, one.max_batch, quantile)


def _demand(place: str, one: ServiceDescription) -> DemandEstimate:
    """What the control plane would believe of such a demand in the long run."""
    told = one.slo_ms if one.budgets_ms is None else one.budgets_ms
    quantiles = _quantiles(place, told) if isinstance(told, dict) else [(50.0, told)]
    percents, budgets_ms = zip(*quantiles, strict=True)
    if not budgets_ms[-1] <= one.slo_ms:
        raise ConfigError(
            f"{place}: budgets_ms: expected at most slo_ms = {one.slo_ms:g}, got {budgets_ms[-1]:g}"
        )
    points = _POINTS if len(quantiles) > 1 else 1
    at = 100 * (np.arange(points) + 0.5) / points
    budgets_s = np.interp(at, percents, budgets_ms) / 1000
    budgets = [(budget_s, 1 / points) for budget_s in budgets_s.tolist()]
    return settled(one.rate, budgets, one.rows_per_request, one.dispersion)


def _quantiles(place: str, told: Mapping[str, float]) -> list[tuple[float, float]]:
    """Give per cent and milliseconds, both rising."""
    found = []
    for key, budget_ms in told.items():
        match = _QUANTILE.fullmatch(key)
        if match is None:
            raise ConfigError(f"{place}: budgets_ms: expected quantiles as p5 or p50, got {key}")
        found.append((float(match[1]), budget_ms))
    if not found:
        raise ConfigError(f"{place}: budgets_ms: expected a quantile at least")
    found.sort()
    for (lower, less_ms), (upper, more_ms) in itertools.pairwise(found):
        if not less_ms <= more_ms:
            raise ConfigError(
                f"{place}: budgets_ms: expected budgets that do not fall, "
                f"got p{lower:g} = {less_ms:g} and p{upper:g} = {more_ms:g}"
            )
    return found
