"""The event loop: one policy over one scenario, from event to event."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from controlplane.config import Config
from evaluation.simulation.plane import Plane
from evaluation.simulation.policies import Policy
from evaluation.simulation.scenario import Scenario
from evaluation.simulation.score import Score, Tally, score
from evaluation.simulation.series import Series, Span, series

# What is not over so long after the last second never will be.
_AFTER_S = 300.0


@dataclass(frozen=True, slots=True)
class Run:
    """What came of it; `hopeless` says that it ended early, with more avoidable misses than allowed."""

    score: Score
    hopeless: bool
    tallies: tuple[Tally, ...]
    reserved: tuple[Span, ...] = ()

    @property
    def series(self) -> tuple[Series, ...]:
        """The run second by second, of each service; put together when asked for."""
        return series(self.tallies, self.reserved)


def run(
    scenario: Scenario,
    policy: Policy,
    name: str,
    max_missed: int | None = None,
    control: Config | None = None,
) -> Run:
    """Simulate until every request has ended; with `max_missed`, only until there are more avoidable misses.

    `control` are the settings of the control plane around the policy, if not the default ones.
    """
    began = time.perf_counter()
    tallies = [Tally(service, max_missed) for service in scenario.services]
    plane = Plane(scenario, policy, tallies, control)
    hopeless = play(plane, tallies, scenario.seconds)
    wall_s = time.perf_counter() - began
    found = score(name, tallies, plane.core_seconds, scenario.seconds, plane.resizes, wall_s)
    return Run(found, hopeless, tuple(tallies), tuple(plane.reserved))


def play(plane: Plane, tallies: Sequence[Tally], seconds: float) -> bool:
    """Go from event to event until all requests of a run of `seconds` have ended, or a tally is hopeless.

    Gives whether one was.
    """
    workers = [seat.virtual for seat in plane.seats]
    reports = [partial(plane.hear, seat) for seat in plane.seats]
    horizon_s = seconds + _AFTER_S
    hopeless = False
    while not hopeless:
        at = math.inf
        act: Callable[[float], None] = plane.act
        # Of events at the same time the first in this order goes first.
        for worker, report in zip(workers, reports, strict=True):
            if worker.next_finish_at < at:
                at, act = worker.next_finish_at, worker.finish
            if worker.next_header_at < at:
                at, act = worker.next_header_at, worker.announce
            if worker.next_arrival_at < at:
                at, act = worker.next_arrival_at, worker.arrive
            if worker.wake_at < at:
                at, act = worker.wake_at, worker.pump
            if worker.report_at < at:
                at, act = worker.report_at, report
        if plane.next_at < at:
            at, act = plane.next_at, plane.act
        if at >= seconds and (at > horizon_s or all(worker.done for worker in workers)):
            break
        act(at)
        if plane.speed_changed:
            plane.speed_changed = False
            busy = sum(len(worker.batcher.running) for worker in workers)
            for worker in workers:
                worker.advance(at)
                worker.respeed(busy)
        hopeless = any(tally.hopeless for tally in tallies)
    plane.close(seconds)
    return hopeless
