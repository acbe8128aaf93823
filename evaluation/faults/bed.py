"""Two services of local processes under load, around which faults are made, and what is seen of them."""

import asyncio
import contextlib
import json
import re
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from controlplane.allocation import Allocation
from controlplane.shape import Limits
from core.cgroup import usable_parent
from evaluation import load
from evaluation.admin import Admin, ControlPlaneError
from evaluation.embedded import CONTROL, Embedded
from evaluation.faults.outcome import Check, Outcome
from evaluation.faults.relay import Relay
from evaluation.fleet import ControlSpec, WorkerSpec
from evaluation.load import Service
from evaluation.process import StartError, free_port
from evaluation.serving.subjects import Subject
from protos import control_pb2 as pb

T = TypeVar("T")

ONE, OTHER = "one", "other"
SERVICES = (ONE, OTHER)
# What a service gets at least, and what it starts with. Quotas are ceilings: the number of CPUs decides nothing.
FLOOR_MILLICORES = 300
CALM_MILLICORES = 600
START = Allocation(1100, 1, 1, 1)
LIMITS = Limits(FLOOR_MILLICORES, 2000, max_instances=2, max_threads=1, max_batch=4)
HOST_MILLICORES = 3000
# Nothing waits for so long on a machine that works: what fails, fails because of what was done to it.
SLO_MS = 30_000.0
# A quarter of a core of each service, clients included, and more than half of one more where one needs more.
RATE, MORE_RATE = 10.0, 25.0
PATIENCE_S = 90.0
_POLL_S = 0.05
_PAYLOADS = 4


class NeverHeld(Exception):
    """What was to come about in a scenario did not; the text says what. `outcome` is that of the scenario then."""

    outcome: Outcome | None = None


@asynccontextmanager
async def scenario(fault: str, done: str) -> AsyncIterator[list[Check]]:
    """Let what never comes about in the block be told as of this fault, after the checks that were added by then."""
    checks: list[Check] = []
    try:
        yield checks
    except NeverHeld as error:
        missing = Check("what was to come about", str(error), kept=False)
        error.outcome = Outcome(fault, done, [*checks, missing])
        raise


def spec(subject: Subject, service: str, slo_ms: float = SLO_MS, **more: Any) -> WorkerSpec:
    """One of the two workers; both have the same model."""
    shapes = {subject.input: subject.row}
    return WorkerSpec(service, subject.path.resolve(), slo_ms, START, LIMITS, shapes, **more)


def service(subject: Subject, name: str, address: str, slo_ms: float = SLO_MS) -> Service:
    """What is asked of the worker at `address`."""
    inputs = [payload.rows for payload in subject.payloads[:_PAYLOADS]]
    payloads = load.payloads(subject.path, name, inputs)
    return Service(name, endpoint(address), slo_ms, payloads, subject.agrees)


async def until(
    read: Callable[[], Coroutine[Any, Any, T]], holds: Callable[[T], Any] = bool, what: str = "it"
) -> T:
    """Read until what is read holds, and give it. Raises NeverHeld after PATIENCE_S."""
    value = await at_last(read, holds)
    if not holds(value):
        raise NeverHeld(f"{what}: not within {PATIENCE_S:.0f} s, still {value!r}".replace("\n", " "))
    return value


async def at_last(
    read: Callable[[], Coroutine[Any, Any, T]],
    holds: Callable[[T], Any] = bool,
    patience_s: float = PATIENCE_S,
) -> T:
    """Read until what is read holds, or patience ends, and give what was read last: for what a check is about."""
    give_up_at = time.monotonic() + patience_s
    while not holds(value := await read()) and time.monotonic() <= give_up_at:  # noqa: ASYNC110 - in other processes
        await asyncio.sleep(_POLL_S)
    return value


async def within_patience(read: Callable[[], Coroutine[Any, Any, bool]], patience_s: float = 20.0) -> bool:
    """Read until it holds, and say whether it did before patience ended."""
    try:
        async with asyncio.timeout(patience_s):
            while not await read():  # noqa: ASYNC110 - in other processes
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        return False
    return True


def follows(must: str, before: int, after: int) -> Check:
    """An allocation that must have become more."""
    return Check(must, f"{before} → {after} millicores", after > before)


