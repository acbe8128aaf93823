"""Changing the allocation of one worker so that no execution ever runs under less CPU than it was started with.

The rule: (1) raise the quota to what the new allocation needs, (2) send the directive, (3) wait until the worker
acknowledges that nothing older runs, (4) lower the quota to the new allocation. Put as a state: the quota wanted is
the largest of the target, of every allocation sent and not yet superseded by an acknowledged one, and, while the
worker starts, of its start-up allocation; a directive is sent once the quota in force covers it.

Pure: entry points take `now` in seconds and return the actions to perform, in order. At most one quota write is out
at any time; the shell reports how it ended.
"""

from dataclasses import dataclass, replace

from controlplane.allocation import NONE, Allocation, Quota, Version, largest, smallest

_BACKOFF_S = 0.5  # after the first failure; doubles with each in a row
# An owner that is well again does not say so. What is planned shall be in force 3 s after that, of which a call that
# hangs may take 2, as actuator.docker_timeout_s says.
MAX_BACKOFF_S = 0.75
# One that has thought about it and refused, or put it off, says the same for a while, and each time takes a call.
MAX_PUT_OFF_S = 5.0
PENDING_S = 0.2  # until a write is asked for again that was accepted: a kubelet acts within a second or so


@dataclass(frozen=True, slots=True)
class SetQuota:
    """Write this quota, then call `quota_written` or `quota_failed`."""

    cpu_millicores: int | None
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class SendDirective:
    """Send this allocation to the worker."""

    version: Version
    allocation: Allocation


Action = SetQuota | SendDirective


def backoff_s(failures: int, most_s: float = MAX_BACKOFF_S) -> float:
    """How long to wait after so many failures in a row before this one."""
    # Of thousands, as in a quarter of an hour, the power is none that a float holds.
    return min(_BACKOFF_S * 2.0 ** min(failures, 10), most_s)


@dataclass(frozen=True, slots=True)
class _Target:
    directive: SendDirective
    quota: Quota  # that of the directive, but for the quota found first, which had none


