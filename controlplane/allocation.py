"""What a worker is given: its allocation, the version of that, and the quota that holds it to it."""

from collections.abc import Iterable
from dataclasses import dataclass

# Owners round what they are given, to microseconds of a period, to pages, to MiB.
_ROUNDING = 0.01


@dataclass(frozen=True, slots=True)
class Quota:
    """What the owner of a worker's resources holds it to."""

    cpu_millicores: int | None  # None: no limit
    memory_bytes: int = 0  # 0: no limit

    def covers(self, other: "Quota") -> bool:
        """Whether all that `other` allows is allowed."""
        return largest((self, other)) == self

    def reads_as(self, other: "Quota") -> bool:
        """Whether `other` may be this one, as its owner has rounded it."""
        return _alike(self.cpu_millicores, other.cpu_millicores) and _alike(
            self.memory_bytes, other.memory_bytes
        )


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a worker runs with, or may."""

    cpu_millicores: int
    instances: int
    threads: int
    max_batch: int
    memory_bytes: int = 0  # 0: no limit

    @property
    def quota(self) -> Quota:
        """The quota this allocation needs."""
        return Quota(self.cpu_millicores, self.memory_bytes)


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Orders directives over restarts of the control plane: higher term first, then higher epoch."""

    term: int = 0
    epoch: int = 0


NONE = Version()  # of a worker that has put no directive in force


def largest(quotas: Iterable[Quota]) -> Quota:
    """The least quota that covers each of `quotas`, of which there must be one at least."""
    cpu, memory = zip(*((quota.cpu_millicores, quota.memory_bytes) for quota in quotas), strict=True)
    return Quota(None if None in cpu else max(cpu), 0 if 0 in memory else max(memory))


def smallest(quotas: Iterable[Quota]) -> Quota:
    """The greatest quota that each of `quotas` covers."""
    cpu, memory = zip(*((quota.cpu_millicores, quota.memory_bytes) for quota in quotas), strict=True)
    return Quota(
        min((value for value in cpu if value is not None), default=None),
        min((value for value in memory if value), default=0),
    )


def next_term(applied: Version) -> int:
    """The term, with one worker, of a control plane to which it says that it has `applied` this.

    It forgets whatever else it was sent when it says so, also what may have the term that comes next.
    """
    return applied.term + 1


def _alike(written: int | None, read: int | None) -> bool:
    """No limit, None or 0, is like no other."""
    if not written or not read:
        return written == read
    return abs(written - read) <= _ROUNDING * written
