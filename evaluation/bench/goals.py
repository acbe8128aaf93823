"""What real runs promise, and whether they keep it. Pure."""

from collections.abc import Sequence

from evaluation.bench.policy import SPONGE, STATIC_MAX, Policy
from evaluation.bench.record import Bench
from evaluation.bench.score import Standing, too_busy
from evaluation.experiment.finding import Goal
from evaluation.table import BUSY_SHARE

_LESS_THAN_MAX, _LESS_THAN_STATIC = 0.40, 0.15
_MOST_AVOIDABLE = 0.003
_LEAST_REQUESTS = 6000


def goals(bench: Bench, standings: Sequence[Standing]) -> list[Goal]:
    """Give the goals that can be judged: those against policies that ran.

    None is judged where the host was too busy for a claim.
    """
    whole = {standing.policy: standing for standing in standings if not standing.service}
    if SPONGE not in whole:
        return []
    ours = whole[SPONGE]
    found = []
    if STATIC_MAX in whole:
        found.append(_saved(ours, whole[STATIC_MAX], _LESS_THAN_MAX, "the best fixed split of the host", ""))
        found.append(_against_smallest(ours, [s for s in whole.values() if Policy(s.policy).fixed]))
    found.append(_avoidable([s for s in standings if s.policy == SPONGE and s.service]))
    found.append(_enough([s for s in standings if s.service]))
    busy = too_busy(bench, BUSY_SHARE)
    if not busy:
        return found
    return [
        Goal(goal=goal.goal, measured=f"no claim, the host was too busy: {goal.measured}", met=None)
        for goal in found
    ]


def smallest_equal(ours: Standing, fixed: Sequence[Standing]) -> Standing | None:
    """The fixed split with the least CPU that misses no more than we do; None if all that ran miss more."""
    equal = [split for split in fixed if split.counts.avoidable <= ours.counts.avoidable]
    return min(equal, key=lambda split: split.reserved.middle, default=None)


def _against_smallest(ours: Standing, fixed: Sequence[Standing]) -> Goal:
    found = smallest_equal(ours, fixed)
    if found is not None:
        note = f" ({found.policy}, {found.counts.avoidable} avoidable misses to our {ours.counts.avoidable})"
        return _saved(ours, found, _LESS_THAN_STATIC, "the smallest static with equal misses", note)
    # One with as few would be larger than any of these.
    largest = max(fixed, key=lambda split: split.reserved.middle)
    note = f" ({largest.policy}, the largest; all of them miss more than our {ours.counts.avoidable})"
    return _saved(ours, largest, _LESS_THAN_STATIC, "the smallest static with equal misses", note)


def _saved(ours: Standing, theirs: Standing, least: float, whom: str, note: str) -> Goal:
    saved = 1 - ours.reserved.by(theirs.reserved)
    return Goal(
        goal=f"≥ {least:.0%} fewer core-seconds reserved than {whom}",
        measured=f"{abs(saved):.1%} {'fewer' if saved >= 0 else 'more'}{note}",
        met=saved >= least,
    )


def _avoidable(services: Sequence[Standing]) -> Goal:
    worst = max(services, key=lambda standing: standing.counts.avoidable_share)
    counts = worst.counts
    return Goal(
        goal=f"≤ {_MOST_AVOIDABLE:.1%} avoidable misses",
        measured=f"{counts.avoidable_share:.2%} at most ({worst.service}: {counts.avoidable} of {counts.requests})",
        met=counts.avoidable_share <= _MOST_AVOIDABLE,
    )


def _enough(services: Sequence[Standing]) -> Goal:
    least = min(services, key=lambda standing: standing.counts.requests)
    return Goal(
        goal=f"≥ {_LEAST_REQUESTS:,} requests per service and policy",
        measured=f"{least.counts.requests:,} at least ({least.service}, {least.policy})",
        met=least.counts.requests >= _LEAST_REQUESTS,
    )
