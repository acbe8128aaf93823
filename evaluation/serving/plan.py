"""What is compared with what, for how long, and what is promised of it."""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evaluation.serving.pairs import Pair
from evaluation.serving.peers import LITSERVE, MLSERVER, MLSERVER_BATCHING, PYTRITON, RAY_SERVE
from evaluation.serving.recipes import BARE, ECHO, ECHO_MODEL, ECHO_UVLOOP
from evaluation.serving.sample import Closed, Load, Open
from evaluation.serving.subjects import BULK, MINILM, MLP, RESNET50

_GOAL_PAIRS, _OTHER_PAIRS = 12, 3
_PEERS = (MLSERVER, PYTRITON, LITSERVE, RAY_SERVE)
_BATCHING_PEERS = (MLSERVER, MLSERVER_BATCHING, PYTRITON, LITSERVE, RAY_SERVE)
_BATCHES = (1, 2, 4, 8, 16, 32)
_OPEN = Open(rate=600, deadline_ms=50)
_RESNET50, _MINILM = Closed(4), Closed(64)  # always a request waiting; always a batch of 32


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sponge beside one other server. The bare loop runs batches instead, of that of `batches` that it is best at."""

    subject: str
    load: Load
    rival: str
    pairs: int
    seconds: float  # of each of the two
    batches: Sequence[int] = ()


class Quantity(enum.Enum):
    """What a pair tells; the value is how a goal writes it, with a place for the rival's name."""

    THROUGHPUT = "requests/s over {rival}"
    GOODPUT = "goodput"
    GOODPUT_ADDED = "goodput less that of {rival}"
    CPU_ADDED = "CPU per request beyond {rival}"
    P50_ADDED = "p50 beyond {rival}"

    def of(self, pair: Pair) -> float:
        """In milliseconds, or as a share."""
        match self:
            case Quantity.THROUGHPUT:
                return pair.throughput
            case Quantity.GOODPUT:
                return pair.ours.goodput
            case Quantity.GOODPUT_ADDED:
                return pair.goodput_added
            case Quantity.CPU_ADDED:
                return pair.cpu_ms_added
            case Quantity.P50_ADDED:
                return pair.p50_ms_added

    @property
    def unit(self) -> str:
        """As goals write it, with the blank before it."""
        return (
            " ms"
            if self in (Quantity.CPU_ADDED, Quantity.P50_ADDED)
            else " ×"
            if self is Quantity.THROUGHPUT
            else ""
        )


@dataclass(frozen=True, slots=True)
class Promise:
    """A bound on the median of a quantity over pairs with `rival`; None: with all, for what is Sponge's alone."""

    subject: str
    load: Load
    rival: str | None
    quantity: Quantity
    at_least: float = -math.inf
    at_most: float = math.inf


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    comparisons: Sequence[Comparison]
    promises: Sequence[Promise]
    least_pairs: int  # with less nothing is said of a promise
    lead_s: float  # under load before every measurement, not counted
    warm_s: float  # of every server when it has started


