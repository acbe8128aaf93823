"""A worker under a control plane that resizes it every second, and when it did."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from controlplane.config import Governor
from evaluation.admin import Admin, ControlPlaneError
from evaluation.embedded import Embedded
from evaluation.endurance.seesaw import CONFIGURATIONS, LIMITS
from evaluation.endurance.swaps import Swap
from evaluation.fleet import ControlSpec, WorkerSpec
from evaluation.process import Process
from evaluation.serving.subjects import Subject

SLO_MS = 10_000.0
# Whatever is planned goes through at once.
_CONTROL = ControlSpec(
    "evaluation.endurance.seesaw", governor=Governor(shrink_hold_s=0.0, dead_band_millicores=0)
)


@dataclass(slots=True)
class Bed:
    """What runs; `decided_s` tells when a version was decided, on the monotonic clock."""

    address: str
    process: Process
    journal: Path
    decided_s: dict[tuple[int, int], float] = field(default_factory=dict)

    def swaps(self) -> list[Swap]:
        """Every allocation that the worker has put in force so far, as its log tells."""
        offset_s = time.time() - time.monotonic()
        swaps = []
        for line in self.process.log.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a last line that is not yet whole
                event = json.loads(line)
                if event["event"] == "allocation applied":
                    version = tuple(event["version"])
                    applied_s = datetime.fromisoformat(event["timestamp"]).timestamp() - offset_s
                    shape = (event["instances"], event["threads"], event["max_batch"])
                    # The news of a decision may come later than the log's of what came of it.
                    decided_s = min(applied_s, self.decided_s.get(version, applied_s))
                    swaps.append(Swap(decided_s, applied_s, *shape))
        return swaps


@asynccontextmanager
async def seesawing(subject: Subject, directory: Path, *, journal: bool) -> AsyncIterator[Bed]:
    """Serve `subject` while the block runs; with `journal` its end leaves one. Raises StartError."""
    pages = directory / "journal.json"
    spec = WorkerSpec(
        service=subject.name,
        model=subject.path.resolve(),
        slo_ms=SLO_MS,
        start=CONFIGURATIONS[0],
        limits=LIMITS,
        warmup_shapes={subject.input: subject.row},
        module="evaluation.journal" if journal else "dataplane",
        arguments=("--journal", str(pages)) if journal else (),
    )
    async with Embedded(directory, [spec], LIMITS.max_millicores, _CONTROL) as embedded:
        bed = Bed(embedded.addresses[spec.service], embedded.process(spec.service), pages)
        watching = asyncio.create_task(_watch(embedded.admin, bed))
        try:
            yield bed
        finally:
            watching.cancel()
            await asyncio.wait([watching])


async def _watch(admin: Admin, bed: Bed) -> None:
    with contextlib.suppress(ControlPlaneError):  # it is stopped before this is
        async for decision in admin.decisions():
            version = (decision.version.term, decision.version.epoch)
            bed.decided_s[version] = time.monotonic() - decision.age_s
