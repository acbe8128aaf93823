"""Experiment «overload»: what servers still answer in time when they are asked for more than they can do."""

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from matplotlib.figure import Figure
from msgspec import Meta

from core.config import ConfigError, Section, load
from evaluation.experiment.finding import Cell, Finding, Goal, Plot, Table, machine
from evaluation.experiment.kinds import Options
from evaluation.process import StartError
from evaluation.serving import client, measuring, running, subjects
from evaluation.serving.peers import PEERS, Missing
from evaluation.serving.recipes import OURS, SPONGE, Recipe
from evaluation.serving.running import Host
from evaluation.serving.sample import Closed, Load, Open, Sample, merged
from evaluation.serving.subjects import Subject

GOODPUT_GOAL = 0.95
# Beyond this lateness of its own the client has not offered what it says.
_MOST_LAG_S = 0.05

Positive = Annotated[float, Meta(gt=0)]


class Settings(Section, frozen=True, kw_only=True):
    """A whole overload.toml."""

    kind: Literal["overload"]
    title: str
    question: str
    model: str
    deadline_ms: Positive
    # Rates, over what clients get that wait for their answers: the most that is answered in time is the capacity.
    sweep: Annotated[list[Positive], Meta(min_length=1)]
    factors: Annotated[list[Positive], Meta(min_length=1)]  # of the capacity, that all are offered
    seconds: Positive  # of each window
    lead_s: Positive  # under the same load before it
    rounds: Annotated[int, Meta(ge=1)]
    peers: list[str]


class Offers:
    """What was offered, over all rounds, and what came of it: by server and factor."""

    def __init__(
        self, at_capacity: Sequence[Sample], samples: Mapping[tuple[str, float], Sequence[Sample]]
    ) -> None:
        self._at_capacity = merged(at_capacity)
        self._samples = samples

    @property
    def capacity(self) -> float:
        """What Sponge answers in time a second where that is most, in the same rounds as all else."""
        return _per_second(self._at_capacity)

    @property
    def servers(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self._samples))

    def of(self, server: str) -> list[tuple[float, Sample]]:
        """By rising factor."""
        found = {factor: merged(seen) for (name, factor), seen in self._samples.items() if name == server}
        return sorted(found.items(), key=lambda one: one[0])


def run(toml: Path, output: Path, options: Options) -> Finding:
    """Measure all. Raises ConfigError, KeyboardInterrupt."""
    settings = load(toml, Settings)
    if options.seconds is not None:
        settings = _shorter(settings, options.seconds)
    recipes, missing = _recipes(settings.peers, options.progress)
    try:
        host = replace(running.divide(), server_cpus=frozenset(), client_cpus=frozenset())
        offers = asyncio.run(_measure(settings, recipes, missing, host, options.progress))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except (StartError, OSError) as error:
        raise ConfigError(str(error)) from error
    titles = {name: recipe.title for name, recipe in recipes.items()}
    return Finding(
        experiment="overload",
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings=machine()
        | {
            "load": f"{settings.model}, Poisson arrivals, each with a deadline of {settings.deadline_ms:g} ms",
            "quota": f"{host.quota_millicores / 1000:g} cores for the server, of all CPUs; the client has no quota",
            "windows": f"{settings.rounds} of {settings.seconds:g} s, each on a server that was just started, after "
            f"{settings.lead_s:g} s under the same load",
        },
        tables=[_table(offers, titles)],
        goals=[_goal(offers, factor) for factor in settings.factors if factor > 1],
        plots=[_plot(offers, titles, output / "overload-goodput.png")],
        notes=[*_notes(offers), *(f"Missing: {reason}." for reason in missing.values())],
    )


def _shorter(settings: Settings, seconds: float) -> Settings:
    changed = {"seconds": seconds, "lead_s": min(settings.lead_s, seconds), "rounds": 1}
    return type(settings)(**{name: getattr(settings, name) for name in settings.__struct_fields__} | changed)


def _recipes(
    peers: Sequence[str], progress: Callable[[str], None]
) -> tuple[dict[str, Recipe], dict[str, str]]:
    """Sponge's and those of peers, installed; and why others are missing. Raises ConfigError."""
    recipes, missing = {SPONGE: OURS[SPONGE]}, {}
    for name in peers:
        if name not in PEERS:
            raise ConfigError(f"peers: expected some of {', '.join(PEERS)}, got {name}")
        progress(f"{name}: installing unless it is there")
        try:
            PEERS[name].install()
            recipes[name] = PEERS[name].recipe()
        except Missing as error:
            missing[name] = str(error)
    return recipes, missing


