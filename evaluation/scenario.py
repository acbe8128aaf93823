"""The demo's two services: real models, real inputs, and as much load as this host can take."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from evaluation import load, models, workload
from evaluation.load import Array, Payload
from evaluation.models import Vision
from evaluation.workload import Arrival

VISION, MAGIKA = "vision", "magika"
SLO_MS = {VISION: 1000.0, MAGIKA: 150.0}
# Below half a core the event loop stands still for most of a period: nothing to a second, much to 150 ms.
MIN_MILLICORES = {VISION: 300, MAGIKA: 500}
WARMUP_SHAPES: Mapping[str, Mapping[str, Sequence[int]]] = {
    VISION: {"image": (224, 224, 3)},
    MAGIKA: {"bytes": (2048,)},
}
# Of the CPU there is for workers, in the mean: the burst doubles it.
OFFERED_SHARE = 0.35
# CPU of a request besides the model, on either side of the wire; see `sponge demo`, which prints the generator's.
_WORKER_OVERHEAD_S = {VISION: 0.005, MAGIKA: 0.002}
GENERATOR_S = {VISION: 0.006, MAGIKA: 0.004}
_PICTURES, _FILES = 16, 40
_MEASURE_S = 5.0


@dataclass(frozen=True, slots=True)
class Subject:
    """One service of the demo: its model file, what is sent, and what a row costs on one thread."""

    name: str
    model: Path
    slo_ms: float
    payloads: Sequence[Payload]
    row_cpu_s: float
    min_millicores: int = 500  # the least that a worker may be given

    @property
    def request_cpu_s(self) -> float:
        """CPU that a request takes from the workers' share of the host."""
        return self.row_cpu_s + _WORKER_OVERHEAD_S[self.name]

    def agrees(self, expected: Array, answer: Array) -> bool:
        """Whether an answer is right: the type of a file, the numbers of a picture."""
        return (models.same_label if self.name == MAGIKA else models.same_probabilities)(expected, answer)


def build_models(directory: Path, vision: Vision = Vision.RESNET50) -> None:
    """Make the model files unless they are there."""
    if not all((directory / name).exists() for name in (vision.file, models.MAGIKA)):
        models.build(directory, vision)


def subjects(
    directory: Path, seed: int, seconds: float, vision: Vision = Vision.RESNET50
) -> tuple[Subject, ...]:
    """Prepare inputs and right answers, and measure both models for `seconds` in all."""
    pictures = [picture[None] for picture in islice(models.pictures(seed), _PICTURES)]
    features = [models.features(path.read_bytes())[None] for path in models.files(_FILES)]
    found = []
    for name, file, inputs in ((VISION, vision.file, pictures), (MAGIKA, models.MAGIKA, features)):
        path = directory / file
        row_cpu_s = load.measure(path, inputs[:8], seconds / 2)
        payloads = load.payloads(path, name, inputs)
        found.append(Subject(name, path, SLO_MS[name], payloads, row_cpu_s, MIN_MILLICORES[name]))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Offer:
    """What is offered to whom: host CPU for the workers, and requests/s at factor 1 by service."""

    host_millicores: int
    rates: Mapping[str, float]


def offer(measured: Sequence[Subject], cpus: int, reserved_millicores: int) -> Offer:
    """Share the host between the services and the generator, which runs on it too.

    Every service gets the same CPU work. With H cores for workers, r_s = OFFERED_SHARE·H/(n·c_s), and H is
    what the reserve and the generator's own r_s·g_s in the burst leave.
    """
    share = OFFERED_SHARE / len(measured)
    generated = sum(2 * share * GENERATOR_S[s.name] / s.request_cpu_s for s in measured)
    cores = (cpus - reserved_millicores / 1000) / (1 + generated)
    return offer_for(measured, int(cores * 10) * 100)


def offer_for(measured: Sequence[Subject], host_millicores: int) -> Offer:
    """Give every service the same share of OFFERED_SHARE of `host_millicores`."""
    share = OFFERED_SHARE / len(measured)
    rates = {s.name: share * host_millicores / 1000 / s.request_cpu_s for s in measured}
    return Offer(host_millicores, rates)


def arrivals(offered: Offer, measured: Sequence[Subject], seconds: float, seed: int) -> tuple[Arrival, ...]:
    """Give the whole schedule: base, burst, base, lull, base, of both services at once."""
    pattern = workload.day(seconds)
    return workload.merge(
        *(
            workload.schedule(s.name, offered.rates[s.name], pattern, len(s.payloads), seed=seed + index)
            for index, s in enumerate(measured)
        )
    )


async def prepare(
    directory: Path, seed: int, seconds: float, vision: Vision = Vision.RESNET50
) -> tuple[Subject, ...]:
    """`build_models` and `subjects` off the event loop, for a run of `seconds`: measured no longer than that."""
    await asyncio.to_thread(build_models, directory, vision)
    return await asyncio.to_thread(subjects, directory, seed, min(_MEASURE_S, seconds), vision)