@dataclass(frozen=True, slots=True)
class View:
    """What a control plane says; of one that does not answer, that it says nothing."""

    admin: Admin

    async def worker(self, service: str) -> pb.WorkerStatus | None:
        """The only worker of a service, None while there is none."""
        try:
            workers = (await self.admin.fleet()).workers
        except ControlPlaneError:
            return None
        return next((worker for worker in workers if worker.service == service), None)

    async def planned(self, *services: str) -> bool:
        """Whether the newest plan is for these services too."""
        try:
            told = [await self.admin.explanation(service) for service in services]
        except ControlPlaneError:
            return False
        return all(one is not None and one.state == "planned" for one in told)

    async def at_rest(self, *services: str) -> bool:
        """Whether what they have is what is planned for them, acknowledged and with nothing on its way."""
        try:
            told = [await self.admin.explanation(service) for service in services]
        except ControlPlaneError:
            return False
        return all(
            one is not None
            and one.state == "planned"
            and not one.standing.pending
            and one.standing.hold in ("", "dead band")
            and one.standing.quota_millicores == one.standing.target.cpu_millicores
            for one in told
        )


@dataclass(slots=True)
class Bed:
    """What runs."""

    embedded: Embedded
    services: Mapping[str, Service]
    metrics_address: str
    relay: Relay | None = None  # on the way from a worker to the control plane

    @property
    def view(self) -> View:
        """What the first control plane says."""
        return View(self.embedded.admin)

    def quota(self, service: str) -> int | None:
        """What the kernel holds a worker to, in millicores."""
        return self.embedded.group(service).quota_millicores()

    def quotas(self) -> dict[str, int | None]:
        """Those of both."""
        return {name: self.quota(name) for name in self.services}

    async def grown(self, service: str, before: int | None) -> int:
        """Its quota if that is more than `before`, else 0."""
        quota = self.quota(service) or 0
        return quota if quota > (before or 0) else 0

    def events(self, name: str) -> list[dict[str, Any]]:
        """What a process has logged since it was started last."""
        return events(self.embedded.process(name).log.read_text())

    async def settled(self) -> None:
        """Wait until both have what is planned for them."""
        await until(lambda: self.view.at_rest(*self.services), what="a plan in force")

    async def calm(self) -> None:
        """Wait until they have little as well: they start with more than they need."""

        async def read() -> bool:
            small = all((quota or 0) <= CALM_MILLICORES for quota in self.quotas().values())
            return small and await self.view.at_rest(*self.services)

        await until(read, what="little for both")

    async def metric(self, name: str) -> float:
        """One that the first control plane tells Prometheus, by its name with labels; 0 where it has none."""
        return (await scrape(self.metrics_address)).get(name, 0.0)


async def scrape(address: str) -> dict[str, float]:
    """Everything that the plane at `address` tells Prometheus, by name with labels."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as response:
            return str(response.read(), "utf-8")

    text = await asyncio.to_thread(read)
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


@asynccontextmanager
async def up(
    subject: Subject,
    folder: Path,
    *,
    slo_ms: float = SLO_MS,
    planes: int = 1,
    host_millicores: int = HOST_MILLICORES,
    relayed: str = "",
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Bed]:
    """Run both services while the block runs.

    The worker of the service `relayed` reaches the control plane by a relay; `environment` is added to that of all
    processes. Raises StartError, also where no control group may be made: without one there is no quota.
    """
    if usable_parent() is None:
        raise StartError("no control group may be made here, and without one there is no quota")
    metrics = f"127.0.0.1:{free_port()}" if planes == 1 else ""
    control = ControlSpec(
        metrics_listen=metrics,
        lock=str(folder / "leader.lock") if planes > 1 else "",
        environment=environment or {},
    )
    front = ("127.0.0.1", free_port())
    specs = [
        spec(
            subject,
            name,
            slo_ms,
            control=f"{front[0]}:{front[1]}" if name == relayed else "",
            environment=environment or {},
        )
        for name in SERVICES
    ]
    embedded = Embedded(folder, specs, host_millicores, control, planes)
    relay = None
    if relayed:
        relay = Relay(front, endpoint(embedded.control_addresses[CONTROL]))
        await relay.open()
    try:
        async with embedded:
            services = {
                name: service(subject, name, address, slo_ms) for name, address in embedded.addresses.items()
            }
            yield Bed(embedded, services, metrics, relay)
    finally:
        if relay is not None:
            await relay.cut()


def endpoint(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def events(log: str) -> list[dict[str, Any]]:
    """Structured lines of a log; a last one that is not yet whole is left out."""
    found = []
    for line in log.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict) and "event" in line]


def repeated(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warnings and errors that a log has more than once of one worker: its numbers aside, each cause is told once."""
    causes = Counter(
        (line["event"], line.get("worker", ""), re.sub(r"\d+", "#", str(line.get("error", ""))))
        for line in lines
        if line.get("level") in ("warning", "error")
    )
    return [f"{count} × {event}: {error}" for (event, _, error), count in causes.items() if count > 1]
