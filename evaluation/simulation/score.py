"""What a policy did with the requests, by the class of their budgets, and what that cost."""

import dataclasses
import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass

from dataplane.request import Outcome
from evaluation.simulation.scenario import Service

TIGHT_FACTOR = 1.5  # of the cheapest execution of one row


class Class(enum.IntEnum):
    """How much time a request has left on arrival."""

    DEAD = 0  # less than the fastest execution at the largest allocation
    TIGHT = 1  # less than 1.5 × the cheapest execution of one row
    REST = 2


class Tally:
    """Counts the outcomes of one service while they happen, by class; `limit` ends a run that is lost anyway."""

    def __init__(self, service: Service, limit: int | None = None) -> None:
        dead_s = service.truth.fastest_s
        tight_s = max(dead_s, TIGHT_FACTOR * service.truth.cheapest_row_s)
        offered = service.offered
        self.classes = bytearray(
            Class.DEAD if budget < dead_s else Class.TIGHT if budget < tight_s else Class.REST
            for arrived, deadline in zip(offered.arrived_s, offered.deadline_s, strict=True)
            for budget in [deadline - arrived]
        )
        self.on_time = [0, 0, 0]
        self.late = [0, 0, 0]
        self.refused = [0, 0, 0]
        self._limit = limit
        self.hopeless = False

    def end(self, index: int, outcome: Outcome) -> None:
        """The request at `index` has ended."""
        kind = self.classes[index]
        if outcome is Outcome.ON_TIME:
            self.on_time[kind] += 1
            return
        if outcome is Outcome.LATE:
            self.late[kind] += 1
        else:
            self.refused[kind] += 1
        if self._limit is not None and self.avoidable_missed > self._limit:
            self.hopeless = True

    @property
    def avoidable_missed(self) -> int:
        """Late and refused among the requests that had time enough."""
        return self.late[Class.REST] + self.refused[Class.REST]


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

    def alive(counts: str) -> int:
        return sum(sum(getattr(tally, counts)[Class.TIGHT :]) for tally in tallies)

    return Score(
        policy=policy,
        requests=sum(len(tally.classes) for tally in tallies),
        dead_on_arrival=sum(tally.classes.count(Class.DEAD) for tally in tallies),
        tight=sum(tally.classes.count(Class.TIGHT) for tally in tallies),
        tight_on_time=sum(tally.on_time[Class.TIGHT] for tally in tallies),
        on_time=alive("on_time"),
        late=alive("late"),
        refused=alive("refused"),
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
