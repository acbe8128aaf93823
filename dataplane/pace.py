"""Holding a worker to a share of the CPU without a quota: no batch starts while it is in debt."""

from dataclasses import dataclass

# Unused time is kept for this long: a burst may use up what the last second left over.
_WINDOW_S = 1.0


@dataclass(slots=True)
class Pace:
    """A bucket of CPU seconds that fills with `cpus` a second and that CPU time used empties.

    It may be overdrawn, since what an execution costs is known only afterwards; the debt is paid back
    before the next one starts, so the mean holds whatever a single one takes.
    """

    cpus: float
    updated_at: float
    cpu_s: float
    credit_s: float = 0.0

    def hold_until(self, now: float, cpu_s: float) -> float:
        """Account for `cpu_s`, the worker's CPU time since its start; returns when the debt will be paid."""
        earned = (now - self.updated_at) * self.cpus
        self.credit_s = min(self.credit_s + earned - (cpu_s - self.cpu_s), self.cpus * _WINDOW_S)
        self.updated_at, self.cpu_s = now, cpu_s
        return now - self.credit_s / self.cpus if self.credit_s < 0 else now
