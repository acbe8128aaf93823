"""The engine that owns the quotas stops, is slow, refuses, or starts anew; and containers change behind one's back."""

import asyncio
import enum
import os
import signal
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from evaluation.faults import bed, hosted
from evaluation.faults.bed import ONE, OTHER, SERVICES
from evaluation.faults.dockerd import Dockerd
from evaluation.faults.hosted import Hosted, Limits
from evaluation.faults.outcome import Check, Outcome, within
from evaluation.faults.traffic import Traffic, offered, told
from evaluation.load import Service
from evaluation.process import StartError
from evaluation.rows import Outcome as Became
from evaluation.serving.subjects import Subject

RIGHT_S, BACK_S, NOTICED_S = 3.0, 10.0, 10.0
_ARRIVED_S = 0.005  # after it was due a request has come to its worker
_SHORTLY_S = 4.0  # so much of a backlog is answered in time
_MESSAGE = b'{"message":"not now"}'
_REFUSAL = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_MESSAGE), _MESSAGE)
)


class Fault(enum.Enum):
    """What is wrong with the engine."""

    STOPPED = "it takes no connection"
    SLOW = "it answers late"
    REFUSING = "it refuses each update"
    RESTARTED = "it is killed, and started again"


async def disturbed(
    subject: Subject,
    folder: Path,
    fault: Fault,
    seconds: float,
    delay_s: float = 10.0,
    dockerd: Dockerd | None = None,
) -> Outcome:
    """Let the engine be like that for `seconds`, late by `delay_s` if that is what it is. Raises StartError.

    One service needs less from the beginning on, the other one more shortly before the end. An engine of our own is
    needed to start it again; what else it may be, it is by the relay before it.
    """
    engine = hosted.ENGINE if dockerd is None else dockerd.socket
    title = f"engine {fault.name.lower()}"
    done = f"{fault.value}, for {seconds:g} s in which one service needs less and the other one more"
    async with (
        bed.scenario(title, done),
        hosted.up(subject, folder, engine) as fleet,
        offered(fleet.services, dict.fromkeys(SERVICES, bed.RATE)) as traffic,
    ):
        await fleet.calm()
        before = await fleet.quota(OTHER)
        async with _needing(fleet, OTHER) as most:
            await bed.until(lambda: _more(fleet, OTHER, before), what="more for one")
            lives = [await fleet.life(service) for service in SERVICES]
            small, large = await fleet.quota(ONE), await fleet.quota(OTHER)
            began_at = time.monotonic()
            await _begin(fleet, fault, delay_s, dockerd)
        await asyncio.sleep(max(0.0, began_at + seconds - _SHORTLY_S - time.monotonic()))
        async with _needing(fleet, ONE) as more:
            await asyncio.sleep(max(0.0, began_at + seconds - time.monotonic()))
            await _end(fleet, fault, dockerd)
            recovered_at = time.monotonic()
            await bed.at_last(lambda: _more(fleet, ONE, small))
            right = await bed.at_last(lambda: fleet.right(*SERVICES))
            took = time.monotonic() - recovered_at
            # Whether less is right by then is for the demand to say, which is believed of seconds.
            await bed.at_last(lambda: _less(fleet, OTHER, large))
            after = {service: await fleet.quota(service) for service in SERVICES}
        untouched = lives == [await fleet.life(service) for service in SERVICES]
        repeated = bed.repeated(fleet.events())
    failures = traffic.failures() + most.failures() + more.failures()
    return Outcome(
        title,
        done,
        [
            Check("no failed request", told(failures), not failures),
            Check("no container restarted", "none" if untouched else "restarted", untouched),
            Check("one log line for each cause", "; ".join(repeated) or "none twice", not repeated),
            Check(
                "the right allocations after it",
                f"{small} → {after[ONE]} and {large} → {after[OTHER]} millicores",
                right and after[ONE] > small and after[OTHER] < large,
            ),
            within("those are in force", [took], RIGHT_S),
        ],
    )


