"""A simulated experiment as it is written down: cases along axes, and the policies that each of them is for."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from controlplane.config import Config
from core.config import ConfigError, Section, convert, load
from evaluation.experiment.figures import FIGURES
from evaluation.experiment.goals import GoalDescription
from evaluation.experiment.quantity import QUANTITIES
from evaluation.experiment.tables import TABLES
from evaluation.experiment.trial import Case
from evaluation.simulation import contest
from evaluation.simulation.contest import PolicyError
from evaluation.simulation.description import Description

Axis = dict[str, Any] | list[Any]


class Variant(Section, frozen=True, kw_only=True):
    """A policy under settings of its own, with a name of its own."""

    base: str = contest.OURS
    control: Config = msgspec.field(default_factory=Config)  # of ours; sections as in control.toml
    scenario: Mapping[str, Any] = {}  # keys of the scenario that are otherwise for this policy


class PlotDescription(Section, frozen=True, kw_only=True):
    """One picture: which of FIGURES, of which policies if not of all, and of which labels of an axis."""

    figure: str
    caption: str
    policies: tuple[str, ...] = ()
    where: Mapping[str, tuple[str, ...]] = {}


class Matrix(Section, frozen=True, kw_only=True):
    """A whole TOML of the kind `simulation`."""

    kind: Literal["simulation"]
    title: str
    question: str
    scenario: Description
    # By axis its values: a list, or a table of label and value. A value that is a table sets several keys.
    axes: Mapping[str, Axis] = {}
    policies: tuple[str, ...]
    policy: Mapping[str, Variant] = {}
    tables: tuple[str, ...] = ("scores",)
    goal: tuple[GoalDescription, ...] = ()
    plot: tuple[PlotDescription, ...] = ()
    notes: tuple[str, ...] = ()


def read(path: Path) -> Matrix:
    """Read and check the whole TOML. Raises ConfigError."""
    matrix = load(path, Matrix)
    for name in matrix.policies:
        try:
            contest.check(matrix.policy[name].base if name in matrix.policy else name)
        except PolicyError as error:
            raise ConfigError(f"{path}: policies: {error}; or a [policy.{name}]") from error
    if contest.STATIC_BEST in matrix.policies and contest.OURS not in matrix.policies:
        raise ConfigError(f"{path}: policies: expected {contest.OURS} beside {contest.STATIC_BEST}")
    for name, variant in matrix.policy.items():
        if variant.control.planner.interval_s != Config().planner.interval_s:
            raise ConfigError(
                f"{path}: policy.{name}.control.planner.interval_s: expected as scenario.interval_s"
            )
    checks = [check for goal in matrix.goal for check in goal.checks]
    named = [name for check in checks for name in (check.policy, check.to) if name]
    _known(path, "goal: policy", [*named, *(n for p in matrix.plot for n in p.policies)], matrix.policies)
    _known(path, "goal: quantity", (check.quantity for check in checks), QUANTITIES)
    _known(path, "goal: axis", (axis for goal in matrix.goal for axis in goal.where), matrix.axes)
    _known(path, "plot: axis", (axis for plot in matrix.plot for axis in plot.where), matrix.axes)
    _known(path, "goal: each", (goal.each for goal in matrix.goal if goal.each), matrix.axes)
    _known(path, "tables", matrix.tables, TABLES)
    _known(path, "plot: figure", (plot.figure for plot in matrix.plot), FIGURES)
    return matrix


def cases(matrix: Matrix, place: str, seconds: float | None = None) -> list[Case]:
    """Give every combination, the last axis fastest; `seconds` replaces what is written. Raises ConfigError."""
    choices = [[(axis, *choice) for choice in _choices(values)] for axis, values in matrix.axes.items()]
    found = []
    for combination in itertools.product(*choices):
        keys: dict[str, Any] = {}
        for axis, _, value in combination:
            keys |= value if isinstance(value, dict) else {axis: value}
        description = changed(matrix.scenario, keys, f"{place}: axes")
        if seconds is not None:
            description = description.cut(seconds)
        found.append(Case({axis: label for axis, label, _ in combination}, description))
    return found


def changed(description: Description, keys: Mapping[str, Any], place: str) -> Description:
    """Give the same with some keys changed. Raises ConfigError."""
    return convert({**msgspec.to_builtins(description), **keys}, Description, place)


def _choices(values: Axis) -> list[tuple[str, Any]]:
    return list(values.items()) if isinstance(values, dict) else [(str(value), value) for value in values]


def _known(path: Path, key: str, names: Iterable[str], known: Iterable[str]) -> None:
    expected = list(known)
    for name in names:
        if name not in expected:
            raise ConfigError(f"{path}: {key}: expected one of {', '.join(expected)}; got {name!r}")
