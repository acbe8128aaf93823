"""What a worker reports is lost or late, or a lie."""

import asyncio
import time
from pathlib import Path

from evaluation.faults import bed
from evaluation.faults.bed import ONE, OTHER, SERVICES, Bed
from evaluation.faults.outcome import Check, Outcome, within
from evaluation.faults.traffic import offered, told
from evaluation.serving.subjects import Subject

PLANNED_S = 5.0


async def lost(subject: Subject, folder: Path, seconds: float) -> Outcome:
    """Cut the stream of one worker and let it not attach again for `seconds`. Raises StartError."""
    return await _disturbed(subject, folder, seconds, "telemetry lost", cut=True)


async def delayed(subject: Subject, folder: Path, seconds: float) -> Outcome:
    """Hold back all that one worker reports for `seconds`, and then let it come at once. Raises StartError."""
    return await _disturbed(subject, folder, seconds, "telemetry delayed", cut=False)


async def _disturbed(subject: Subject, folder: Path, seconds: float, fault: str, *, cut: bool) -> Outcome:
    done = f"of one of two workers, for {seconds:g} s, while the other needs more"
    async with bed.scenario(fault, done), bed.up(subject, folder, relayed=ONE) as fleet:
        relay = fleet.relay
        assert relay is not None
        async with offered(fleet.services, dict.fromkeys(SERVICES, bed.RATE)) as traffic:
            await fleet.calm()
            if cut:
                await relay.cut()
            else:
                relay.hold()
            silent_at, kept = time.monotonic(), fleet.quota(ONE)
            await bed.until(lambda: _unplanned(fleet), what=f"{ONE} silent")
            before = fleet.quota(OTHER) or 0
            # The other one needs more just now.
            async with offered({OTHER: fleet.services[OTHER]}, {OTHER: bed.MORE_RATE}, seed=9) as more:
                await bed.at_last(lambda: fleet.grown(OTHER, before))
                after = fleet.quota(OTHER) or 0
                quotas = {fleet.quota(ONE)}
                while time.monotonic() < silent_at + seconds:
                    quotas.add(fleet.quota(ONE))
                    await asyncio.sleep(0.05)
                await relay.open()
                heard_at = time.monotonic()
                await bed.until(lambda: fleet.view.planned(*SERVICES), what=f"{ONE} planned again")
                took = time.monotonic() - heard_at
    failures = traffic.failures() + more.failures()
    return Outcome(
        fault,
        done,
        [
            Check("no failed request", told(failures), not failures),
            Check(
                "the silent one keeps its allocation",
                f"{kept} millicores; meanwhile {', '.join(map(str, quotas))}",
                quotas == {kept},
            ),
            bed.follows("the other one is resized", before, after),
            within("it is planned again", [took], PLANNED_S),
        ],
    )


async def _unplanned(fleet: Bed) -> bool:
    return not await fleet.view.planned(ONE)
