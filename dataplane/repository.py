"""The versions of the model: which is served, and how another takes its place while requests go on."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import grpc
import structlog

from dataplane import versions
from dataplane.agent import Agent
from dataplane.execution import EngineError, ModelError, Runs, Timing
from dataplane.modelfile import digest_of
from dataplane.refusal import Refusal
from dataplane.served import Model, Served, State
from dataplane.statistics import Statistics
from dataplane.versions import Version
from dataplane.worker import Worker, warm_batches

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Entry:
    """One version as RepositoryIndex tells it."""

    version: str
    state: str
    reason: str = ""


class Repository:
    """Loads versions and takes them away, one change after the other.

    `path` and `version` are where versions are, as in `versions.find`; `build` loads one, and raises ModelError.
    `on_serving` is told when there is a model to serve, and when there is none any more. A change goes on to
    its end when whoever asked for it has gone.
    """

    def __init__(
        self,
        path: Path,
        version: str,
        served: Served,
        worker: Worker,
        agent: Agent,
        statistics: Statistics,
        max_batch: int,
        build: Callable[[Version], Runs],
        on_serving: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._path = path
        self._version = version
        self._served = served
        self._worker = worker
        self._agent = agent
        self._statistics = statistics
        self._max_batch = max_batch
        self._build = build
        self._on_serving = on_serving
        self._generations = count(served.model.generation + 1)
        self._turn = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._loading = ""
        # What is on its way out, by generation, and why versions could not be loaded when that was last tried.
        self._leaving: dict[int, tuple[str, asyncio.Task[None]]] = {}
        self._failed: dict[str, str] = {}

    async def start(self, engine: Runs) -> None:
        """Warm up and serve `engine`, the one of `served` and of the worker. Raises EngineError."""
        async with self._turn:
            await self._serve(self._served.model, await self._warm(engine, self._served.model))

    async def load(self) -> None:
        """Serve the newest version there is, as it is now; nothing happens if that is served already.

        What is served until then answers what was asked of it. Raises Refusal.
        """
        await self._to_its_end(self._load())

    async def unload(self) -> None:
        """Take no more requests, answer those that wait, and free the memory. Raises Refusal."""
        await self._to_its_end(self._unload())

    async def index(self) -> list[Entry]:
        """All versions there are, and those that are served without, the newest first."""
        try:
            names = [each.name for each in await asyncio.to_thread(versions.find, self._path, self._version)]
        except ModelError as error:
            log.error("repository not read", error=str(error))
            names = []
        leaving = {version for version, _ in self._leaving.values()}
        known = {*names, self._served.model.signature.version, *leaving, self._loading} - {""}
        return [self._entry(name, name in leaving) for name in sorted(known, key=_newest_first)]

    def _entry(self, version: str, leaving: bool) -> Entry:
        served, state = self._served.model.signature.version, self._served.state
        if version == served and state is State.SERVING:
            return Entry(version, "READY")
        if version == self._loading or (version == served and state is State.LOADING):
            return Entry(version, "LOADING")
        if leaving:
            return Entry(version, "UNLOADING", "it answers what was asked of it")
        if version in self._failed:
            return Entry(version, "UNAVAILABLE", self._failed[version])
        if version == served:
            return Entry(version, "UNAVAILABLE", state.value)
        return Entry(version, "UNAVAILABLE", "it is not loaded")

    async def _load(self) -> None:
        async with self._turn:
            self._refuse_when_draining()
            try:
                version = await asyncio.to_thread(versions.newest, self._path, self._version)
            except ModelError as error:
                raise self._failure("", error.reason, str(error)) from error
            unloaded = self._served.state is State.UNLOADED
            self._loading = version.name
            if unloaded:
                self._served.state = State.LOADING
            try:
                if unloaded or not await self._is_served(version):
                    log.info("loading", version=version.name)
                    # Two of them are in memory while one takes the other's place, never three.
                    await asyncio.gather(*(leaving for _, leaving in self._leaving.values()))
                    await self._replace(await asyncio.to_thread(self._build, version))
                self._failed.pop(version.name, None)
            except ModelError as error:
                raise self._failure(version.name, error.reason, str(error)) from error
            except EngineError as error:
                raise self._failure(version.name, "it fails on zeros", str(error)) from error
            finally:
                self._loading = ""
                if self._served.state is State.LOADING:
                    self._served.state = State.UNLOADED

    async def _is_served(self, version: Version) -> bool:
        model = self._served.model
        digest = await asyncio.to_thread(digest_of, version.file)
        return (version.name, digest) == (model.signature.version, model.digest)

    async def _replace(self, engine: Runs) -> None:
        """Serve `engine` once it is warm; it is given up where that does not come to pass."""
        before = self._served.model
        was_loaded = self._served.state is State.SERVING
        model = Model.of(engine, next(self._generations), self._max_batch)
        try:
            timings = await self._warm(engine, model)
            self._refuse_when_draining()
        except BaseException:
            await asyncio.to_thread(engine.close)
            raise
        self._statistics.begin(model.generation)
        self._worker.switch(model.generation, engine)
        await self._serve(model, timings)
        if was_loaded:
            leaving = asyncio.create_task(self._release(before))
            self._leaving[before.generation] = before.signature.version, leaving

    async def _serve(self, model: Model, timings: list[Timing]) -> None:
        """From here to where it is told there is no turn of the loop between two requests."""
        self._served.model = model
        self._served.state = State.SERVING
        self._agent.adopt(timings)
        log.info(
            "serving", model=model.signature.name, version=model.signature.version, digest=model.digest[:12]
        )
        await self._on_serving(True)

    async def _unload(self) -> None:
        async with self._turn:
            self._refuse_when_draining()
            if self._served.state is State.UNLOADED:
                return
            self._served.state = State.UNLOADED
            model = self._served.model
            leaving = asyncio.create_task(self._release(model))
            self._leaving[model.generation] = model.signature.version, leaving
            await self._on_serving(False)
            await asyncio.gather(*(each for _, each in self._leaving.values()))

    async def _release(self, model: Model) -> None:
        """Give a model up when nothing of it waits or runs."""
        try:
            engine = await self._worker.retire(model.generation)
            await asyncio.to_thread(engine.close)
        finally:
            self._statistics.end(model.generation)
            del self._leaving[model.generation]
        log.info("unloaded", version=model.signature.version, digest=model.digest[:12])

    async def _warm(self, engine: Runs, model: Model) -> list[Timing]:
        """Make an engine fast on the threads in use, and its times known. Raises EngineError."""
        batcher, batches = self._worker.batcher, warm_batches(model.max_rows)
        while True:
            threads = batcher.shape.threads
            timings = await asyncio.to_thread(engine.prepare, threads, batches)
            if threads == batcher.shape.threads:  # else a directive came between
                return timings

    def _refuse_when_draining(self) -> None:
        if self._served.state is State.DRAINING:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, State.DRAINING.value)

    def _failure(self, version: str, reason: str, error: str) -> Refusal:
        log.error("model not loaded", version=version, error=error)
        if version:
            self._failed[version] = reason
        serving = self._served.state is State.SERVING
        what = f"version {version} is not loaded" if version else "nothing is loaded"
        rest = f"version {self._served.model.signature.version} is served on" if serving else "none is served"
        return Refusal(grpc.StatusCode.FAILED_PRECONDITION, f"{what}: {reason}; {rest}")

    async def _to_its_end(self, change: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)


def _newest_first(version: str) -> tuple[int, str]:
    return (-int(version), "") if version.isdecimal() else (0, version)
