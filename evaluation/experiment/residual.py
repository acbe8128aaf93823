"""One model under quotas: measured in turns, and predicted from what it takes without one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.cell import SAMPLES
from controlplane.latency import UPPER, LatencyModel
from controlplane.stretch import walls_of
from evaluation.profiling import dominated
from evaluation.slices import PERIOD_US, Runs, Setting, Slice


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each setting is run: for so many executions of each instance, within seconds."""

    rounds: int
    executions: int
    least_s: float
    most_s: float

    def seconds(self, expected_s: float) -> float:
        """Of each round, for executions that are expected to take so long."""
        return min(max(self.executions * expected_s, self.least_s), self.most_s) / self.rounds


@dataclass(frozen=True, slots=True)
class Residual:
    """One setting under a quota; seconds. Errors are shares of what was observed, above zero where that was shorter."""

    setting: Setting
    count: int
    throttled_share: float  # of the quota's periods
    mean_s: float
    upper_s: float
    predicted_mean_s: float
    predicted_upper_s: float

    @property
    def planned(self) -> bool:
        """Whether the planner could choose it."""
        return not dominated(self.setting.threads * self.setting.instances, self.setting.millicores)

    @property
    def mean_error(self) -> float:
        return self.predicted_mean_s / self.mean_s - 1

    @property
    def upper_error(self) -> float:
        return self.predicted_upper_s / self.upper_s - 1


Observed = Mapping[Setting, Sequence[Slice]]


def measure(
    runs: Runs,
    settings: Sequence[Setting],
    patience: Patience,
    random: np.random.Generator,
    progress: Callable[[int, int], None],
) -> dict[Setting, list[Slice]]:
    """Run all settings in every round, each round in another order, executions without pauses between.

    Raises EngineError, CgroupError.
    """
    alone = {
        (setting.rows, setting.threads): float(np.mean(runs.run(setting, 0.0, 0.0).walls_s))
        for setting in settings
        if setting.instances == 1 and not setting.millicores
    }
    observed: dict[Setting, list[Slice]] = {setting: [] for setting in settings}
    for number in range(patience.rounds):
        for position, index in enumerate(random.permutation(len(settings))):
            setting = settings[index]
            progress(number * len(settings) + position, patience.rounds * len(settings))
            runnable = 1000 * setting.threads * setting.instances
            stretch = max(1.0, runnable / setting.millicores) if setting.millicores else 1.0
            seconds = patience.seconds(alone[setting.rows, setting.threads] * stretch)
            observed[setting].append(runs.run(setting, seconds, 0.0))
    return observed


def learned(observed: Observed, cores: int) -> LatencyModel:
    """What the control plane would believe after the settings without a quota, of those that have a core a thread.

    It remembers so many executions of a size; an eighth of them are beside others, evenly of all rounds.
    """
    model = LatencyModel()
    for setting, parts in observed.items():
        if setting.millicores or setting.threads * setting.instances > cores:
            continue
        walls_s = np.concatenate([part.walls_s for part in parts])
        most = SAMPLES * 7 // 8 if setting.instances == 1 else SAMPLES // 8
        picked = np.linspace(0, len(walls_s) - 1, min(most, len(walls_s))).astype(int)
        for wall_s in walls_s[picked].tolist():
            model.record(setting.rows, setting.threads, wall_s, float(setting.instances), 0.0)
    return model


def residuals(model: LatencyModel, observed: Observed) -> list[Residual]:
    """Predict the settings under quotas as the planner does."""
    return [_residual(model, setting, parts) for setting, parts in observed.items() if setting.millicores]


def _residual(model: LatencyModel, setting: Setting, parts: Sequence[Slice]) -> Residual:
    observed = np.concatenate([part.walls_s for part in parts])
    mean_s, upper_s = walls_of(
        model, setting.rows, setting.millicores, setting.instances, setting.threads, PERIOD_US / 1e6
    )
    return Residual(
        setting=setting,
        count=len(observed),
        throttled_share=sum(p.throttled_periods for p in parts) / max(1, sum(p.periods for p in parts)),
        mean_s=float(observed.mean()),
        upper_s=float(np.quantile(observed, UPPER, method="higher")),
        predicted_mean_s=float(mean_s[-1]),
        predicted_upper_s=float(upper_s[-1]),
    )
