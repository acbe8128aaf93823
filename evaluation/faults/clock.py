"""The wall clock of all planes is stepped while they run: nothing may depend on it."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from evaluation.embedded import CONTROL
from evaluation.faults import bed
from evaluation.faults.bed import OTHER, SERVICES, Bed
from evaluation.faults.outcome import Check, Outcome
from evaluation.faults.traffic import offered, told
from evaluation.process import StartError
from evaluation.serving.subjects import Subject

STEP_S = 3600
_LIBRARIES = "*/faketime/libfaketimeMT.so.1"
# What a stream that ends says, on either side.
_BREAKS = ("control plane out of reach", "worker gone")


def library() -> Path | None:
    """Libfaketime, as Debian's package faketime installs it; None where that is not installed."""
    return next(iter(sorted(Path("/usr/lib").glob(_LIBRARIES))), None)


async def stepped(subject: Subject, folder: Path, seconds: float) -> Outcome:
    """Step the clock of the control plane and of both workers by an hour, ahead and back, `seconds` each.

    The machine's own clock stays: a library between the processes and the kernel adds to what that says. Raises
    StartError, also without the library.
    """
    preload = await asyncio.to_thread(library)
    if preload is None:
        raise StartError("libfaketime: expected to be installed, as by apt-get install faketime")
    clock = folder / "clock"
    clock.write_text("+0\n")
    fault, done = "clock stepped", f"of all planes, an hour ahead and {seconds:g} s later back again"
    async with (
        bed.scenario(fault, done),
        bed.up(subject, folder, environment=_environment(preload, clock)) as fleet,
        offered(fleet.services, dict.fromkeys(SERVICES, bed.RATE)) as traffic,
    ):
        await fleet.calm()
        before = fleet.quota(OTHER) or 0
        _set(clock, STEP_S)
        # What it decides from now on is of another time.
        async with offered({OTHER: fleet.services[OTHER]}, {OTHER: bed.MORE_RATE}, seed=9) as more:
            await bed.at_last(lambda: fleet.grown(OTHER, before))
            after = fleet.quota(OTHER) or 0
            await asyncio.sleep(seconds)
        _set(clock, 0)
        await asyncio.sleep(seconds)
        await fleet.settled()
        stepped_s = _furthest(fleet)
        breaks = [
            event["event"]
            for name in (CONTROL, *SERVICES)
            for event in fleet.events(name)
            if event["event"] in _BREAKS
        ]
    failures = traffic.failures() + more.failures()
    return Outcome(
        fault,
        done,
        [
            Check("their logs tell of another hour", f"{stepped_s:.0f} s apart", stepped_s > STEP_S / 2),
            Check("no failed request", told(failures), not failures),
            Check("no stream ends", ", ".join(breaks) or "none", not breaks),
            bed.follows("an allocation follows the load meanwhile", before, after),
        ],
    )


def _environment(preload: Path, clock: Path) -> Mapping[str, str]:
    return {
        "LD_PRELOAD": str(preload),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",  # seconds; to read the file each time would be what takes the CPU
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",  # its name before
        # Its own for condition variables ends waits of gRPC's again and again: half of the CPU would go there.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }


def _set(clock: Path, seconds: int) -> None:
    """Replace the file as a whole: it is read once a second."""
    new = clock.with_suffix(".new")
    new.write_text(f"+{seconds}\n")
    new.replace(clock)


def _furthest(fleet: Bed) -> float:
    """Seconds between the first line of the control plane's log and the latest by its own clock."""
    times = [datetime.fromisoformat(event["timestamp"]) for event in fleet.events(CONTROL)]
    return max((at - times[0]).total_seconds() for at in times)
