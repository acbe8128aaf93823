"""Statistics over rounds in which every setting had its turn: medians, ranges, ratios from which drift cancels."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evaluation.experiment.throttled import Observation, Setting

# By setting, one observation a round; the rounds of all settings took turns.
Rounds = Mapping[Setting, Sequence[Observation]]
Statistic = Callable[[Observation], float]


def mean_ms(observation: Observation) -> float:
    """Mean service time."""
    return float(np.mean(observation.service_ms))


def cpu_ms(observation: Observation) -> float:
    """CPU of an execution."""
    return observation.cpu_ms


def service_ms(percentile: float) -> Statistic:
    """A percentile of the service time."""
    return lambda observation: float(np.percentile(observation.service_ms, percentile))


def health_ms(percentile: float) -> Statistic:
    """A percentile of a health check's time; infinite where none was answered."""
    return lambda observation: (
        float(np.percentile(observation.health_ms, percentile)) if observation.health_ms else float("inf")
    )


def median(observations: Sequence[Observation], statistic: Statistic) -> float:
    """Of the rounds."""
    return float(np.median([statistic(observation) for observation in observations]))


def spread(observations: Sequence[Observation], statistic: Statistic) -> tuple[float, float]:
    """Least and most of the rounds."""
    values = [statistic(observation) for observation in observations]
    return min(values), max(values)


def ratio(rounds: Rounds, setting: Setting, reference_ms: int, statistic: Statistic) -> float:
    """Median over rounds of `setting` over the same quota with the reference period: in one round, drift cancels."""
    reference = rounds[Setting(setting.quota_millicores, reference_ms)]
    pairs = zip(rounds[setting], reference, strict=True)
    return float(np.median([statistic(ours) / statistic(theirs) for ours, theirs in pairs]))