class Resize:
    """The resizing of one worker, from its attachment on.

    `startup` is the CPU that a worker gets at least while it starts; `ack_timeout_s` is how long an acknowledgement
    may take before `overdue` says so, and the target is sent again, each time for so long. That is the same directive,
    of the same version: who has failed with it tries once more, who has it in force takes no notice. Nothing else
    changes: the quota stays, and counts. `found` is what `restore` goes back to, if that is known from before: else it
    is what the worker attaches with.
    """

    def __init__(
        self,
        startup_millicores: int = 0,
        ack_timeout_s: float = 2.0,
        found: tuple[Allocation, Quota] | None = None,
    ) -> None:
        self._startup_millicores = startup_millicores
        self._ack_timeout_s = ack_timeout_s
        self._starting = False
        self.found = found
        # What executions may be running under, by version: the last acknowledged and all sent since.
        self._held: dict[Version, Quota] = {}
        self._acknowledged = NONE
        self._sent_at: dict[Version, float] = {}
        self._told_at = 0.0  # when the target was sent last
        self._target: _Target | None = None
        # The least that may be in force. Not certain after a failed write: it may have been performed all the same.
        self._least: Quota | None = None
        self._certain = False
        self._writing: Quota | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._now = 0.0

    def __repr__(self) -> str:
        return (
            f"Resize(in_force={self._least}, target={self.target}, unacknowledged={len(self.unacknowledged)})"
        )

    @property
    def in_force(self) -> Quota | None:
        """The quota in force, the lower one while a write is out; None while not known."""
        return self._least

    @property
    def target(self) -> Allocation | None:
        """The allocation asked for last."""
        return None if self._target is None else self._target.directive.allocation

    @property
    def version(self) -> Version:
        """The version of the target; NONE without one."""
        return NONE if self._target is None else self._target.directive.version

    @property
    def unacknowledged(self) -> tuple[Version, ...]:
        """Versions sent that the worker has yet to acknowledge, oldest first."""
        return tuple(sorted(version for version in self._held if version > self._acknowledged))

    @property
    def largest_unacknowledged(self) -> Quota | None:
        """What executions may be running under, below which the quota never falls; None of an unknown worker."""
        return largest(self._held.values()) if self._held else None

    @property
    def pending(self) -> bool:
        """Whether the target has yet to be put in force in full."""
        return (
            self._writing is not None
            or self._must_write()
            or self._unsent() is not None
            or bool(self.unacknowledged)
        )

    @property
    def retry_at(self) -> float:
        """When a write is tried again that has failed or is not in force yet."""
        return self._retry_at

    @property
    def overdue(self) -> bool:
        """Whether an acknowledgement took longer than ack_timeout_s, as of the last call with a `now`.

        For any thread.
        """
        return any(sent_at + self._ack_timeout_s <= self._now for sent_at in list(self._sent_at.values()))

    def contradicts(self, quota: Quota) -> bool:
        """Whether somebody else must have changed the quota, if `quota` is what it reads as."""
        if self._least is None or self._writing is not None or not self._certain:
            return False
        return not self._least.reads_as(quota)

    def attached(
        self,
        applied: Version | None,
        allocation: Allocation,
        quota_seen: Quota | None,
        now: float,
        *,
        starting: bool = False,
    ) -> list[Action]:
        """A worker has come, or come back: what it runs with, and the quota read from its owner, None if not known.

        What was sent and not applied is lost with the old stream, and is sent again if it is still the target. Of a
        process without a directive, or with one not known here, whatever runs is taken to need the quota seen.
        """
        applied = applied or NONE
        self._least = quota_seen
        if quota_seen is not None and self._writing is not None:
            self._least = smallest((quota_seen, self._writing))
        self._certain = quota_seen is not None and self._writing is None
        if applied != NONE and applied in self._held:
            self._held = {version: quota for version, quota in self._held.items() if version <= applied}
            self._sent_at = {version: at for version, at in self._sent_at.items() if version <= applied}
        else:
            self._held = {NONE: self._least or allocation.quota}
            self._sent_at = {}
            self._acknowledged = NONE
            if applied != NONE:
                self._held[applied] = allocation.quota
                self._sent_at[applied] = now
        self._starting = starting
        if self.found is None:
            self.found = allocation, quota_seen or allocation.quota
        if applied > self.version:  # the worker would not take ours any more
            self._target = None
        return self._step(now)

    def warm(self, now: float) -> list[Action]:
        """The worker has started; may be called again."""
        self._starting = False
        return self._step(now)

    def retarget(self, allocation: Allocation, version: Version, now: float) -> list[Action]:
        """Replace the target, at whatever step the last one is. Raises ValueError if `version` is not newer."""
        if version <= max(self.version, *self._held, NONE):
            raise ValueError(f"version: expected one newer than {self.version}, got {version}")
        self._replace(_Target(SendDirective(version, allocation), allocation.quota), now)
        return self._step(now)

    def restore(self, now: float) -> list[Action]:
        """Go back to the allocation and the quota found first: the orderly goodbye."""
        if self.found is None:
            return []
        allocation, quota = self.found
        newest = max((self.version, *self._held))
        if newest == NONE and self._least == quota:
            return []  # nothing was ever changed
        allocation = replace(
            allocation,
            cpu_millicores=quota.cpu_millicores or allocation.cpu_millicores,
            memory_bytes=quota.memory_bytes,
        )
        directive = SendDirective(Version(newest.term, newest.epoch + 1), allocation)
        self._replace(_Target(directive, quota), now)
        return self._step(now)

    def acknowledged(self, version: Version, now: float) -> list[Action]:
        """No execution started under anything older than `version` runs any more."""
        if version in self._held and version >= self._acknowledged:
            self._held = {held: quota for held, quota in self._held.items() if held >= version}
            self._sent_at = {sent: at for sent, at in self._sent_at.items() if sent > version}
            self._acknowledged = version
        return self._step(now)

    def quota_written(self, cpu_millicores: int | None, memory_bytes: int, now: float) -> list[Action]:
        """The write that was out has succeeded."""
        self._least = Quota(cpu_millicores, memory_bytes)
        self._certain = True
        self._writing = None
        self._failures = 0
        self._retry_at = now
        return self._step(now)

    def quota_failed(self, now: float, *, put_off: bool = False) -> list[Action]:
        """The write that was out has failed, as far as is known: it is tried again after a while.

        A longer one if the owner has `put_off` what was asked for, or refused it.
        """
        self._certain = False
        self._writing = None
        most_s = MAX_PUT_OFF_S if put_off else MAX_BACKOFF_S
        self._retry_at = now + backoff_s(self._failures, most_s)
        self._failures += 1
        return self._step(now)

    def quota_pending(self, now: float) -> list[Action]:
        """The write that was out was accepted, and is not in force as yet: it is asked for again soon."""
        self._certain = False
        self._writing = None
        self._retry_at = now + PENDING_S
        return self._step(now)

    def quota_seen(self, quota: Quota, now: float) -> list[Action]:
        """The quota was read from its owner: anybody may have changed it. It is the less of two while it changes.

        From now on it counts, also where a write has failed, and what it should be is written again. Nothing follows
        from what is read while a write is out.
        """
        if self._writing is None:
            believed = () if self._least is None else (self._least,)
            wanted = (self._wanted(),) if self._held else ()
            self._least = next((one for one in (*believed, *wanted) if one.reads_as(quota)), quota)
            self._certain = True
        return self._step(now)

    def poll(self, now: float) -> list[Action]:
        """Try a failed write again, and send the target again, once their time has come; notice what is overdue."""
        return self._step(now)

    def _replace(self, target: "_Target", now: float) -> None:
        if self._target is None or self._target.quota != target.quota:
            # What was put off says nothing of this.
            self._retry_at = min(self._retry_at, now + MAX_BACKOFF_S)
        self._target = target

    def _step(self, now: float) -> list[Action]:
        self._now = now
        actions: list[Action] = []
        unsent = self._unsent()
        if unsent is not None and self._least is not None and self._least.covers(unsent.quota):
            actions.append(unsent.directive)
            self._held[unsent.directive.version] = unsent.quota
            self._sent_at[unsent.directive.version] = self._told_at = now
        elif self._target is not None and self._must_tell(now):
            # Whatever the quota: it is held, and may be in force already.
            actions.append(self._target.directive)
            self._told_at = now
        if self._writing is None and self._must_write() and now >= self._retry_at:
            self._writing = self._wanted()
            if self._least is not None:
                self._least = smallest((self._least, self._writing))
            actions.append(SetQuota(self._writing.cpu_millicores, self._writing.memory_bytes))
        return actions

    def _unsent(self) -> "_Target | None":
        if self._target is None or not self._held or self._target.directive.version in self._held:
            return None
        return self._target

    def _must_tell(self, now: float) -> bool:
        """Whether the target is to be sent again."""
        return self.version in self._sent_at and now >= self._told_at + self._ack_timeout_s

    def _must_write(self) -> bool:
        if not self._held:
            return False
        if not self._certain:
            return self._least is not None or self._target is not None or self._starting
        return self._least != self._wanted()

    def _wanted(self) -> Quota:
        """The quota that covers everything held, the target, and the start."""
        target = () if self._target is None else (self._target.quota,)
        quota = largest((*self._held.values(), *target))
        if self._starting and quota.cpu_millicores is not None:
            return replace(quota, cpu_millicores=max(quota.cpu_millicores, self._startup_millicores))
        return quota
