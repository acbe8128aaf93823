"""The replicas of services: looked at beside the rounds of the loop, and changed where CPU alone does not do."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace

import structlog

from controlplane import config
from controlplane.explanation import Round
from controlplane.metrics import Metrics
from controlplane.replicas import Crew, Replicas, wish
from controlplane.scales import ScaleConflictError, ScaleError, Scales
from controlplane.state import Fleet, Worker
from controlplane.whatif import Host

log = structlog.get_logger()


class Scaling:
    """Follows the plans of the loop with the number of replicas, of services that have `max_replicas`.

    Never more than one look is under way; plans do not wait for it.
    """

    def __init__(
        self, scales: Scales, settings: config.Replicas, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._scales = scales
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._services: dict[str, Replicas] = {}
        self._complaints: dict[str, str] = {}
        self._due_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    def consider(self, newest: Round, fleet: Fleet) -> None:
        """Look at every service in a task of its own, if it is time and the last one has ended."""
        now = self._clock()
        if now < self._due_at or (self._looking is not None and not self._looking.done()):
            return
        self._due_at = now + self._settings.interval_s
        due = [
            (name, policy, crew_of(newest, name))
            for name, policy in fleet.policies.items()
            if policy.max_replicas > 0
        ]
        if due:
            self._looking = asyncio.create_task(self._look(due))

    async def close(self) -> None:
        """Change nothing more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._scales.close()

    async def _look(self, due: list[tuple[str, config.ServicePolicy, Crew | None]]) -> None:
        for name, policy, crew in due:
            try:
                await self._follow(name, policy, crew)
            except ScaleConflictError:
                pass  # what was wished for was about another number; the next look sees the new one
            except ScaleError as error:
                self._metrics.scale_failures.labels(name).inc()
                self._complain(name, str(error))
            except Exception:  # of the others the next may go well
                self._metrics.scale_failures.labels(name).inc()
                log.exception("replicas not considered", service=name)
            else:
                self._complaints.pop(name, None)

    async def _follow(self, name: str, policy: config.ServicePolicy, crew: Crew | None) -> None:
        replicas = self._services.setdefault(name, Replicas(self._settings))
        if crew is None:
            replicas.nothing_known()
            return
        scale = await self._scales.read(policy.scale)
        count = scale.replicas
        self._metrics.replicas.labels(name).set(count)
        if replicas.found(count, self._clock()):
            log.info(
                "replicas changed by others",
                service=name,
                replicas=count,
                left_alone_s=self._settings.shrink_hold_s,
            )
        if count == 0:  # somebody wants none; what is still planned is on its way out
            replicas.nothing_known()
            return
        least, most = policy.min_replicas, policy.max_replicas
        # Plans are made in the same threads: it takes a few of those, and nothing waits for it.
        wished = await asyncio.to_thread(wish, crew, count, least, most, self._settings)
        target = replicas.decide(wished, self._clock())
        if target is None:
            return
        await self._scales.write(policy.scale, target, scale.version)
        replicas.asked(target)
        action = "grow" if target > count else "shrink"
        self._metrics.scalings.labels(name, action).inc()
        self._metrics.replicas.labels(name).set(target)
        log.info("replicas", service=name, action=action, before=count, after=target)

    def _complain(self, name: str, text: str) -> None:
        """Log a cause once; numbers in its text do not make it another."""
        cause = re.sub(r"\d+", "#", text)
        if self._complaints.get(name) != cause:
            self._complaints[name] = cause
            log.warning("replicas not changed", service=name, error=text)


def crew_of(newest: Round, service: str) -> Crew | None:
    """The planned workers of a service, and what they may have; None if there are none."""
    members, caps = [], []
    millicores, memory = newest.host_millicores, newest.host_memory
    for worker, state, assignment in zip(
        newest.workers, newest.services, newest.plan.assignments, strict=True
    ):
        if worker.service == service:
            # What is hoped for while a size is tried is no reason to have fewer.
            hopeful = state.latency.hopeful
            members.append(replace(state, latency=worker.latency.snapshot()) if hopeful else state)
            caps.append(_cap(worker, state.limits.max_millicores))
        else:
            millicores -= assignment.configuration.cpu_millicores
            memory -= assignment.configuration.memory_bytes
    if not members:
        return None
    # What its own that start are counted with is theirs, however many there will be.
    kept_millicores, kept_memory = newest.kept.get(service, (0, 0))
    host = Host(max(1, millicores + kept_millicores), max(0, memory + kept_memory))
    return Crew(tuple(members), tuple(caps), host, newest.settings)


def _cap(worker: Worker, ceiling: int) -> int:
    """What a worker can have: what is in force, if more was asked for and its owner has put it off or refused."""
    in_force = worker.resize.in_force
    if not worker.failure or in_force is None or in_force.cpu_millicores is None:
        return ceiling
    refused = worker.allocation.cpu_millicores > in_force.cpu_millicores
    return min(ceiling, in_force.cpu_millicores) if refused else ceiling
