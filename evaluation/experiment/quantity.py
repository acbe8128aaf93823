"""Numbers of a score that goals and tables are about, by name. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from evaluation.simulation.score import Score


@dataclass(frozen=True, slots=True)
class Quantity:
    """How it is computed, and how it is written."""

    of: Callable[[Score], float]
    written: Callable[[float], str]


def _missed_share(score: Score) -> float:
    """Avoidable misses among the requests that had time enough; 0 where none had."""
    rest = score.requests - score.dead_on_arrival - score.tight
    return score.avoidable_missed / rest if rest else 0.0


def _tight_saved(score: Score) -> float:
    return score.tight_on_time / score.tight if score.tight else math.nan


def _cost(score: Score) -> float:
    return score.core_seconds / score.on_time if score.on_time else math.inf


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


QUANTITIES = {
    "cores": Quantity(lambda score: score.mean_cores, "{:.2f} cores".format),
    "misses": Quantity(lambda score: score.avoidable_missed, "{:.0f} misses".format),
    "missed-share": Quantity(_missed_share, _percent),
    "tight-saved": Quantity(_tight_saved, _percent),
    "core-seconds-per-on-time": Quantity(_cost, "{:.3f} core-seconds per request on time".format),
}
