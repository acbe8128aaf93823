"""Another tenant of the host takes one of its CPUs for a while."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from evaluation import load
from evaluation.faults import bed
from evaluation.faults.bed import SERVICES, Bed
from evaluation.faults.outcome import Check, Outcome
from evaluation.faults.traffic import Traffic, offered, told
from evaluation.rows import Outcome as Became
from evaluation.serving.subjects import Subject

# Too short for quotas below a core, under which one stands still for a part of the time anyway and would feel little.
SLO_MS = 80.0
# Cores that the executions of each service take, with clients nearly half of one: together less than is left of two
# CPUs, but with waiting.
LOAD = 0.25
_MEASURED_S = 2.0
_DRIFT = "sponge_control_drift_ratio{"
_RECOVERED = 0.02  # of requests more may miss after it than before
_NICE = -10
# Should what started it be killed, the kernel kills it (PR_SET_PDEATHSIG is 1).
_SPIN = "import ctypes; ctypes.CDLL(None).prctl(1, 9)\nwhile True: pass"


@dataclass(frozen=True, slots=True)
class _Phase:
    """A stretch of time: the share of requests that missed, the mean allocation of both, and what was noticed."""

    missed: float
    millicores: float
    drift: float  # the largest ratio of either that was told

    def __str__(self) -> str:
        return f"{100 * self.missed:.1f} % missed, {self.millicores:.0f} millicores"


async def shrinks(subject: Subject, folder: Path, seconds: float) -> Outcome:
    """Take one CPU away for `seconds`, and look at as much time before and after. Raises StartError."""
    cpus = len(os.sched_getaffinity(0))
    rows = [payload.rows for payload in subject.payloads]
    rate = LOAD / await asyncio.to_thread(load.measure, subject.path, rows, _MEASURED_S)
    fault, done = (
        "host shrinks",
        f"by one of {cpus} CPUs for {seconds:g} s, "
        f"with {SLO_MS:g} ms for each of {rate:.0f} requests/s of both services",
    )
    async with (
        bed.scenario(fault, done),
        bed.up(subject, folder, slo_ms=SLO_MS) as fleet,
        offered(fleet.services, dict.fromkeys(SERVICES, rate)) as traffic,
    ):
        await fleet.settled()
        before = await _phase(fleet, traffic, seconds)
        async with neighbour():
            during = await _phase(fleet, traffic, seconds)
        # What it has left behind is answered first.
        await asyncio.sleep(seconds / 4)
        after = await _phase(fleet, traffic, seconds)
    failures = traffic.failures()
    errors = {status: count for status, count in failures.items() if status not in ("late", "refused")}
    return Outcome(
        fault,
        done,
        [
            Check("no request fails but by its deadline", told(type(failures)(errors)), not errors),
            # It takes executions to show, and what a few seconds of them tell is noise.
            Check(
                "drift is seen",
                f"executions take {during.drift:.2f} times what is believed, before it {before.drift:.2f}",
                during.drift > before.drift,
                timed=True,
            ),
            Check(
                "allocations follow",
                f"{before}; then {during}",
                during.millicores > before.millicores,
                timed=True,
            ),
            Check("it recovers", f"{after}", after.missed <= before.missed + _RECOVERED, timed=True),
        ],
    )


async def _phase(fleet: Bed, traffic: Traffic, seconds: float) -> _Phase:
    began_at = time.monotonic()
    quotas: list[int] = []
    drifts: list[float] = []
    while time.monotonic() < began_at + seconds:
        quotas.append(sum(quota or 0 for quota in fleet.quotas().values()))
        if len(drifts) < time.monotonic() - began_at:  # once a second
            drifts.append(await _drift(fleet))
        await asyncio.sleep(0.1)
    await asyncio.sleep(2 * SLO_MS / 1000)  # the last of them end
    rows = [row for service in SERVICES for row in traffic.due(service, began_at, began_at + seconds)]
    missed = sum(row.outcome is not Became.ON_TIME for row in rows)
    return _Phase(missed / max(1, len(rows)), sum(quotas) / len(quotas), max(drifts))


async def _drift(fleet: Bed) -> float:
    """What executions of the worker that is slower take, over what is believed of its model."""
    told = await bed.scrape(fleet.metrics_address)
    return max((ratio for name, ratio in told.items() if name.startswith(_DRIFT)), default=1.0)


@asynccontextmanager
async def neighbour() -> AsyncIterator[Sequence[int]]:
    """Keep one CPU busy while the block runs, with more right to it than others where that may be claimed."""
    cpu = min(os.sched_getaffinity(0))
    process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", _SPIN)
    try:
        os.sched_setaffinity(process.pid, {cpu})
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
        yield [process.pid]
    finally:
        process.kill()
        await process.wait()
