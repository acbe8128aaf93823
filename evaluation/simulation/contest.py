"""Policies by name over one scenario."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from controlplane.config import Config
from evaluation.simulation import run as simulation
from evaluation.simulation.flags import POLICIES
from evaluation.simulation.policies import Policy, static
from evaluation.simulation.policies.bound import bound
from evaluation.simulation.policies.fa2 import Fa2
from evaluation.simulation.policies.paper import Paper, PaperInstances
from evaluation.simulation.policies.sponge import Sponge
from evaluation.simulation.policies.usage import Usage, UsageInstances
from evaluation.simulation.run import Run
from evaluation.simulation.scenario import Scenario

OURS, STATIC_BEST, BOUND = "sponge", "static-best", "bound"

_STATIC = r"static:([1-9]\d*)"
_USAGE = r"(usage|usage-nt):([1-9]\d?)"


class PolicyError(ValueError):
    """A policy that there is not; the text is one line."""


def check(name: str) -> None:
    """Raises PolicyError for a name that is none."""
    if name not in (BOUND, STATIC_BEST) and not re.fullmatch(_STATIC, name):
        policy(name)


def play(scenario: Scenario, name: str, control: Config | None = None, missed: int | None = None) -> Run:
    """Run the policy of that name; ours with the settings `control`.

    `missed` are the avoidable misses that the best static may have: ours, which is run for them if they are not
    given. Raises PolicyError.
    """
    if name == BOUND:
        return Run(bound(scenario, name), hopeless=False, tallies=())
    if name == STATIC_BEST:
        if missed is None:
            missed = simulation.run(scenario, Sponge(control), OURS, control=control).score.avoidable_missed
        return _searched(partial(static.smallest, scenario, missed, name))
    if match := re.fullmatch(_STATIC, name):
        return _searched(partial(static.best, scenario, int(match[1]), name))
    return simulation.run(scenario, policy(name, control), name, control=control)


def policy(name: str, control: Config | None = None) -> Policy:
    """Give the policy of that name, of those that decide while they run. Raises PolicyError."""
    match name:
        case "sponge":
            return Sponge(control)
        case "paper":
            return Paper()
        case "paper-hold":
            return Paper(hold=True)
        case "paper-nt":
            return PaperInstances()
        case "fa2":
            return Fa2()
        case "usage":
            return Usage()
        case "usage-nt":
            return UsageInstances()
    if found := re.fullmatch(_USAGE, name):
        target = int(found[2]) / 100
        return Usage(target) if found[1] == "usage" else UsageInstances(target)
    raise PolicyError(f"policy: expected one of {POLICIES}; got {name!r}")


def _searched(search: Callable[[], Run]) -> Run:
    """Charge a policy that is searched for with its search."""
    began = time.perf_counter()
    found = search()
    return replace(found, score=replace(found.score, sim_wall_s=time.perf_counter() - began))
