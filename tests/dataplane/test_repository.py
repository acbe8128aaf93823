"""Versions that come and go, with engines that take as long as the test says."""

import asyncio
import time

import grpc
import pytest

from dataplane.agent import Agent
from dataplane.batcher import Batcher, Shape
from dataplane.config import Config, Engine, Model, Service
from dataplane.execution import ModelError
from dataplane.modelfile import digest_of
from dataplane.refusal import Refusal
from dataplane.repository import Entry, Repository
from dataplane.served import Model as Loaded
from dataplane.served import Served, State
from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.statistics import Statistics
from dataplane.telemetry import Resources, Telemetry
from dataplane.worker import Worker
from tests.dataplane.engines import FakeEngine
from tests.dataplane.requests import request


class Bench:
    """A repository over a directory of files that name their engine, and all that it acts on."""

    def __init__(self, path, *, batched=True):
        self.path = path
        self.engines = {}
        self.told = []
        first = self.version(1, batched=batched)
        config = Config(
            model=Model(path=str(path), name="fake"),
            service=Service(name="fake", slo_ms=100),
            engine=Engine(batch=4, max_batch=8),
        )
        self.served = Served(Loaded.of(first, 0, 8))
        self.statistics = Statistics()
        self.statistics.begin(0)
        self.telemetry = Telemetry(time.monotonic(), Resources(0.0))
        times = ServiceTimes([ServiceTime(1, 5.0, 5.0, 5.0)])
        shape = Shape(1, 1, 4 if batched else 1)
        self.worker = Worker(
            first,
            Batcher(shape, times, 10),
            [self.telemetry, self.statistics],
            time.monotonic,
            lambda: 0.0,
            max_instances=4,
        )
        self.agent = Agent(config, self.worker, self.served, self.telemetry, None, time.monotonic)
        self.renewed = 0
        self.agent.on_renewed = self._renew
        self.repository = Repository(
            path, "", self.served, self.worker, self.agent, self.statistics, 8, self._build, self._tell
        )

    def version(self, number, *, batched=True):
        """Put a version into the directory."""
        file = self.path / f"{number}" / "model.onnx"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{number} {batched}")
        engine = FakeEngine(f"{number}", digest_of(file), batched=batched)
        self.engines[f"{number}"] = engine
        return engine

    def _build(self, version):
        if version.name not in self.engines:
            raise ModelError(f"{version.file}: broken", "it is broken")
        return self.engines[version.name]

    async def _tell(self, serving):
        self.told.append(serving)

    def _renew(self):
        self.renewed += 1

    async def start(self):
        await self.repository.start(self.engines["1"])

    def ask(self):
        asked = request(
            time.monotonic() + 60, arrived_at=time.monotonic(), generation=self.served.model.generation
        )
        return asyncio.create_task(self.worker.infer(asked))

    async def index(self):
        return await self.repository.index()


@pytest.fixture
async def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    for engine in made.engines.values():
        engine.let_prepare()
        engine.let_end(100)
    await made.worker.drain(10)
    made.worker.close()


async def until(holds):
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - an engine in threads sets no events
            await asyncio.sleep(0.001)


def believed(bench, rows=1):
    return bench.worker.batcher.times.mean(rows)


def executions(bench):
    """What a control plane hears of executions now."""
    return [(each.rows, each.mixed) for each in bench.agent.sample(distress=False).executions]


async def test_at_first_it_is_loading_then_warm_and_served(bench):
    bench.engines["1"].hold_preparing()
    starting = asyncio.create_task(bench.start())
    await until(lambda: bench.engines["1"].preparing)
    assert await bench.index() == [Entry("1", "LOADING")]
    assert bench.served.state is State.LOADING
    bench.engines["1"].let_prepare()
    await starting
    assert await bench.index() == [Entry("1", "READY")]
    assert bench.told == [True]
    assert believed(bench) == 0.01
    assert bench.renewed == 0


async def test_the_old_one_serves_until_the_new_one_is_warm_and_then_ends_what_it_has(bench):
    await bench.start()
    old, new = bench.engines["1"], bench.version(2)
    running = bench.ask()
    await until(lambda: old.running)
    new.hold_preparing()
    loading = asyncio.create_task(bench.repository.load())
    await until(lambda: new.preparing)
    assert await bench.index() == [Entry("2", "LOADING"), Entry("1", "READY")]
    assert bench.served.model.signature.version == "1"
    waiting = bench.ask()
    new.let_prepare()
    await loading
    assert (bench.served.model.signature.version, bench.served.model.generation) == ("2", 1)
    assert bench.renewed == 1
    assert (await bench.index())[1].state == "UNLOADING"
    assert not old.closed
    old.let_end(2)
    await asyncio.gather(running, waiting)
    await until(lambda: old.closed)
    await until(lambda: len(bench.worker.batcher.running) == 0)
    assert await bench.index() == [Entry("2", "READY"), Entry("1", "UNAVAILABLE", "it is not loaded")]
    assert not new.closed


