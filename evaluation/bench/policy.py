"""Policies by name, and in which order they have their turns. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from controlplane.config import Explore, Governor
from evaluation.bench import control
from evaluation.bench.policies import governor
from evaluation.fleet import ControlSpec

NAMES = (
    "sponge, paper, paper-nt, usage or usage:PERCENT, static:MAX (the best fixed split of the host), "
    "static:PERCENT% of it, static:MILLICORES, or static:M1,M2 by service"
)
SPONGE, STATIC_MAX = "sponge", "static:MAX"

_STATIC = re.compile(r"static:(?:MAX|([1-9]\d?)%|([1-9]\d{2,5}(?:,[1-9]\d{2,5})*))")

T = TypeVar("T")


class PolicyError(ValueError):
    """A policy that there is not; the text is one line."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to decide; `fixed` says whether it never does after the start."""

    name: str

    @property
    def fixed(self) -> bool:
        return self.name.startswith("static:")

    def millicores(self, host: int, services: int) -> list[int] | int:
        """What a fixed policy has of a host with so many millicores: in all, or by service.

        Raises PolicyError for more than there is, or for another number of services.
        """
        found = _STATIC.fullmatch(self.name)
        assert found is not None
        share, stated = found.groups()
        if share:
            return host * int(share) // 100
        if not stated:
            return host
        each = [int(word) for word in stated.split(",")]
        if sum(each) > host:
            raise PolicyError(f"--policy {self.name}: expected at most the {host} millicores for workers")
        if len(each) == 1:
            return each[0]
        if len(each) != services:
            raise PolicyError(f"--policy {self.name}: expected millicores of each of {services} services")
        return each

    def control(self) -> ControlSpec:
        """The control plane that decides so; a fixed policy's only looks on."""
        if self.fixed:
            return ControlSpec(governor=Governor(paused=True))
        # Others know nothing of tries, and would take what is hoped for what is believed.
        explore = Explore.IMPOSSIBLE if self.name == SPONGE else Explore.NEVER
        return ControlSpec(control.__name__, ("--policy", self.name), governor(self.name), explore)


def parse(name: str) -> Policy:
    """Give the policy of that name. Raises PolicyError."""
    if not _STATIC.fullmatch(name):
        try:
            control.decides(name)
        except ValueError:
            raise PolicyError(f"--policy: expected {NAMES}; got {name!r}") from None
    return Policy(name)


def turns(policies: Sequence[T], round_number: int) -> list[T]:
    """Give the order of a round, counted from 0: each starts one later than the last, every second runs backwards.

    So nobody always follows the same one, and what drifts over rounds weighs on all alike.
    """
    start = round_number % len(policies)
    rotated = [*policies[start:], *policies[:start]]
    return rotated[::-1] if round_number % 2 else rotated