async def _measure(
    settings: Settings,
    recipes: Mapping[str, Recipe],
    missing: dict[str, str],
    host: Host,
    progress: Callable[[str], None],
) -> Offers:
    """Find Sponge's capacity, then offer multiples of it to all. Raises StartError if Sponge does not start."""
    samples: dict[tuple[str, float], list[Sample]] = {}
    with tempfile.TemporaryDirectory(prefix="sponge-overload-") as folder:
        subject = subjects.build(settings.model, Path(folder))
        places = (Path(folder) / str(number) for number in itertools.count())

        async def offer(name: str, loads: Sequence[Load]) -> list[Sample]:
            progress(f"{name}: {loads[-1]}")
            return await _offer(recipes[name], subject, next(places), host, loads, settings)

        (closed,) = await offer(SPONGE, [Closed(2 * subject.max_batch)])
        rates = [closed.rps * share for share in settings.sweep]
        swept = await offer(SPONGE, [Open(rate, settings.deadline_ms) for rate in rates])
        best = max(range(len(rates)), key=lambda index: _per_second(swept[index]))
        capacity = _per_second(swept[best])
        again: list[Sample] = []  # beside everything else, as machines drift
        for number in range(settings.rounds):
            again += await offer(SPONGE, [Open(rates[best], settings.deadline_ms, seed=number + 1)])
            for factor, name in itertools.product(settings.factors, recipes):
                if name in missing:
                    continue
                load = Open(factor * capacity, settings.deadline_ms, seed=number + 1)
                try:
                    samples.setdefault((name, factor), []).extend(await offer(name, [load]))
                except StartError as error:
                    if name == SPONGE:
                        raise
                    missing[name] = str(error)
    return Offers(again, {key: seen for key, seen in samples.items() if seen})


async def _offer(
    recipe: Recipe, subject: Subject, folder: Path, host: Host, loads: Sequence[Load], settings: Settings
) -> list[Sample]:
    """What came of these loads, one after the other, on a server that has just been started. Raises StartError."""
    async with (
        running.started(recipe, subject, folder, host) as server,
        client.connect(recipe.dialect, server.address) as way,
    ):
        await measuring.wait_until_right(server, way)
        await measuring.measure(server, way, Closed(2), settings.lead_s, 0.0)
        return [
            await measuring.measure(server, way, load, settings.seconds, settings.lead_s) for load in loads
        ]


def _per_second(sample: Sample) -> float:
    return sample.in_time / sample.seconds


def _table(offers: Offers, titles: Mapping[str, str]) -> Table:
    rows: list[list[Cell]] = [
        [
            titles[name],
            factor,
            sample.offered / sample.seconds,
            _per_second(sample),
            100 * _per_second(sample) / offers.capacity,
            100 * sample.goodput,
            sample.cpu_s / sample.seconds,
            sample.client_cpu_s / sample.seconds,
            1000 * sample.lag_s,
        ]
        for name in offers.servers
        for factor, sample in offers.of(name)
    ]
    return Table(
        title="What is answered in time of what is offered",
        columns=[
            "server", "× capacity", "offered/s", "in time/s", "% of capacity", "% of offered", "CPU, cores",
            "client's CPU", "client late, ms",
        ],
        rows=rows,
        note=f"Capacity is what Sponge answers in time where that is most, {offers.capacity:.1f} a second. A client that "
        "is late itself, here at the 99 % quantile, has its lateness counted in all latencies.",
    )  # fmt: skip


def _goal(offers: Offers, factor: float) -> Goal:
    found = dict(offers.of(SPONGE))
    share = _per_second(found[factor]) / offers.capacity
    return Goal(
        goal=f"at {factor:g} × the capacity goodput ≥ {GOODPUT_GOAL:.0%} of it",
        measured=f"{share:.1%}",
        met=share >= GOODPUT_GOAL,
    )


def _notes(offers: Offers) -> list[str]:
    late = sorted(
        {factor for name in offers.servers for factor, one in offers.of(name) if one.lag_s > _MOST_LAG_S}
    )
    if not late:
        return []
    factors = ", ".join(f"{factor:g}" for factor in late)
    return [f"The client was late at {factors} × the capacity: this machine could not offer as much."]


def _plot(offers: Offers, titles: Mapping[str, str], path: Path) -> Plot:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name in offers.servers:
        seen = offers.of(name)
        axis.plot(
            [sample.offered / sample.seconds for _, sample in seen],
            [_per_second(sample) for _, sample in seen],
            marker="o",
            label=titles[name],
        )
    axis.axhline(offers.capacity, color="0.6", linestyle=":", linewidth=1)
    axis.set(
        xscale="log", xlabel="offered, requests/s", ylabel="answered in time, requests/s", ylim=(0, None)
    )
    axis.legend()
    figure.savefig(path, dpi=110)
    return Plot(file=path.name, caption="Goodput against offered load; dotted: Sponge's capacity")
