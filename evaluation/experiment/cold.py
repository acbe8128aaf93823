"""A cold start in virtual time: a control plane that knows nothing of a model, beside one with its whole profile."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np

from controlplane import config
from controlplane.config import Config, Explore
from controlplane.curve import Curve
from controlplane.state import Fleet
from dataplane.servicetime import warmed
from dataplane.worker import warm_batches
from evaluation.bandwidth import BandwidthTrace
from evaluation.paper import Point
from evaluation.simulation.offered import Mix, offer, send_times
from evaluation.simulation.plane import Plane
from evaluation.simulation.policies import Seen, Target, whole
from evaluation.simulation.policies.sponge import Sponge
from evaluation.simulation.profile import Truth
from evaluation.simulation.run import play
from evaluation.simulation.scenario import Scenario, Service
from evaluation.simulation.score import Class, Tally
from evaluation.simulation.series import Series, series

USABLE_S = 30.0  # of traffic
_NOISE = 0.1  # coefficient of variation of executions
_HOST_CORES = 16


@dataclass(frozen=True, slots=True)
class Case:
    """A model and its demand: Poisson arrivals at `rate` that have `slo_s` each."""

    name: str
    points: Sequence[Point]
    rate: float
    slo_s: float
    max_batch: int


@dataclass(frozen=True, slots=True)
class Start:
    """What came of a case, or of several in the mean; cores are those reserved, shares those of requests on time."""

    early_cores: float  # in the first USABLE_S
    early_on_time: float
    later_cores: float  # as long again
    later_on_time: float
    cells: float  # numbers of rows and threads known when the first USABLE_S were over


@dataclass(frozen=True, slots=True)
class Starts:
    """A case without a profile, the same without tries and with more of them, and with the whole profile."""

    case: Case
    cold: Start
    untried: Start
    tried: Start
    profiled: Start


def of_curve(curve: Curve, batches: Sequence[int], cores: Sequence[int]) -> list[Point]:
    """Give the grid that the curve makes, as if measured."""
    return [Point(b, c, 1000 * curve.work(float(b), float(c))) for b in batches for c in cores]


def start(case: Case, seed: int, *, profiled: bool, explore: Explore = Explore.IMPOSSIBLE) -> Start:
    """Run it for twice USABLE_S, from one core and one row at a time."""
    scenario = _scenario(case, seed)
    if not profiled:
        service = replace(scenario.services[0], profile=())
        scenario = replace(scenario, services=(service,))
    service = scenario.services[0]
    tally = Tally(service)
    policy = _FromOneCore(explore)
    plane = Plane(scenario, policy, [tally])
    seat = plane.seats[0]
    if not profiled:
        # What a worker that has just warmed up knows, and tells: each batch size once, on its first threads.
        warm = {rows: service.truth.seconds(rows, 1) for rows in warm_batches(service.max_batch)}
        for rows, work_s in warm.items():
            seat.worker.latency.record(rows, 1, work_s, 1.0, 0.0)
        seat.virtual.batcher.times.adopt(warmed(warm))
    play(plane, [tally], scenario.seconds)
    found = series([tally], plane.reserved)[0]
    early, later = (slice(round(at_s), round(at_s + USABLE_S)) for at_s in (0.0, USABLE_S))
    return Start(
        early_cores=float(found.core_seconds[early].mean()),
        early_on_time=_on_time(found, early),
        later_cores=float(found.core_seconds[later].mean()),
        later_on_time=_on_time(found, later),
        cells=policy.cells,
    )


def mean(starts: Sequence[Start]) -> Start:
    """Of several starts of a case, at least one: which requests come when is as much chance as knowledge."""
    return Start(*np.mean([astuple(each) for each in starts], axis=0).tolist())


class _FromOneCore:
    """Ours, from one core and a row at a time; notes what was executed until USABLE_S."""

    listens = True

    def __init__(self, explore: Explore) -> None:
        self._ours = Sponge(Config(planner=config.Planner(explore=explore)))
        self.cells = 0

    def interval_s(self, scenario: Scenario) -> float | None:
        return self._ours.interval_s(scenario)

    def start(self, scenario: Scenario) -> list[Target]:
        return [whole(1, 1, 1) for _ in scenario.services]

    def decide(self, fleet: Fleet, seen: Sequence[Seen], now: float) -> list[Target | None]:
        if now <= USABLE_S:
            self.cells = sum(len(model.cells) for model in fleet.models.values())
        return self._ours.decide(fleet, seen, now)


def _scenario(case: Case, seed: int) -> Scenario:
    link, payload_bytes, slo_s = BandwidthTrace.constant(1e9), Mix((1.0,), (1.0,)), Mix((case.slo_s,), (1.0,))
    sent = send_times("poisson", case.rate, 2 * USABLE_S, None, seed)
    service = Service(
        name=case.name,
        profile=case.points,
        truth=Truth.grid(case.points, _HOST_CORES, case.max_batch),
        link=link,
        payload_bytes=payload_bytes,
        slo_s=slo_s,
        offered=offer(sent, link, payload_bytes, slo_s, (seed, 0)),
        max_cores=_HOST_CORES,
        max_batch=case.max_batch,
        start_cores=1,
    )
    return Scenario((service,), _HOST_CORES, 2 * USABLE_S, seed=seed, noise=_NOISE)


def _on_time(of: Series, seconds: slice) -> float:
    """Share of what was due in these seconds and not dead on arrival."""
    on_time = int(of.on_time[Class.TIGHT :, seconds].sum())
    return on_time / max(1, on_time + int(of.missed[seconds].sum()))
