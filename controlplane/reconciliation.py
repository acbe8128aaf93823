"""What is in force, looked at again and again: the control plane is not the only one who can change it."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from controlplane.actuators import ActuationError, Actuator, Unreachable
from controlplane.session import Session, worker_ref
from controlplane.state import Fleet, Host

# Between looks: who changes a quota again and again is answered twice a second.
_REST_S = 0.5

STEADY_S = 30.0  # has a host answered for so long, its outage is over; until then what fails is no other one

log = structlog.get_logger()


class Reconciliation:
    """Has sessions compare what is in force with what is believed: every `interval_s`, and when a change is told."""

    def __init__(
        self,
        fleet: Fleet,
        sessions: Mapping[str, Session],
        actuator: Actuator,
        interval_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._sessions = sessions
        self._actuator = actuator
        self._interval_s = interval_s
        self._clock = clock
        self._changed: set[str] = set()
        self._told = asyncio.Event()
        self._failed_at: dict[str, float] = {}  # of hosts with an outage: the last time

    async def run(self) -> None:
        """Look until cancelled; returns where nobody holds a quota."""
        if not self._actuator.holds_quota:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._remind())
            while True:
                await self._told.wait()
                self._told.clear()
                changed, self._changed = self._changed, set()
                for session in tuple(self._sessions.values()):
                    if any(session.runs_in(container) for container in changed):
                        # Each by itself: an engine that does not answer keeps only its own workers waiting.
                        tasks.create_task(self.look(session))
                await asyncio.sleep(_REST_S)

    def changed(self, container: str) -> None:
        """Look at the workers of a container, by its whole id, as soon as may be; "" stands for all of them."""
        self._changed.add(container)
        self._told.set()

    async def look(self, session: Session) -> None:
        """Find out on which host a worker runs, if that is not known, and what quota is in force."""
        if self._fleet.paused:
            return
        worker = session.worker
        try:
            if worker.host is None:
                worker.host = self._fleet.hosts[await self._actuator.host(worker_ref(worker.hello))]
            read = await session.reconcile()
        except ActuationError as error:
            if isinstance(error, Unreachable) and worker.host is not None:
                self._note(worker.host, str(error))
            else:
                session.complain("quota not read", str(error))
        except Exception:  # it is looked at again, and the others go on
            log.exception("look failed", worker=worker.worker_id, service=worker.service)
        else:
            if read:
                self._note(worker.host, "")
                session.content("quota not read")

    async def is_known(self, session: Session) -> bool:
        """Find out whether it is the host that does not answer, which is told once for all of its workers."""
        await self.look(session)
        host = session.worker.host
        return host is None or bool(host.unreachable)

    async def _watch(self) -> None:
        try:
            await self._actuator.watch(self.changed)
        except Exception:  # reading every few seconds is what is left
            log.exception("changes not followed", actuator=self._actuator.kind)

    async def _remind(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            self.changed("")

    def _note(self, host: Host, failure: str) -> None:
        """Note whether a host answers. An outage is logged once, also of a host that answers now and then."""
        now = self._clock()
        if failure:
            if host.name not in self._failed_at:
                log.warning("host unreachable", host=host.name, error=failure)
            self._failed_at[host.name] = now
        elif host.name in self._failed_at and now - self._failed_at[host.name] >= STEADY_S:
            del self._failed_at[host.name]
            log.info("host reachable again", host=host.name)
        host.unreachable = failure