def full() -> Plan:
    """All that the goals need, in about twenty minutes."""
    comparisons = [
        Comparison(RESNET50, _RESNET50, BARE, _GOAL_PAIRS, 3.0, (1,)),
        *(Comparison(RESNET50, _RESNET50, rival, _OTHER_PAIRS, 2.0) for rival in (ECHO_MODEL, *_PEERS)),
        Comparison(MINILM, _MINILM, BARE, _GOAL_PAIRS, 3.0, _BATCHES),
        *(Comparison(MINILM, _MINILM, rival, _OTHER_PAIRS, 2.0) for rival in (ECHO_MODEL, *_PEERS)),
        *(
            Comparison(MLP, Closed(concurrency), rival, _GOAL_PAIRS, 1.0)
            for concurrency in (1, 8, 32)
            for rival in (ECHO_MODEL, MLSERVER, PYTRITON)
        ),
        *(
            Comparison(MLP, Closed(concurrency), MLSERVER_BATCHING, _GOAL_PAIRS, 1.0)
            for concurrency in (8, 32)
        ),
        *(
            Comparison(MLP, Closed(concurrency), rival, _OTHER_PAIRS, 1.0)
            for concurrency in (1, 8, 32)
            for rival in (ECHO, ECHO_UVLOOP, LITSERVE, RAY_SERVE)
        ),
        Comparison(MLP, Closed(1), BARE, _OTHER_PAIRS, 1.0, (1,)),
        Comparison(MLP, Closed(32), BARE, _OTHER_PAIRS, 1.0, (32,)),
        *(Comparison(MLP, _OPEN, rival, _GOAL_PAIRS, 1.5) for rival in _BATCHING_PEERS),
        Comparison(MLP, _OPEN, ECHO_MODEL, _OTHER_PAIRS, 1.5),
        Comparison(BULK, Closed(1), ECHO_MODEL, _GOAL_PAIRS, 1.0),
        *(Comparison(BULK, Closed(1), rival, _OTHER_PAIRS, 1.0) for rival in (ECHO, *_PEERS)),
    ]
    return Plan(comparisons, _promises(), _GOAL_PAIRS, lead_s=0.3, warm_s=1.0)


def quick() -> Plan:
    """Whether it all works, in seconds: no peers, and numbers that say nothing."""
    comparisons = (
        Comparison(MLP, Closed(1), BARE, 2, 0.2, (1, 4)),
        Comparison(MLP, Closed(2), ECHO, 2, 0.2),
        Comparison(MLP, Closed(2), ECHO_MODEL, 2, 0.2),
        Comparison(MLP, Open(rate=50, deadline_ms=500), ECHO_MODEL, 2, 0.2),
    )
    promises = (Promise(MLP, Closed(2), ECHO_MODEL, Quantity.THROUGHPUT, at_least=0.75),)
    return Plan(comparisons, promises, least_pairs=2, lead_s=0.1, warm_s=0.1)


def only(
    plan: Plan, subjects: Sequence[str], peers: Sequence[str], pairs: int | None, seconds: float | None
) -> Plan:
    """Leave out other models and peers; other numbers of pairs at most and seconds unless None."""
    wanted = {BARE, ECHO, ECHO_MODEL, ECHO_UVLOOP, *peers}
    return replace(
        plan,
        comparisons=[
            replace(one, pairs=min(one.pairs, pairs or one.pairs), seconds=seconds or one.seconds)
            for one in plan.comparisons
            if one.subject in subjects and one.rival in wanted
        ],
    )


def _promises() -> tuple[Promise, ...]:
    def throughput(subject: str, load: Load, rival: str, least: float) -> Promise:
        return Promise(subject, load, rival, Quantity.THROUGHPUT, at_least=least)

    one, eight, many = Closed(1), Closed(8), Closed(32)
    return (
        throughput(RESNET50, _RESNET50, BARE, 0.95),
        throughput(MINILM, _MINILM, BARE, 0.90),
        throughput(MLP, one, MLSERVER, 2.0),
        *(
            throughput(MLP, load, peer, 1.5)
            for load in (eight, many)
            for peer in (MLSERVER, MLSERVER_BATCHING)
        ),
        *(throughput(MLP, load, PYTRITON, least) for load, least in ((one, 2.0), (eight, 1.2), (many, 1.0))),
        *(
            throughput(MLP, load, ECHO_MODEL, least)
            for load, least in ((one, 0.75), (eight, 1.0), (many, 1.0))
        ),
        Promise(MLP, _OPEN, None, Quantity.GOODPUT, at_least=0.95),
        *(Promise(MLP, _OPEN, peer, Quantity.GOODPUT_ADDED, at_least=0.0) for peer in _BATCHING_PEERS),
        Promise(MLP, one, ECHO_MODEL, Quantity.CPU_ADDED, at_most=0.5),
        Promise(BULK, one, ECHO_MODEL, Quantity.CPU_ADDED, at_most=1.0),
        Promise(MLP, one, ECHO_MODEL, Quantity.P50_ADDED, at_most=0.3),
    )
