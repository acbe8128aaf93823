"""What a policy did with the requests, by the class of their budgets, and what that cost."""

import dataclasses
import enum
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataplane.request import Outcome
from evaluation.rows import TIGHT_FACTOR
from evaluation.simulation.scenario import Service


class Class(enum.IntEnum):
    """How much time a request has left on arrival."""

    DEAD = 0  # less than the fastest execution at the largest allocation
    TIGHT = 1  # less than 1.5 × the cheapest execution of one row
    REST = 2


class End(enum.IntEnum):
    """What became of a request."""

    NONE = 0  # nothing yet
    ON_TIME = 1
    LATE = 2
    REFUSED = 3  # or given up in any other way


class Tally:
    """Notes how the requests of one service end, while they do; `limit` ends a run that is lost anyway.

    `classes` and `ends` hold a `Class` and an `End` for each request, in the order of `service.offered`.
    """

    def __init__(self, service: Service, limit: int | None = None) -> None:
        dead_s = service.truth.fastest_s
        tight_s = max(dead_s, TIGHT_FACTOR * service.truth.cheapest_row_s)
        offered = service.offered
        budget_s = np.array(offered.deadline_s) - np.array(offered.arrived_s)
        self.service = service
        self.classes = np.searchsorted([dead_s, tight_s], budget_s, side="right").astype(np.uint8).tobytes()
        self.ends = bytearray(len(offered))
        self.avoidable_missed = 0  # late and refused among the requests that had time enough
        self.hopeless = False
        self._limit = math.inf if limit is None else limit

    def end(self, index: int, outcome: Outcome) -> None:
        """The request at `index` has ended."""
        if outcome is Outcome.ON_TIME:
            self.ends[index] = End.ON_TIME
            return
        self.ends[index] = End.LATE if outcome is Outcome.LATE else End.REFUSED
        if self.classes[index] == Class.REST:
            self.avoidable_missed += 1
            self.hopeless = self.avoidable_missed > self._limit

    def count(self, end: End) -> list[int]:
        """How many ended so, by class."""
        classes = np.frombuffer(self.classes, np.uint8)
        ends = np.frombuffer(self.ends, np.uint8)
        counts: list[int] = np.bincount(classes[ends == end], minlength=len(Class)).tolist()
        return counts


@dataclass(frozen=True, slots=True)
class Score:
    """One policy over one scenario.

    requests = dead_on_arrival + on_time + late + refused; what became of the dead is nobody's merit or fault.
    `mean_cores` and `core_seconds` are what was reserved. `sim_wall_s` is what the simulation took, of a policy
    that is searched for with the search.
    """

    policy: str
    requests: int
    dead_on_arrival: int
    tight: int
    tight_on_time: int
    on_time: int
    late: int
    refused: int
    avoidable_missed: int
    mean_cores: float
    core_seconds: float
    resizes: int
    sim_wall_s: float

    def json(self) -> str:
        """One line."""
        return json.dumps(
            {
                name: round(value, 4) if isinstance(value, float) else value
                for name, value in dataclasses.asdict(self).items()
            }
        )


def score(
    policy: str,
    tallies: Sequence[Tally],
    core_seconds: float,
    seconds: float,
    resizes: int,
    sim_wall_s: float,
) -> Score:
    """Add up the services of a host."""

    def total(end: End) -> list[int]:
        return [sum(counts) for counts in zip(*(tally.count(end) for tally in tallies), strict=True)]

    on_time = total(End.ON_TIME)
    return Score(
        policy=policy,
        requests=sum(len(tally.classes) for tally in tallies),
        dead_on_arrival=sum(tally.classes.count(Class.DEAD) for tally in tallies),
        tight=sum(tally.classes.count(Class.TIGHT) for tally in tallies),
        tight_on_time=on_time[Class.TIGHT],
        on_time=sum(on_time[Class.TIGHT :]),
        late=sum(total(End.LATE)[Class.TIGHT :]),
        refused=sum(total(End.REFUSED)[Class.TIGHT :]),
        avoidable_missed=sum(tally.avoidable_missed for tally in tallies),
        mean_cores=core_seconds / seconds,
        core_seconds=core_seconds,
        resizes=resizes,
        sim_wall_s=sim_wall_s,
    )


def table(scores: Sequence[Score]) -> str:
    """The scores for people."""
    lines = [
        f"{'policy':<14}{'requests':>9}{'dead':>6}{'tight':>13}{'on time':>9}{'late':>7}{'refused':>9}"
        f"{'avoidable':>11}{'cores':>8}{'core-s/on time':>16}{'resizes':>9}{'wall s':>8}"
    ]
    for s in scores:
        tight = f"{s.tight_on_time}/{s.tight}"
        cost = f"{s.core_seconds / s.on_time:.3f}" if s.on_time else "-"
        lines.append(
            f"{s.policy:<14}{s.requests:>9}{s.dead_on_arrival:>6}{tight:>13}{s.on_time:>9}{s.late:>7}"
            f"{s.refused:>9}{s.avoidable_missed:>11}{s.mean_cores:>8.2f}{cost:>16}{s.resizes:>9}"
            f"{s.sim_wall_s:>8.1f}"
        )
    return "\n".join(lines)
