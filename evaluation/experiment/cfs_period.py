"""Experiment «cfs-period»: a real worker under CPU quotas with longer and shorter periods."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from controlplane import config
from core.cgroup import MIN_QUOTA_US, CgroupError
from core.config import ConfigError, Section, load
from evaluation import process
from evaluation.experiment import cfs_plot, footprint, throttled
from evaluation.experiment.finding import Finding, Goal, Plot, Table, machine
from evaluation.experiment.kinds import Options
from evaluation.experiment.rounds import Rounds, cpu_ms, health_ms, mean_ms, median, ratio, service_ms, spread
from evaluation.experiment.throttled import Observation, Setting
from evaluation.process import StartError

DEFAULT_MS = config.Actuator().period_us // 1000
# What the default may cost in CPU, over the longest period: the reason not to go shorter.
MOST_COST = 1.03
MOST_BUSY = 0.9
# How much longer below a core a time may be by chance.
MOST_LONGER = 1.05


class Settings(Section, frozen=True, kw_only=True):
    """A whole cfs-period.toml."""

    kind: str
    title: str
    question: str
    seed: int
    models: Annotated[list[Literal["magika", "vision"]], Meta(min_length=1)]
    periods_ms: Annotated[list[Annotated[int, Meta(ge=1, le=1000)]], Meta(min_length=2, max_length=4)]
    quotas_millicores: Annotated[list[Annotated[int, Meta(ge=100)]], Meta(min_length=1)]
    rounds: Annotated[int, Meta(ge=1)]
    seconds: Annotated[float, Meta(gt=0)]


def run(toml: Path, output: Path, options: Options) -> Finding:
    """Measure, and say whether the period that Sponge sets by default is supported. Raises ConfigError."""
    settings = load(toml, Settings)
    if DEFAULT_MS not in settings.periods_ms:
        raise ConfigError(f"{toml}: periods_ms: expected the default of {DEFAULT_MS} among them")
    if min(settings.quotas_millicores) * min(settings.periods_ms) < MIN_QUOTA_US:
        raise ConfigError(
            f"{toml}: quotas_millicores: expected at least {-(-MIN_QUOTA_US // min(settings.periods_ms))}, which are "
            f"the {MIN_QUOTA_US} µs that kernels take of a period of {min(settings.periods_ms)} ms"
        )
    host = footprint.HostLoad()
    try:
        measured = process.run(_measure(settings, options))
    except (StartError, CgroupError) as error:
        raise ConfigError(str(error)) from error
    busy = host.share()
    reference = settings.periods_ms[0]
    file = f"{toml.stem}.png"
    cfs_plot.plot(output / file, measured, reference)
    judged = [goal for model, rounds in measured.items() for goal in goals(model, rounds, reference)]
    return Finding(
        experiment=toml.stem,
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings=machine()
        | {
            "load": "one execution after the other on one thread, a request always waiting; health checks 50 a second",
            "host": f"{busy:.0%} busy",
            "rounds": f"{settings.rounds} of {options.seconds or settings.seconds:g} s for each setting, in random "
            f"order; seed {settings.seed}",
        },
        tables=[table(model, rounds, reference) for model, rounds in measured.items()],
        goals=judged,
        plots=[
            Plot(
                file=file,
                caption="Medians of the rounds, with the range of those. Left to right: service time, health check, "
                "CPU of an execution over that with the longest period.",
            )
        ],
        notes=[verdict(judged, busy)],
    )


async def _measure(settings: Settings, options: Options) -> dict[str, Rounds]:
    """By model. Raises StartError."""
    random = np.random.default_rng(settings.seed)
    cells = [Setting(quota, period) for quota in settings.quotas_millicores for period in settings.periods_ms]
    measured: dict[str, Rounds] = {}
    with tempfile.TemporaryDirectory(prefix="sponge-cfs-") as folder:
        for model in footprint.demo_models(Path(folder)):
            if model.service not in settings.models:
                continue
            rounds: dict[Setting, list[Observation]] = {cell: [] for cell in cells}
            async with throttled.subject(Path(folder), model) as subject:
                for number in range(settings.rounds):
                    for index in random.permutation(len(cells)):
                        cell = cells[index]
                        options.progress(
                            f"{model.service}: round {number + 1} of {settings.rounds}, "
                            f"{cell.quota_millicores} millicores, {cell.period_ms} ms"
                        )
                        rounds[cell].append(await subject.observe(cell, options.seconds or settings.seconds))
            measured[model.service] = rounds
    return measured


def table(model: str, rounds: Rounds, reference_ms: int) -> Table:
    """Medians over the rounds of one model."""
    return Table(
        title=f"{model}: medians of the rounds",
        columns=(
            "quota", "period ms", "executions", "mean ms", "range of means", "p95 ms", "p99 ms",
            "CPU ms an execution", f"CPU over {reference_ms} ms", "throttled %", "health p50 ms", "health p99 ms",
        ),
        rows=[
            (
                f"{setting.quota_millicores / 1000:g}",
                setting.period_ms,
                sum(len(observation.service_ms) for observation in observations),
                median(observations, mean_ms),
                "{:.1f} to {:.1f}".format(*spread(observations, mean_ms)),
                median(observations, service_ms(95)),
                median(observations, service_ms(99)),
                median(observations, cpu_ms),
                ratio(rounds, setting, reference_ms, cpu_ms),
                100 * median(observations, lambda observation: observation.throttled_share),
                median(observations, health_ms(50)),
                median(observations, health_ms(99)),
            )
            for setting, observations in rounds.items()
        ],
        note="Quota in cores. CPU is the whole worker's, and its ratio is that of the same round. Throttled: share "
        "of the periods in which the quota was used up.",
    )  # fmt: skip


def goals(model: str, rounds: Rounds, reference_ms: int) -> list[Goal]:
    """What the default period is chosen for: it costs little, and throttled workers stand still for less long."""
    ours = [setting for setting in rounds if setting.period_ms == DEFAULT_MS]
    cost = {s.quota_millicores: ratio(rounds, s, reference_ms, cpu_ms) for s in ours}
    dearest = max(cost, key=cost.__getitem__)
    found = [
        Goal(
            goal=f"{model}: {DEFAULT_MS} ms costs ≤ {MOST_COST - 1:.0%} CPU over {reference_ms} ms at every quota",
            measured=f"{cost[dearest] - 1:+.1%} at {dearest} millicores",
            met=cost[dearest] <= MOST_COST,
        )
    ]
    for name, statistic in (("service p95", service_ms(95)), ("health check p99", health_ms(99))):
        limit = f"≤ {MOST_LONGER:g} × that at {reference_ms} ms"
        below = {
            s.quota_millicores: ratio(rounds, s, reference_ms, statistic)
            for s in ours
            if s.quota_millicores < 1000
        }
        if below:
            worst = max(below, key=below.__getitem__)
            found.append(
                Goal(
                    goal=f"{model}: below one core {name} at {DEFAULT_MS} ms {limit}",
                    measured=f"{below[worst]:.2f} × at {worst} millicores",
                    met=below[worst] <= MOST_LONGER,
                )
            )
    return found


def verdict(judged: Sequence[Goal], host_busy: float) -> str:
    """One sentence on the default; no claim from a host that was too busy, as a share of its CPU time."""
    if host_busy > MOST_BUSY:
        return (
            f"Sponge sets a period of {DEFAULT_MS} ms by default. The host was {host_busy:.0%} busy: this run "
            "supports no claim."
        )
    missed = [f"{goal.goal}: {goal.measured}" for goal in judged if goal.met is False]
    if not missed:
        return f"Sponge sets a period of {DEFAULT_MS} ms by default, and the data support it."
    return (
        f"Sponge sets a period of {DEFAULT_MS} ms by default; the data support it but for "
        f"{len(missed)} of {len(judged)} points ({'; '.join(missed)})."
    )
