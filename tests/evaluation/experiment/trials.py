"""Trials by hand: only the numbers that a test is about."""

from dataclasses import replace

from evaluation.experiment.trial import Case, Trial
from evaluation.simulation.description import Description
from evaluation.simulation.score import Score

_NOTHING = Score("", 1000, 0, 0, 0, 1000, 0, 0, 0, 1.0, 100.0, 0, 0.0)


def score(policy, **kw):
    """1000 requests, none dead, tight or missed, one core for 100 s."""
    return replace(_NOTHING, policy=policy, **kw)


def trial(scores, **labels):
    """`scores` by policy: mean cores and avoidable misses."""
    found = {
        name: score(name, mean_cores=cores, core_seconds=100 * cores, avoidable_missed=missed)
        for name, (cores, missed) in scores.items()
    }
    return Trial(Case(labels, Description()), found)
