"""What came of a fault: what had to hold, what was measured, and whether it held."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold, `kept` None where nothing tells whether it does.

    `timed` is about durations, which tests do not judge: machines are noisy.
    """

    must: str
    measured: str
    kept: bool | None
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """A fault, what was done to make it, and what had to hold meanwhile and after."""

    fault: str
    done: str
    checks: Sequence[Check]

    @property
    def broken(self) -> list[str]:
        """What did not hold, durations aside."""
        return [f"{one.must}: {one.measured}" for one in self.checks if one.kept is False and not one.timed]


def within(must: str, seconds: Sequence[float], most_s: float) -> Check:
    """Durations, all of which must be of `most_s` at most."""
    longest = max(seconds, default=0.0)
    number = f"at most, in {len(seconds)}" if len(seconds) > 1 else ""
    return Check(
        f"{must} within {most_s:g} s", f"{longest:.1f} s {number}".strip(), longest <= most_s, timed=True
    )
