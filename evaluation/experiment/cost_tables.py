"""What control costs, as tables, goals and words."""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.experiment import telemetry_size
from evaluation.experiment.effect_time import Effect, Step, Way
from evaluation.experiment.finding import Goal, Table
from evaluation.experiment.footprint import ControlPlane, Worker
from evaluation.experiment.telemetry_size import Size

# From distress to the larger quota in force, 99 of 100.
EFFECT_GOALS_MS = {Way.LOCAL: 40, Way.DIRECT: 40, Way.DOCKER: 150}
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that tables and plots are made of."""

    sizes: Sequence[Size]
    control_planes: Sequence[ControlPlane]
    workers: Sequence[Worker]
    effects: Sequence[Effect]
    unavailable: Sequence[str]  # what this machine did not offer


def tables(measured: Measured, rate: float, max_batch: int) -> list[Table]:
    """Everything that was measured; workers reported `rate` requests per second, and ran up to `max_batch` rows."""
    return [
        _telemetry(measured.sizes),
        Table(
            title="Control plane",
            columns=("workers", "RSS MiB", "CPU cores"),
            rows=[(c.workers, c.rss_bytes / _MIB, c.cores) for c in measured.control_planes],
            note=f"Workers report five times a second, {rate:g} requests per second each, and are "
            "planned every second; none is resized by a quota.",
        ),
        Table(
            title="Worker",
            columns=("model", "RSS MiB", "bare ONNX Runtime MiB", "Sponge adds MiB", "idle CPU cores"),
            rows=[
                (
                    w.service,
                    w.rss_bytes / _MIB,
                    w.bare_rss_bytes / _MIB,
                    (w.rss_bytes - w.bare_rss_bytes) / _MIB,
                    w.idle_cores,
                )
                for w in measured.workers
            ],
            note="Both have run the same session on the same batches, up to "
            f"{max_batch} rows; bare is Python with numpy and ONNX Runtime.",
        ),
        Table(
            title="Until the larger quota is in force",
            columns=("actuator", "from", "resizes", "p50 ms", "p99 ms", "most ms"),
            rows=[
                (
                    effect.way.value,
                    effect.step.value,
                    len(effect.seconds),
                    effect.quantile_ms(0.5),
                    effect.quantile_ms(0.99),
                    effect.quantile_ms(1.0),
                )
                for effect in measured.effects
            ],
            note="Seen in the control group's own file every 0.2 ms. «distress report»: from the worker's report, over "
            "gRPC and the planner; «decision»: from the retargeting; «owner alone»: the bare container update or "
            "write. What an update that was still under way takes back within 100 ms was not in force. All from 500 "
            "millicores, used up by a spinning thread; the three take turns.",
        ),
    ]


def goals(measured: Measured) -> list[Goal]:
    """What was promised of effects; what was not measured has no goal."""
    made = []
    for effect in measured.effects:
        if effect.step is Step.DISTRESS:
            most = EFFECT_GOALS_MS[effect.way]
            p99_ms = effect.quantile_ms(0.99)
            made.append(
                Goal(
                    goal=f"{effect.way.value}: distress to quota in force, p99 ≤ {most} ms",
                    measured=f"{p99_ms:.0f} ms",
                    met=p99_ms <= most,
                )
            )
    return made


def _telemetry(sizes: Sequence[Size]) -> Table:
    queues = sorted({size.waiting for size in sizes})
    by_case = {(size.rate, size.waiting): size for size in sizes}
    return Table(
        title="Telemetry of one worker, bytes per second (and per sample)",
        columns=("requests/s", *(f"{waiting} waiting" for waiting in queues)),
        rows=[
            (
                f"{rate:g}",
                *(
                    f"{by_case[rate, waiting].bytes_per_s:,.0f} ({by_case[rate, waiting].sample_bytes:,.0f})"
                    for waiting in queues
                ),
            )
            for rate in sorted({size.rate for size in sizes})
        ],
        note="Five samples a second, framing of gRPC and HTTP/2 included. Once: a hello of "
        f"{telemetry_size.hello()} bytes; back, for every resize: a directive of {telemetry_size.directive(8)} bytes.",
    )


def notes(measured: Measured) -> list[str]:
    """What the tables amount to."""
    told = []
    fleet = [plane for plane in measured.control_planes if plane.workers]
    if len(fleet) >= 2:
        first, last = fleet[0], fleet[-1]
        workers = last.workers - first.workers
        told.append(
            f"A worker more costs the control plane {(last.rss_bytes - first.rss_bytes) / workers / _MIB:.2f} MiB and "
            f"{1000 * (last.cores - first.cores) / workers:.1f} millicores."
        )
    by_step = {(effect.way, effect.step): effect for effect in measured.effects}
    pairs = ((way, by_step.get((way, Step.DISTRESS)), by_step.get((way, Step.OWNER))) for way in Way)
    told += [
        f"{way.value}: of the {whole.quantile_ms(0.5):.0f} ms from distress to the quota in force "
        f"{owner.quantile_ms(0.5):.1f} ms are the owner's own in the median, of the p99 of "
        f"{whole.quantile_ms(0.99):.0f} ms {owner.quantile_ms(0.99):.1f}."
        for way, whole, owner in pairs
        if whole and owner
    ]
    return told