def _needing(fleet: Hosted, service: str) -> AbstractAsyncContextManager[Traffic]:
    """Let a service need more while the block runs."""
    return offered({service: fleet.services[service]}, {service: bed.MORE_RATE}, seed=9)


async def _begin(fleet: Hosted, fault: Fault, delay_s: float, dockerd: Dockerd | None) -> None:
    match fault:
        case Fault.STOPPED:
            await fleet.relay.cut()
        case Fault.SLOW:
            fleet.relay.delay_s = delay_s
        case Fault.REFUSING:
            fleet.relay.refuse = refuse_updates
        case Fault.RESTARTED:
            assert dockerd is not None
            await dockerd.kill()


async def _end(fleet: Hosted, fault: Fault, dockerd: Dockerd | None) -> None:
    match fault:
        case Fault.STOPPED:
            await fleet.relay.open()
        case Fault.SLOW:
            fleet.relay.delay_s = 0.0
        case Fault.REFUSING:
            fleet.relay.refuse = lambda _request: b""
        case Fault.RESTARTED:
            assert dockerd is not None
            await dockerd.start()


async def _more(fleet: Hosted, service: str, before: int) -> bool:
    """Whether a service has what is planned for it, and more than before."""
    return await fleet.quota(service) > before and await fleet.right(service)


async def _less(fleet: Hosted, service: str, before: int) -> bool:
    """As `_more`, and less than before."""
    return await fleet.quota(service) < before and await fleet.right(service)


def refuse_updates(request: bytes) -> bytes:
    """Answer an update of a container as an engine does that has an error of its own; others pass."""
    method, _, rest = request.partition(b" ")
    target = rest.partition(b" ")[0]
    return _REFUSAL if method == b"POST" and target.endswith(b"/update") else b""


async def worker_killed(subject: Subject, folder: Path) -> Outcome:
    """Kill a worker's process under load; its engine starts it again. Raises StartError, also where not root."""
    if os.geteuid() != 0:
        raise StartError("worker killed: expected root, which may kill a container's process from outside")
    async with (
        bed.scenario("worker killed", "its process; its engine starts it again"),
        hosted.up(subject, folder) as fleet,
        offered(_patient(fleet.services), dict.fromkeys(SERVICES, bed.RATE)) as traffic,
        # So that at any time some of its requests are in flight.
        offered(_patient({ONE: fleet.services[ONE]}), {ONE: bed.MORE_RATE}, seed=9) as more,
    ):
        await fleet.settled()
        former = await fleet.view.worker(ONE)
        known = former.worker_id if former else ""
        # From outside: what the engine kills itself it does not start again.
        pid = (await fleet.inspected(ONE))["State"]["Pid"]
        await bed.until(partial(_in_flight, more), what="a request in flight")
        os.kill(pid, signal.SIGKILL)
        killed_at = time.monotonic()
        in_flight = traffic.in_flight(ONE) + more.in_flight(ONE)
        await bed.until(lambda: _back(fleet, known), what="the worker back and planned")
        back_at = time.monotonic()
        await _answered(traffic, back_at)
    rows = [(one.t0, row) for one in (traffic, more) for row in one.rows if row.service == ONE]
    failed = [(t0, row) for t0, row in rows if row.outcome is not Became.ON_TIME]
    before = sum(t0 + row.finished_s < killed_at for t0, row in failed)
    after = sum(t0 + row.scheduled_s >= killed_at for t0, row in failed)
    statuses = {row.status for _, row in failed}
    others = traffic.failures(OTHER)
    return Outcome(
        "worker killed",
        f"its process, with {in_flight} requests in flight; its engine starts it again; clients wait for it",
        [
            Check(
                "of those what fails, fails with UNAVAILABLE",
                f"{len(failed) - before - after}: {', '.join(sorted(statuses)) or 'none'}",
                statuses <= {"UNAVAILABLE"},
            ),
            Check(
                "none before, and none that is sent after that", f"{before}, {after}", before == after == 0
            ),
            Check("none of another service", told(others), not others),
            within("back, warm and planned", [back_at - killed_at], BACK_S),
        ],
    )


