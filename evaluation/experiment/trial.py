"""The cases of a simulated experiment, and what became of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.simulation.description import Description
from evaluation.simulation.score import Score
from evaluation.simulation.series import Series


@dataclass(frozen=True, slots=True)
class Case:
    """One scenario; `labels` says by axis which."""

    labels: Mapping[str, str]
    description: Description

    @property
    def name(self) -> str:
        return " · ".join(self.labels.values()) or "all"

    def within(self, where: Mapping[str, Sequence[str]]) -> bool:
        """Whether its label is among those given, of each axis that is given."""
        return all(self.labels[axis] in labels for axis, labels in where.items())


@dataclass(frozen=True, slots=True)
class Trial:
    """One case with what each policy made of it; `series`, of each service, where they were asked for."""

    case: Case
    scores: Mapping[str, Score]
    series: Mapping[str, tuple[Series, ...]] = field(default_factory=dict)
