"""A worker that attaches: whose quota it has, on which host, and what it begins with."""

import dataclasses
from collections.abc import Awaitable, Callable, Iterable

import structlog

from controlplane.actuators import ActuationError, Actuator
from controlplane.allocation import NONE, Quota
from controlplane.config import Config
from controlplane.governor import Governor
from controlplane.metrics import Metrics
from controlplane.reports import allocation_of, version_of
from controlplane.resize import Resize
from controlplane.session import Owner, Session, worker_ref
from controlplane.shape import HEAD_ROOM_MILLICORES
from controlplane.state import Fleet, Host
from protos import control_pb2

_MAX_ABSENT = 1000  # owners of quotas that are remembered without a worker, of some hundred bytes each

log = structlog.get_logger()


class Admission:
    """Opens the sessions of workers, with `on_progress` and `is_known` as those take them, and knows their owners."""

    def __init__(
        self,
        config: Config,
        fleet: Fleet,
        actuator: Actuator,
        metrics: Metrics,
        clock: Callable[[], float],
        on_progress: Callable[[], None],
        is_known: Callable[[Session], Awaitable[bool]],
    ) -> None:
        self._config = config
        self._fleet = fleet
        self._actuator = actuator
        self._metrics = metrics
        self._clock = clock
        self._on_progress = on_progress
        self._is_known = is_known
        self._owners: dict[str, Owner] = {}

    async def admit(self, hello: control_pb2.Hello) -> Session:
        """Take the worker into the fleet, once it is known what it has, or that its owner does not say."""
        owner = self._owner(hello)
        async with owner.lock:  # a write for its predecessor may still be on its way
            host, quota = await self._found(hello)
            owner.meet(quota, new=version_of(hello.applied) == NONE)
        if quota is not None:
            # Which no worker knows: with 0 it would count as unlimited, and be made so.
            hello.allocation.memory_bytes = quota.memory_bytes
        now, settings, paused = self._clock(), self._config.governor, self._fleet.paused
        startup = 0 if paused else self._startup_millicores(hello, host)
        resize = Resize(startup, settings.ack_timeout_s, owner.found)
        governor = Governor(settings.shrink_hold_s, settings.dead_band_millicores, hello.max_instances)
        worker = self._fleet.attach(hello, resize, governor, now, host)
        session = Session(
            worker,
            owner,
            self._actuator,
            self._metrics,
            self._config.actuator.period_us / 1e6,
            self._clock,
            self._on_progress,
            self._is_known,
            whole_cores=self._fleet.policy(hello.service).whole_cores,
        )
        log.info(
            "worker attached",
            worker=worker.worker_id,
            service=worker.service,
            container=hello.container_id,
            host=None if host is None else host.name,
            quota_millicores=None if quota is None else quota.cpu_millicores,
            term=self._fleet.term,
        )
        applied, found = version_of(hello.applied), allocation_of(hello.allocation)
        session.perform(resize.attached(applied, found, quota, now, starting=hello.starting))
        owner.found = resize.found
        if quota is not None and quota.cpu_millicores is None and not paused:
            # Unlimited, as after `docker run` without a quota: from now on it has what it says it has.
            most = min(found.cpu_millicores, self._fleet.most_millicores(hello.service, host))
            limited = dataclasses.replace(found, cpu_millicores=most)
            session.perform(resize.retarget(limited, self._fleet.next_version(worker), now))
        return session

    def forget_owners(self, attached: Iterable[Session]) -> None:
        """Of owners of whom none is attached keep those that had one last: a name that comes back does so soon."""
        busy = {id(session.owner) for session in attached}
        absent = [
            name for name, owner in self._owners.items() if id(owner) not in busy and not owner.lock.locked()
        ]
        for name in absent[:-_MAX_ABSENT]:
            self._actuator.forget(self._owners.pop(name).worker)

    def _owner(self, hello: control_pb2.Hello) -> Owner:
        """Whose quota this is; without one that is enforced, every process is its own."""
        shared = (hello.container_id or hello.cgroup_path) if self._actuator.holds_quota else ""
        name = shared or hello.worker_id
        worker = worker_ref(hello)
        owner = self._owners.pop(name, None) or Owner(worker)
        owner.worker = worker
        self._owners[name] = owner  # the newest last
        return owner

    async def _found(self, hello: control_pb2.Hello) -> tuple[Host | None, Quota | None]:
        """On which host a worker runs and with what quota, as far as that is known."""
        host = None
        try:
            worker = worker_ref(hello, self._fleet.policy(hello.service).whole_cores)
            host = self._fleet.hosts[await self._actuator.host(worker)]
            return host, await self._actuator.read(worker)
        except ActuationError as error:
            self._metrics.actuation_failures.labels(self._actuator.kind).inc()
            log.warning("quota not read", worker=hello.worker_id, service=hello.service, error=str(error))
            return host, None

    def _startup_millicores(self, hello: control_pb2.Hello, host: Host | None) -> int:
        """What a worker gets while it loads and warms up: enough that its threads are not throttled.

        Its quota may be a small one that its predecessor had: engines keep it over a restart. A larger one stays until
        it is warm, whatever this says.
        """
        allocation = hello.allocation
        policy = self._fleet.policy(hello.service)
        head_room = 0 if policy.whole_cores else HEAD_ROOM_MILLICORES
        unthrottled = 1000 * allocation.instances * allocation.threads + head_room
        return min(unthrottled, self._fleet.most_millicores(hello.service, host))