def _patient(services: Mapping[str, Service]) -> dict[str, Service]:
    """The services, asked by clients that wait while no worker is ready: each has only one."""
    return {name: replace(service, patient=True) for name, service in services.items()}


async def _in_flight(traffic: Traffic) -> bool:
    return traffic.in_flight(ONE, _ARRIVED_S) > 0


async def _back(fleet: Hosted, known: str) -> bool:
    worker = await fleet.view.worker(ONE)
    return worker is not None and worker.worker_id != known and await fleet.view.planned(ONE)


async def _answered(traffic: Traffic, since: float) -> None:
    """Wait until something of the one has been answered that was due after `since`."""

    async def read() -> bool:
        return bool(traffic.due(ONE, since, time.monotonic()))

    await bed.until(read, what="an answer")


async def recreated(subject: Subject, folder: Path) -> Outcome:
    """Create a worker's container anew with other limits, as by hand or by Compose. Raises StartError."""
    other = Limits(cpu_quota=85_000, cpu_period=50_000)
    millicores = other.cpu_quota * 1000 // other.cpu_period
    fault, done = "container recreated", f"with {millicores} millicores over another period"
    async with (
        bed.scenario(fault, done),
        hosted.up(subject, folder) as fleet,
        offered({OTHER: fleet.services[OTHER]}, {OTHER: bed.RATE}) as traffic,
    ):
        await fleet.settled()
        before = await fleet.view.worker(ONE)
        await fleet.call(fleet.containers[ONE].remove, force=True)
        fleet.containers[ONE] = await fleet.call(fleet.create, ONE, other)
        began_at = time.monotonic()
        known = before.worker_id if before else ""
        await bed.until(lambda: _back(fleet, known), what="the worker back and planned")
        await bed.until(lambda: fleet.right(ONE), what="the right allocation")
        took, after = time.monotonic() - began_at, await fleet.quota(ONE)
        found = [
            event["quota_millicores"]
            for event in fleet.events()
            if event["event"] == "worker attached" and event["service"] == ONE
        ]
    failures = traffic.failures()
    return Outcome(
        fault,
        done,
        [
            Check("its limits are noticed", f"{found[-1]} millicores", found[-1] == millicores),
            Check("it is resized", f"{millicores} → {after} millicores", after != millicores),
            Check("no failed request of another service", told(failures), not failures),
            within("adopted and resized, from its creation", [took], NOTICED_S),
        ],
    )


async def limits_changed(subject: Subject, folder: Path) -> Outcome:
    """Change the limits of a worker's container while it runs, as by hand. Raises StartError."""
    async with (
        bed.scenario("limits changed by hand", "of a running container"),
        hosted.up(subject, folder) as fleet,
        offered(fleet.services, dict.fromkeys(SERVICES, bed.RATE)) as traffic,
    ):
        await fleet.settled()
        before = await fleet.quota(ONE)
        more = 2 * before
        period_us = hosted.AS_USUAL.cpu_period
        await fleet.call(
            fleet.containers[ONE].update, cpu_quota=more * period_us // 1000, cpu_period=period_us
        )
        changed_at = time.monotonic()
        seen = await bed.within_patience(lambda: _other(fleet, more))
        took, after = time.monotonic() - changed_at, await fleet.quota(ONE)
    failures = traffic.failures()
    return Outcome(
        "limits changed by hand",
        f"of a running container, from {before} to {more} millicores",
        [
            Check("noticed, and resized", f"{after} millicores", seen),
            Check("no failed request", told(failures), not failures),
            within("that is", [took], NOTICED_S),
        ],
    )


async def _other(fleet: Hosted, quota: int) -> bool:
    return await fleet.quota(ONE) != quota
