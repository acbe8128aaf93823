"""How long it takes until a decision is in force: from distress, from the decision, and the quota's owner alone."""

import asyncio
import enum
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import numpy as np
from prometheus_client import CollectorRegistry

from controlplane import actuators, config
from controlplane.allocation import Allocation, Quota, Version
from controlplane.config import ActuatorKind
from controlplane.governor import Governor
from controlplane.metrics import Metrics
from controlplane.resize import Resize
from controlplane.session import Owner, Session, worker_ref
from controlplane.state import Fleet, Host
from core.cgroup import Cgroup, quota_us
from dataplane.uplink import Uplink
from evaluation.experiment import spinner
from evaluation.experiment.footprint import attached
from evaluation.experiment.reporter import Reporter
from evaluation.experiment.spinner import PERIOD_US, Spinner
from evaluation.process import Process, StartError, free_port

SMALL, LARGE = 500, 2100  # millicores
_BACKLOG = 60  # requests of 20 ms with a second for all of them: more than one core can do
_LOOK_S = 0.0002
_PATIENCE_S = 20.0
_STAYS_S = 0.1  # an update that was under way before is over by then
_CALM_S = 0.12  # longer than the uplink's pause between reports of distress


class Way(enum.Enum):
    """Whose hand writes the quota."""

    LOCAL = "local"
    DOCKER = "docker"
    DIRECT = "docker, cgroup_write"

    @property
    def in_container(self) -> bool:
        return self is not Way.LOCAL

    def actuator(self, where: Spinner) -> config.Actuator:
        """The configuration with which a control plane goes this way."""
        return config.Actuator(
            kind=ActuatorKind.DOCKER if self.in_container else ActuatorKind.LOCAL,
            period_us=PERIOD_US,
            compose_project=where.project,
            cgroup_root="" if self.in_container else str(where.group.cpu.parent),
            cgroup_write=self is Way.DIRECT,
        )


class Step(enum.Enum):
    """From where to the larger quota in force."""

    DISTRESS = "distress report"
    DECISION = "decision"
    OWNER = "owner alone"


@dataclass(frozen=True, slots=True)
class Effect:
    """Seconds of each growth, in the order in which they happened."""

    way: Way
    step: Step
    seconds: list[float]

    def quantile_ms(self, q: float) -> float:
        return 1000 * float(np.quantile(self.seconds, q))


async def measure(
    way: Way, directory: Path, resizes: int, seed: int, progress: Callable[[str], None]
) -> list[Effect]:
    """Grow two spinning processes over and over: one by distress, one by decision and by its owner alone.

    The three take turns, so that whatever else this machine does falls on all of them. Raises Unavailable and
    StartError.
    """
    place: Callable[[int], AbstractAsyncContextManager[Spinner]]
    place = spinner.container if way.in_container else spinner.local
    random = np.random.default_rng(seed)
    async with (
        place(SMALL) as distressed,
        place(SMALL) as decided,
        _in_distress(way, directory, distressed) as grow_by_distress,
        _by_decision(way, decided) as grow_by_decision,
        _by_owner(way, decided) as grow_by_owner,
    ):
        turns = {
            Step.DISTRESS: grow_by_distress,
            Step.DECISION: grow_by_decision,
            Step.OWNER: grow_by_owner,
        }
        if way is Way.DIRECT:
            del turns[
                Step.OWNER
            ]  # whose record an engine would put over it; to write a group is to write a group
        effects = {step: Effect(way, step, []) for step in turns}
        for grow in turns.values():  # connects, and is told of the container: once in its life
            await grow()
        for number in range(resizes):
            progress(f"{way.value}: resize {number + 1} of {resizes}")
            for step, grow in turns.items():
                # Anywhere between two rounds of the control loop.
                await asyncio.sleep(float(random.uniform(0, 0.1)))
                effects[step].seconds.append(await grow())
    return list(effects.values())


@asynccontextmanager
async def _in_distress(
    way: Way, directory: Path, where: Spinner
) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """A control plane, and a worker whose backlog comes and goes."""
    address = f"127.0.0.1:{free_port()}"
    toml = directory / f"control-{way.name.lower()}.toml"
    actuator = way.actuator(where)
    toml.write_text(
        f'[server]\nlisten = "{address}"\nmetrics_listen = ""\n[host]\nmillicores = 4000\n'
        "[governor]\nshrink_hold_s = 0.0\n"
        f'[actuator]\nkind = "{actuator.kind.value}"\nperiod_us = {PERIOD_US}\n'
        f'compose_project = "{where.project}"\ncgroup_root = "{actuator.cgroup_root}"\n'
        f"cgroup_write = {str(actuator.cgroup_write).lower()}\n"
    )
    reporter = Reporter(
        "costs",
        time.monotonic,
        rate=5.0,
        start_millicores=SMALL,
        container_id=where.container_id,
        cgroup_path=where.cgroup_path,
    )
    process = await Process.start("control plane", "controlplane", toml)
    try:
        await process.serving(address)
        async with attached(address, [reporter]) as (uplink,):

            async def grow() -> float:
                before = where.group.quota_millicores() or 0
                reporter.waiting = _BACKLOG
                seconds = await _until_above(where.group, before, uplink.distress)
                reporter.waiting = 0
                await asyncio.sleep(_CALM_S)
                await _calm(uplink, where.group)
                return seconds

            await _calm(uplink, where.group)
            yield grow
    finally:
        await process.stop()


