"""The control plane is killed, again and again, under load: another one leads."""

import time
from datetime import datetime
from functools import partial
from pathlib import Path

from evaluation.admin import Admin
from evaluation.faults import bed
from evaluation.faults.bed import SERVICES, Bed, View
from evaluation.faults.outcome import Check, Outcome, within
from evaluation.faults.traffic import offered, told
from evaluation.serving.subjects import Subject

PLANNED_S = 5.0
AGAIN_S = 1.0  # from when the worker that comes last is attached, which is before its first sample


async def control_plane(subject: Subject, folder: Path, kills: int) -> Outcome:
    """Kill the one that leads `kills` times, and start it again to stand by. Raises StartError."""
    took: list[float] = []
    again: list[float] = []
    changed = 0
    async with (
        bed.scenario("control plane killed", f"{kills} times"),
        bed.up(subject, folder, planes=2) as fleet,
        offered(fleet.services, dict.fromkeys(SERVICES, bed.RATE)) as traffic,
    ):
        await fleet.settled()
        admins = {name: Admin(address) for name, address in fleet.embedded.control_addresses.items()}
        leader, follower = admins
        await _logged(fleet, follower, "standing by")
        try:
            for _ in range(kills):
                await fleet.embedded.process(leader).kill()
                killed_at, before = time.monotonic(), fleet.quotas()
                view = View(admins[follower])
                await bed.until(partial(view.planned, *SERVICES), what="the next leader's plan")
                took.append(time.monotonic() - killed_at)
                planned_at = time.time()
                attached = [event for event in fleet.events(follower) if event["event"] == "worker attached"]
                last_at = max(datetime.fromisoformat(event["timestamp"]) for event in attached)
                again.append(planned_at - last_at.timestamp())
                found = {event["service"]: event["quota_millicores"] for event in attached}
                changed += found != before
                await fleet.embedded.start(leader)
                await _logged(fleet, leader, "standing by")
                leader, follower = follower, leader
        finally:
            for admin in admins.values():
                await admin.aclose()
    failures = traffic.failures()
    return Outcome(
        "control plane killed",
        f"{kills} times, with {len(traffic.rows)} requests meanwhile",
        [
            Check("no failed request", told(failures), not failures),
            Check(
                "the next leader finds every allocation as it was",
                f"{kills - changed} of {kills} times",
                not changed,
            ),
            within("the next leader plans", took, PLANNED_S),
            within("that is, from when the last worker attached", again, AGAIN_S),
        ],
    )


async def _logged(fleet: Bed, name: str, event: str) -> None:
    async def read() -> bool:
        return any(line["event"] == event for line in fleet.events(name))

    await bed.until(read, what=f"{name}: {event}")
