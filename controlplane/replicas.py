"""How many workers a service should have: vertical first, horizontal second.

The planner answers that: what would miss its deadline with more workers, or with fewer, each of which gets what CPU it
may have. A worker more is worth having while that saves more than a small share of the requests, and no use of CPU is
looked at.
"""

from dataclasses import dataclass, replace

from controlplane import config
from controlplane.demand import DemandEstimate, divided
from controlplane.operation import ServiceState
from controlplane.whatif import Host, Outlook, foresee


@dataclass(frozen=True, slots=True)
class Crew:
    """The workers of one service that are planned, at least one.

    `caps` are the millicores that each can have at most, by its ceiling or because its node gives no more; `host` is
    what all of them can have together.
    """

    workers: tuple[ServiceState, ...]
    caps: tuple[int, ...]
    host: Host
    settings: config.Planner

    def outlook(self, count: int, factor: float = 1.0) -> Outlook:
        """How `count` workers would fare with `factor` times the demand, and the reserve.

        Of fewer, those stay that can have least, and of equals the slowest; others come as they would be on a node with
        enough room and nobody beside them.
        """
        staying = sorted(
            zip(self.caps, self.workers, strict=True), key=lambda each: (each[0], -each[1].wider)
        )[:count]
        told = self.workers[0]
        new = replace(
            told,
            slower=1.0,
            wider=1.0,
            request_overhead_s=min(worker.request_overhead_s for worker in self.workers),
            memory_peak_bytes=min(worker.memory_peak_bytes for worker in self.workers),
        )
        coming = [(told.limits.max_millicores, new)] * (count - len(staying))
        planned = factor * (1 + told.reserve)
        demand = divided([worker.demand for worker in self.workers], count, planned)
        workers = [_capped(worker, demand=demand, millicores=cap) for cap, worker in (*staying, *coming)]
        return foresee(workers, self.host, self.settings)


def missing(outlook: Outlook) -> float:
    """The share of requests of equal workers that would be late or not served.

    What exceeds the throughput counts twice: far beyond it the planner has all of them late, however many workers there
    are, while a worker that gives up some serves the others.
    """
    each = [prospect.miss_share + _excess(prospect.utilisation) for prospect in outlook.prospects]
    return sum(each) / len(each)


def _excess(utilisation: float) -> float:
    """The share of the demand that is beyond the throughput."""
    return max(0.0, 1 - 1 / utilisation) if utilisation > 0 else 0.0


def _capped(told: ServiceState, *, demand: DemandEstimate, millicores: int) -> ServiceState:
    """The same worker with nothing waiting and such demand, where no more than so much is to be had."""
    limits = told.limits
    most = min(limits.max_millicores, millicores)
    limits = replace(limits, max_millicores=most, min_millicores=min(limits.min_millicores, most))
    return replace(
        told, limits=limits, demand=demand, reserve=0.0, queue=(), running=(), current=None, cores_used=0.0
    )


def wish(crew: Crew, count: int, least: int, most: int, settings: config.Replicas) -> int:
    """How many there should be instead of `count`, those that start among them: no more than twice, or one less.

    Within `least` and `most`, or the same.
    """
    return _more(crew, count, least, most, settings) or _fewer(crew, count, least, most, settings) or count


def _more(crew: Crew, count: int, least: int, most: int, settings: config.Replicas) -> int | None:
    """As many as save something, None if no more do."""
    worth, largest = settings.miss_share, min(most, max(2 * count, least))
    if largest <= count:
        return None
    outlook = crew.outlook(count)
    # Where it is the host that has no more, several would only share the same.
    if outlook.host_full or missing(outlook) <= worth:
        return None
    best = missing(crew.outlook(largest))
    if missing(outlook) - best <= worth:
        return None
    between = range(max(count + 1, least), largest)
    return next((more for more in between if missing(crew.outlook(more)) - best <= worth), largest)


def _fewer(crew: Crew, count: int, least: int, most: int, settings: config.Replicas) -> int | None:
    """One less, None if that one saves something."""
    if not least < count <= most + 1:
        return None
    margin = settings.shrink_margin
    saved = missing(crew.outlook(count - 1, margin)) - missing(crew.outlook(count, margin))
    return count - 1 if saved <= settings.miss_share else None


class Replicas:
    """The number of replicas of one service: a wish is granted when it has lasted.

    It is never fought for: whoever else changes the number is given way for as long as a shrink takes.
    """

    def __init__(self, settings: config.Replicas) -> None:
        self._settings = settings
        self._count: int | None = None  # as last found or asked for
        self._modest: int | None = None  # of what has been wished for since, all of it more or all of it less
        self._since = 0.0
        self._give_way_until = 0.0

    def found(self, count: int, now: float) -> bool:
        """So many are asked for at present; whether somebody else has changed that."""
        by_others = self._count is not None and count != self._count
        if by_others:
            self._modest = None
            self._give_way_until = now + self._settings.shrink_hold_s
        self._count = count
        return by_others

    def decide(self, wished: int, now: float) -> int | None:
        """How many to ask for instead, None to leave it; call `asked` when that was done."""
        count = self._count
        if count is None or wished == count:
            self._modest = None
            return None
        growing = wished > count
        if self._modest is None or growing != (self._modest > count):
            self._modest, self._since = wished, now
        self._modest = min(self._modest, wished) if growing else max(self._modest, wished)
        hold_s = self._settings.grow_hold_s if growing else self._settings.shrink_hold_s
        if now < self._give_way_until or now - self._since < hold_s:
            return None
        return self._modest

    def asked(self, count: int) -> None:
        """So many were asked for."""
        self._count, self._modest = count, None

    def nothing_known(self) -> None:
        """No worker is planned: what was wished for before counts no more."""
        self._modest = None
