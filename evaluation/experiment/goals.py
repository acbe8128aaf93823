"""What a simulated experiment promises, as bounds on numbers of its scores, and whether they hold. Pure."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from core.config import Section
from evaluation.experiment.finding import Goal
from evaluation.experiment.quantity import QUANTITIES
from evaluation.experiment.trial import Trial
from evaluation.simulation.contest import OURS


class Check(Section, frozen=True, kw_only=True):
    """A bound on `quantity` of `policy`, or on its ratio to that of the policy `to`.

    `over`: `each` is for every case, and tells of the worst, `median` for that of them, `total` for the sums over them.
    """

    quantity: str
    policy: str = OURS
    to: str = ""
    over: Literal["each", "median", "total"] = "each"
    at_most: float = math.inf
    at_least: float = -math.inf
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value is within the bounds."""
        return self.at_least <= value <= self.at_most and (self.below is None or value < self.below)


class GoalDescription(Section, frozen=True, kw_only=True):
    """A promise: all of `all`, or all in one of `either`.

    `where` takes by axis the labels of the cases that it is about, `when` those in which a check holds. With
    `each` an axis, it is one promise for every label of that.
    """

    goal: str
    all: tuple[Check, ...] = ()
    either: tuple[tuple[Check, ...], ...] = ()
    where: Mapping[str, tuple[str, ...]] = {}
    when: Check | None = None
    each: str = ""

    @property
    def checks(self) -> tuple[Check, ...]:
        """All that it names, to see whether they can be made."""
        return (
            *self.all,
            *(check for part in self.either for check in part),
            *((self.when,) if self.when else ()),
        )


@dataclass(frozen=True, slots=True)
class _Found:
    text: str
    met: bool | None


def judge(described: GoalDescription, trials: Sequence[Trial]) -> list[Goal]:
    """Compare with what was found: one goal, or with `each` one for every label of that axis."""
    about = [trial for trial in trials if trial.case.within(described.where)]
    if not described.each:
        return [_judge(described, described.goal, about)]
    labels = dict.fromkeys(trial.case.labels[described.each] for trial in about)
    return [
        _judge(
            described,
            f"{label}: {described.goal}",
            [t for t in about if t.case.labels[described.each] == label],
        )
        for label in labels
    ]


def _judge(described: GoalDescription, goal: str, trials: Sequence[Trial]) -> Goal:
    when = described.when
    if when is not None:
        trials = [trial for trial in trials if when.holds(_value(when, trial))]
    if not trials:
        return Goal(goal=goal, measured="in no case", met=None)
    found = [_all(part, trials) for part in described.either or (described.all,)]
    return Goal(
        goal=goal,
        measured="; or ".join(part.text for part in found),
        met=_told(any, found),
    )


def _all(checks: Sequence[Check], trials: Sequence[Trial]) -> _Found:
    found = [_check(check, trials) for check in checks]
    return _Found(", ".join(one.text for one in found), _told(all, found))


def _told(holds: Callable[[list[bool]], bool], found: Sequence[_Found]) -> bool | None:
    tried = [one.met for one in found if one.met is not None]
    return holds(tried) if tried else None


def _check(check: Check, trials: Sequence[Trial]) -> _Found:
    if check.over == "total":
        value = _total(check, trials)
        return _Found(f"{_written(check, value)} in total", check.holds(value))
    values = [(value, trial.case.name) for trial in trials if not math.isnan(value := _value(check, trial))]
    if not values:
        return _Found(f"no {check.quantity}", met=None)
    if check.over == "median":
        value = statistics.median(value for value, _ in values)
        return _Found(f"{_written(check, value)} in the median", check.holds(value))
    value, case = min(values) if check.at_least > -math.inf else max(values)
    held = sum(check.holds(value) for value, _ in values)
    place = f" at worst, in {case}; so in {held} of {len(values)} cases" if len(values) > 1 else ""
    return _Found(f"{_written(check, value)}{place}", held == len(values))


def _value(check: Check, trial: Trial) -> float:
    of = QUANTITIES[check.quantity].of
    value = of(trial.scores[check.policy])
    return ratio(value, of(trial.scores[check.to])) if check.to else value


def _total(check: Check, trials: Sequence[Trial]) -> float:
    of = QUANTITIES[check.quantity].of
    value = sum(of(trial.scores[check.policy]) for trial in trials)
    return ratio(value, sum(of(trial.scores[check.to]) for trial in trials)) if check.to else value


def ratio(value: float, to: float) -> float:
    """0 of 0 is as much; anything of 0 is infinitely more."""
    if to == 0:
        return 1.0 if value == 0 else math.inf
    return value / to


def _written(check: Check, value: float) -> str:
    if not check.to:
        return QUANTITIES[check.quantity].written(value)
    times = "∞" if math.isinf(value) else f"{value:.2f}"
    return f"{times} × the {check.quantity} of {check.to}"
