"""The demo's load for workers that run already, as under Compose."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.access import OPEN, Access
from evaluation import demo, measure, scenario
from evaluation.admin import Admin
from evaluation.measure import Offered, Progress, Stage
from evaluation.result import Result


@dataclass(frozen=True, slots=True)
class Options:
    """Where to send what; `addresses` by service and `control` as HOST:PORT."""

    models: Path
    addresses: Mapping[str, str]
    control: str
    bandwidth: Path | None = None
    seconds: float = 100.0
    seed: int = 59
    access: Access = OPEN  # to the control plane


async def run(options: Options, progress: Progress) -> Result:
    """Measure the models here, then offer OFFERED_SHARE of what the control plane says its host has.

    Raises bandwidth.TraceError, OSError, ControlPlaneError.
    """
    trace = demo.network(options.bandwidth, options.seed, options.seconds)
    async with contextlib.aclosing(Admin(options.control, options.access)) as admin:
        fleet = await admin.fleet()  # before anything that takes longer
        progress(Stage("preparing models and inputs, measuring this host", 0, 1))
        subjects = await scenario.prepare(options.models, options.seed, options.seconds)
        offer = scenario.offer_for(subjects, fleet.host_millicores)
        schedule = scenario.arrivals(offer, subjects, options.seconds, options.seed)
        offered = Offered(subjects, schedule, trace, options.seconds)
        done = await measure.run("sponge", admin, options.addresses, offered, progress)
    return Result(
        settings=demo.describe(offer, subjects, trace) | {"resized by": fleet.actuator},
        slo_ms={subject.name: subject.slo_ms for subject in subjects},
        minimum_service_ms={subject.name: 1000 * subject.row_cpu_s for subject in subjects},
        holds_quota=fleet.actuator != "threads",
        runs=[done],
    )