async def _calm(uplink: Uplink, group: Cgroup) -> None:
    """Have plans made until the quota is small again."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while (group.quota_millicores() or 0) > SMALL:
        if time.monotonic() > give_up_at:
            raise StartError(f"{group.cpu}: quota not back at {SMALL} millicores after {_PATIENCE_S:.0f} s")
        uplink.distress()
        await asyncio.sleep(_CALM_S)


@asynccontextmanager
async def _by_decision(way: Way, where: Spinner) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """A session as the control plane has it, told what to put in force; its worker acknowledges at once."""
    reporter = Reporter(
        "costs", time.monotonic, rate=0.0, container_id=where.container_id, cgroup_path=where.cgroup_path
    )
    found = Allocation(SMALL, 1, 1, 1)
    worker = Fleet([Host(4000, 1 << 34)], 0.001).attach(
        reporter.hello(), Resize(), Governor(0.0, 100), time.monotonic()
    )
    actuator = actuators.make(way.actuator(where))
    progressed = asyncio.Event()
    session = Session(
        worker,
        Owner(worker_ref(worker.hello)),
        actuator,
        Metrics(CollectorRegistry()),
        PERIOD_US / 1e6,
        time.monotonic,
        progressed.set,
    )
    session.perform(worker.resize.attached(None, found, Quota(SMALL), time.monotonic()))
    epoch = 0

    async def settle() -> None:
        """Acknowledge what is sent until nothing is pending."""
        async with asyncio.timeout(_PATIENCE_S):
            while worker.resize.pending:
                session.perform(worker.resize.acknowledged(worker.resize.version, time.monotonic()))
                progressed.clear()  # that was progress, too; what is still pending is a write
                if worker.resize.pending:
                    await progressed.wait()

    def retarget(millicores: int) -> None:
        nonlocal epoch
        epoch += 1
        allocation = Allocation(millicores, 1 + millicores // 1000, 1, 1)
        session.perform(worker.resize.retarget(allocation, Version(1, epoch), time.monotonic()))

    async def grow() -> float:
        seconds = await _until_above(where.group, SMALL, lambda: retarget(LARGE))
        await settle()
        retarget(SMALL)
        await settle()
        return seconds

    try:
        yield grow
    finally:
        await actuator.close()


@asynccontextmanager
async def _by_owner(way: Way, where: Spinner) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """The bare call: a container update, or a write to the control group."""
    client = None if way is not Way.DOCKER else docker.APIClient(version="auto")

    def write(millicores: int) -> None:
        if client is None:
            where.group.set_quota(millicores, PERIOD_US)
        else:
            quota = quota_us(millicores, PERIOD_US)
            client.update_container(where.container_id, cpu_period=PERIOD_US, cpu_quota=quota)

    async def grow() -> float:
        loop = asyncio.get_running_loop()
        seconds = await _until_above(where.group, SMALL, lambda: loop.run_in_executor(None, write, LARGE))
        await asyncio.to_thread(write, SMALL)
        return seconds

    try:
        yield grow
    finally:
        if client is not None:
            client.close()


async def _until_above(group: Cgroup, millicores: int, act: Callable[[], object]) -> float:
    """Seconds from `act` until the kernel has a quota above `millicores` in force, to stay. Raises StartError."""
    looking = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look() -> float:
        loop.call_soon_threadsafe(looking.set)
        give_up_at = time.perf_counter() + _PATIENCE_S
        above_at = math.inf
        while time.perf_counter() < above_at + _STAYS_S:
            above = (group.quota_millicores() or 0) > millicores
            above_at = min(above_at, time.perf_counter()) if above else math.inf
            if time.perf_counter() > give_up_at:
                raise StartError(f"{group.cpu}: quota not above {millicores} after {_PATIENCE_S:.0f} s")
            time.sleep(_LOOK_S)
        return above_at

    seen = loop.run_in_executor(None, look)
    await looking.wait()
    began = time.perf_counter()
    act()
    return await seen - began