async def test_what_it_takes_is_what_the_new_one_took_when_it_was_warmed_up(bench):
    """And a control plane hears of nothing else as the new one's."""
    await bench.start()
    for _ in range(4):
        bench.worker.batcher.times.observe(1, 3.0, request(1.0))
    assert believed(bench) > 0.5
    assert executions(bench) == [(1, False), (2, False), (4, False), (8, False)]
    running = bench.ask()
    bench.engines["1"].let_end()
    await running
    bench.version(2)
    await bench.repository.load()
    assert believed(bench) == 0.01
    assert executions(bench) == [(1, True), (1, False), (2, False), (4, False), (8, False)]


async def test_a_directive_that_comes_while_it_is_warmed_up_is_warmed_up_for_as_well(bench):
    await bench.start()
    new = bench.version(2)
    new.hold_preparing()
    loading = asyncio.create_task(bench.repository.load())
    await until(lambda: new.preparing)
    await bench.worker.apply(Shape(1, 2, 4, (1, 1)), [])
    new.let_prepare()
    await loading
    assert [threads for threads, _ in new.prepared] == [1, 2]


@pytest.mark.parametrize("batched", [True, False])
async def test_batches_end_with_models_that_know_them_and_begin_again(tmp_path, batched):
    bench = Bench(tmp_path, batched=batched)
    await bench.start()
    limits = []
    for number in (2, 3):
        batched = not batched
        bench.version(number, batched=batched)
        await bench.repository.load()
        limits.append((bench.worker.batcher.shape.max_batch, bench.served.model.max_rows))
        assert limits[-1] == ((4, 8) if batched else (1, 1))
    bench.worker.close()


async def test_one_that_fails_when_warmed_up_is_given_up(bench):
    await bench.start()
    bench.version(2).broken = True
    with pytest.raises(Refusal) as caught:
        await bench.repository.load()
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.text == "version 2 is not loaded: it fails on zeros; version 1 is served on"
    assert bench.engines["2"].closed
    assert bench.served.state is State.SERVING
    assert await bench.index() == [Entry("2", "UNAVAILABLE", "it fails on zeros"), Entry("1", "READY")]


async def test_no_more_than_two_are_in_memory(bench):
    """A third is loaded when the first has answered everything."""
    await bench.start()
    running = bench.ask()
    await until(lambda: bench.engines["1"].running)
    bench.version(2)
    await bench.repository.load()
    third = bench.version(3)
    loading = asyncio.create_task(bench.repository.load())
    await until(lambda: bench.repository._loading == "3")
    await asyncio.sleep(0.01)
    assert third.prepared == []
    bench.engines["1"].let_end()
    await running
    await loading
    assert bench.served.model.signature.version == "3"


async def test_who_asked_may_leave(bench):
    await bench.start()
    new = bench.version(2)
    new.hold_preparing()
    loading = asyncio.create_task(bench.repository.load())
    await until(lambda: new.preparing)
    loading.cancel()
    await asyncio.wait([loading])
    new.let_prepare()
    await until(lambda: bench.served.model.signature.version == "2")


async def test_a_server_that_drains_loads_nothing_more(bench):
    await bench.start()
    new = bench.version(2)
    new.hold_preparing()
    loading = asyncio.create_task(bench.repository.load())
    await until(lambda: new.preparing)
    bench.served.state = State.DRAINING
    new.let_prepare()
    for change in (loading, bench.repository.load(), bench.repository.unload()):
        with pytest.raises(Refusal) as caught:
            await change
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert new.closed
    assert bench.served.state is State.DRAINING
    assert bench.told == [True]


async def test_unloaded_and_loaded_again(bench):
    await bench.start()
    first = bench.engines["1"]
    running = bench.ask()
    await until(lambda: first.running)
    unloading = asyncio.create_task(bench.repository.unload())
    await until(lambda: bench.served.state is State.UNLOADED)
    assert (await bench.index())[0].state == "UNLOADING"
    first.let_end()
    await asyncio.gather(running, unloading)
    assert first.closed
    assert await bench.index() == [Entry("1", "UNAVAILABLE", "the model is unloaded")]
    again = bench.version(1)
    await bench.repository.load()
    assert await bench.index() == [Entry("1", "READY")]
    assert bench.told == [True, False, True]
    running = bench.ask()
    again.let_end()
    await running
    assert again.ran == [(1, 1)]
