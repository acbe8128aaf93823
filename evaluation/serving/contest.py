"""Servers of one model beside each other: all run, one at a time is awake, and Sponge meets each in pairs."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.experiment.footprint import HostLoad
from evaluation.process import StartError
from evaluation.serving import client, measuring
from evaluation.serving.client import Client
from evaluation.serving.pairs import Pair
from evaluation.serving.plan import Comparison, Plan
from evaluation.serving.recipes import SPONGE, Dialect, Recipe
from evaluation.serving.running import Host, Server, started
from evaluation.serving.sample import Closed, Load, Loop, Sample
from evaluation.serving.subjects import Subject

_SWEEP_S = 0.7
_WARM = Closed(8)


@dataclass(frozen=True, slots=True)
class Found:
    """What was seen of the servers of one model."""

    subject: str
    pairs: Mapping[Comparison, Sequence[Pair]]
    samples: Mapping[tuple[str, Load], Sequence[Sample]]  # by the server's name
    memory_bytes: Mapping[str, int]
    missing: Mapping[str, str]  # servers that did not start, and why
    restarts: Sequence[str]  # of servers that ended while they were compared, and were started again: why
    others_share: float  # of the machine's CPU time: what neither servers nor client have used


class _Failed(Exception):
    """A server that has ended or answers no more, while it was compared."""

    def __init__(self, name: str, reason: StartError) -> None:
        super().__init__(str(reason))
        self.name = name


@dataclass(slots=True)
class _Contest:
    """Servers that run and stand still, and what was seen of them."""

    subject: Subject
    plan: Plan
    recipes: Mapping[str, Recipe]
    host: Host
    folder: Path
    stack: AsyncExitStack
    servers: dict[str, Server] = field(default_factory=dict)
    ways: dict[str, Client | None] = field(default_factory=dict)
    samples: dict[tuple[str, Load], list[Sample]] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)

    async def start(self, name: str) -> None:
        """Start a server, wait until it is right, and warm it up. Raises StartError."""
        recipe, folder = self.recipes[name], self.folder / f"{name}-{len(list(self.folder.glob('*')))}"
        async with AsyncExitStack() as own:
            server = await own.enter_async_context(started(recipe, self.subject, folder, self.host))
            way = None
            if recipe.dialect is not Dialect.LOOP:
                way = await own.enter_async_context(client.connect(recipe.dialect, server.address))
            await measuring.wait_until_right(server, way)
            load = Loop(1) if way is None else _WARM
            await measuring.measure(server, way, load, self.plan.warm_s, lead_s=0.0)
            server.pause()
            self.stack.push_async_exit(own.pop_all())
        self.servers[name], self.ways[name] = server, way

    async def measure(self, name: str, load: Load, seconds: float) -> Sample:
        """Let one server run meanwhile. Raises _Failed."""
        server, way = self.servers[name], self.ways[name]
        server.resume()
        try:
            await measuring.wait_until_right(server, way)
            lead_s = self.plan.lead_s + server.recipe.settle_s
            sample = await measuring.measure(server, way, load, seconds, lead_s)
            self.memory_bytes[name] = server.memory_bytes()
            return sample
        except StartError as error:
            raise _Failed(name, error) from error
        finally:
            server.pause()

    async def pair(self, comparison: Comparison, theirs: Load, *, ours_first: bool) -> Pair:
        """Measure both, one right after the other, and keep what was seen. Raises _Failed."""
        turns = [(SPONGE, comparison.load), (comparison.rival, theirs)]
        seen = {}
        for name, load in turns if ours_first else reversed(turns):
            seen[name] = await self.measure(name, load, comparison.seconds)
        for name, load in turns:
            self.samples.setdefault((name, load), []).append(seen[name])
        return Pair(seen[SPONGE], seen[comparison.rival])

    async def load_of_rival(self, comparison: Comparison) -> Load:
        """The same as ours, or the batch that the bare loop is best at."""
        if not comparison.batches:
            return comparison.load
        loops = [Loop(rows) for rows in comparison.batches]
        if len(loops) == 1:
            return loops[0]
        seconds = min(_SWEEP_S, comparison.seconds)
        speed = {loop: (await self.measure(comparison.rival, loop, seconds)).rps for loop in loops}
        return max(loops, key=speed.__getitem__)


async def run(
    subject: Subject,
    plan: Plan,
    recipes: Mapping[str, Recipe],
    host: Host,
    folder: Path,
    progress: Callable[[str], None],
) -> Found:
    """Start the servers that the comparisons of `subject` name, as far as there are recipes, and measure them.

    All are stopped at the end. A server that ends meanwhile is started again. Raises StartError if Sponge does not
    start, or ends; what does not start of the others is missing from then on.
    """
    comparisons = [one for one in plan.comparisons if one.subject == subject.name and one.rival in recipes]
    missing, restarts, pairs = dict[str, str](), list[str](), dict[Comparison, list[Pair]]()
    busy = _Busy()
    async with AsyncExitStack() as stack:
        contest = _Contest(subject, plan, recipes, host, folder, stack)

        async def start(name: str) -> None:
            progress(f"{subject.name}: starting {name}")
            try:
                await contest.start(name)
            except StartError as error:
                if name == SPONGE:
                    raise
                missing[name] = str(error)

        for name in [SPONGE, *dict.fromkeys(one.rival for one in comparisons)]:
            await start(name)
        loads = {one: await contest.load_of_rival(one) for one in comparisons if one.rival not in missing}
        # Turn by turn, so that a machine that drifts drifts for all comparisons alike.
        for turn in range(max((one.pairs for one in loads), default=0)):
            for one, theirs in loads.items():
                if turn >= one.pairs or one.rival in missing:
                    continue
                progress(f"{subject.name}: pair {turn + 1} of {one.pairs} with {one.rival}, {one.load}")
                try:
                    pair = await contest.pair(one, theirs, ours_first=turn % 2 == 0)
                except _Failed as failed:
                    if failed.name == SPONGE:
                        raise StartError(str(failed)) from failed
                    restarts.append(str(failed))
                    await start(failed.name)
                else:
                    pairs.setdefault(one, []).append(pair)
        others = busy.others([server for name, server in contest.servers.items() if name not in missing])
    return Found(subject.name, pairs, contest.samples, contest.memory_bytes, missing, restarts, others)


class _Busy:
    """What has used the machine since this was made."""

    def __init__(self) -> None:
        self._host, self._began, self._ours = HostLoad(), time.monotonic(), time.process_time()

    def others(self, servers: Sequence[Server]) -> float:
        """Share of its CPU time that is neither these servers' nor this process's."""
        ours_s = sum(server.cpu_s() for server in servers) + time.process_time() - self._ours
        all_s = (os.cpu_count() or 1) * (time.monotonic() - self._began)
        return max(0.0, self._host.share() - ours_s / all_s)
