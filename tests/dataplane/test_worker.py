"""The worker's loop with an engine that runs for as long as the test says."""

import asyncio
import time

import pytest

from dataplane.batcher import Batcher, Shape
from dataplane.execution import EngineError
from dataplane.request import Outcome
from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.worker import Unanswered, Worker, warm_batches
from tests.dataplane.engines import FakeEngine
from tests.dataplane.requests import request


class Records:
    """Everything an observer hears."""

    def __init__(self):
        self.arrivals = []
        self.outcomes = []
        self.executions = []

    def announced(self):
        pass

    def arrived(self, arrived, now):
        self.arrivals.append(arrived)

    def completed(self, completion):
        self.outcomes.append(completion.outcome)

    def executed(self, record):
        self.executions.append(record)


class Bench:
    """A worker, its engine, what it tells, and the CPU time it believes to have used."""

    def __init__(self, shape=None, max_queue=10):
        self.engine = FakeEngine()
        self.records = Records()
        self.cpu_s = 0.0
        times = ServiceTimes([ServiceTime(rows, 0.01, 0.005, 0.02) for rows in range(1, 5)])
        self.worker = Worker(
            self.engine,
            Batcher(shape or Shape(1, 1, 4), times, max_queue),
            [self.records],
            time.monotonic,
            lambda: self.cpu_s,
            max_instances=4,
        )

    def ask(self, seconds=60.0, **parts):
        asked = request(time.monotonic() + seconds, arrived_at=time.monotonic(), **parts)
        return asyncio.create_task(self.worker.infer(asked))


@pytest.fixture
async def bench():
    made = Bench()
    yield made
    made.engine.let_end(100)
    await made.worker.drain(10)
    made.worker.close()


async def until(holds):
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - an engine in threads sets no events
            await asyncio.sleep(0.001)


async def test_answers_and_tells(bench):
    bench.engine.let_end()
    answer = await bench.ask(rows=2)
    assert answer.outputs["y"].tolist() == [0]
    assert answer.completion.outcome is Outcome.ON_TIME
    assert answer.completion.batch_rows == 2
    assert bench.records.outcomes == [Outcome.ON_TIME]
    assert [(e.rows, e.threads, e.mixed) for e in bench.records.executions] == [(2, 1, False)]


async def test_what_comes_while_a_slot_is_busy_shares_the_next_batch(bench):
    first = bench.ask()
    await until(lambda: bench.engine.running)
    others = [bench.ask() for _ in range(3)]
    await until(lambda: len(bench.worker.batcher) == 3)
    bench.engine.let_end(2)
    await asyncio.gather(first, *others)
    assert bench.engine.ran == [(1, 1), (1, 3)]


async def test_no_time_left_is_refused_at_once(bench):
    with pytest.raises(Unanswered) as caught:
        await bench.ask(-1.0)
    assert caught.value.outcome is Outcome.REFUSED
    assert bench.records.outcomes == [Outcome.REFUSED]


async def test_a_full_queue_says_so():
    bench = Bench(max_queue=0)
    with pytest.raises(Unanswered) as caught:
        await bench.ask()
    assert caught.value.outcome is Outcome.QUEUE_FULL
    bench.worker.close()


async def test_a_deadline_wakes_the_loop(bench):
    running = bench.ask()
    await until(lambda: bench.engine.running)
    with pytest.raises(Unanswered) as caught:
        await bench.ask(0.05)
    assert caught.value.outcome in (Outcome.EXPIRED, Outcome.REFUSED)
    bench.engine.let_end()
    await running
    assert bench.engine.ran == [(1, 1)]


async def test_cancelled_while_it_waits_it_never_runs(bench):
    running = bench.ask()
    await until(lambda: bench.engine.running)
    waiting = bench.ask()
    await until(lambda: len(bench.worker.batcher))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    bench.engine.let_end()
    await running
    assert bench.records.outcomes == [Outcome.CANCELLED, Outcome.ON_TIME]
    assert bench.engine.ran == [(1, 1)]


async def test_cancelled_while_it_runs_it_ends_once(bench):
    running = bench.ask()
    await until(lambda: bench.engine.running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.records.outcomes == []
    bench.engine.let_end()
    await until(lambda: bench.records.outcomes)
    assert bench.records.outcomes == [Outcome.CANCELLED]


async def test_a_failed_execution_is_told_and_the_next_one_runs(bench):
    bench.engine.broken = True
    bench.engine.let_end()
    with pytest.raises(EngineError, match=r"^execution failed$"):
        await bench.ask()
    bench.engine.broken = False
    bench.engine.let_end()
    await bench.ask()
    assert bench.records.outcomes == [Outcome.FAILED, Outcome.ON_TIME]


async def test_late_answers_count_as_late(bench):
    running = bench.ask()
    await until(lambda: bench.engine.running)
    late = bench.ask(0.02, grace_s=60.0)
    await until(lambda: bench.worker.batcher.late)
    bench.engine.let_end(2)
    assert (await late).completion.outcome is Outcome.LATE
    await running


async def test_more_instances_start_what_waits_and_acknowledge_when_nothing_older_runs(bench):
    acknowledged = []
    bench.worker.on_acknowledged = lambda: acknowledged.append(bench.worker.batcher.acknowledged)
    asked = [bench.ask(shape=shape) for shape in "ab"]
    await until(lambda: bench.engine.running == 1)
    await bench.worker.apply(Shape(2, 1, 4, (1, 1)), [])
    await until(lambda: bench.engine.running == 2)
    assert bench.worker.batcher.acknowledged == (0, 0)
    bench.engine.let_end(2)
    await asyncio.gather(*asked)
    assert acknowledged[-1] == (1, 1)
    assert sorted(e.mixed for e in bench.records.executions) == [False, True]


async def test_threads_are_prepared_before_they_are_in_force(bench):
    await bench.worker.apply(Shape(1, 2, 4, (1, 1)), [ServiceTime(1, 0.5, 0.4, 0.6)])
    assert bench.engine.prepared == [(2, [1, 2, 4])]
    assert bench.worker.batcher.times.mean(1) == 0.5
    bench.engine.let_end()
    await bench.ask()
    assert bench.engine.ran == [(2, 1)]


async def test_a_paced_worker_waits_out_its_debt(bench):
    await bench.worker.apply(Shape(1, 1, 4, (1, 1)), [], pace_millicores=500)
    bench.cpu_s = 10.0
    waiting = bench.ask()
    await until(lambda: len(bench.worker.batcher))
    assert bench.worker.batcher.hold_until > time.monotonic() + 10
    await bench.worker.apply(Shape(1, 1, 4, (1, 2)), [])
    bench.engine.let_end()
    await waiting


async def test_distress_is_told(bench):
    told = []
    bench.worker.on_distress = lambda: told.append(1)
    await bench.worker.apply(Shape(1, 1, 4, (1, 1)), [ServiceTime(1, 10.0, 5.0, 20.0)])
    running = bench.ask()
    await until(lambda: bench.engine.running)
    assert not told
    with pytest.raises(Unanswered):
        await bench.ask(5.0)
    assert told
    bench.engine.let_end()
    await running


async def test_draining_waits_for_what_runs(bench):
    running = bench.ask()
    await until(lambda: bench.engine.running)
    await bench.worker.drain(0.01)
    assert not running.done()
    bench.engine.let_end()
    await bench.worker.drain(30)
    assert bench.records.outcomes == [Outcome.ON_TIME]
    await running


async def test_each_request_is_executed_by_the_engine_of_its_generation(bench):
    """And what an older one takes is not learned of the newer, whenever it starts."""
    newer = FakeEngine()
    running = bench.ask(shape=(0, "a"))
    await until(lambda: bench.engine.running)
    waiting = bench.ask(shape=(0, "a"))
    await until(lambda: len(bench.worker.batcher))
    bench.worker.switch(1, newer)
    after = bench.ask(shape=(1, "a"), generation=1)
    newer.let_end()
    bench.engine.let_end(2)
    await asyncio.gather(running, waiting, after)
    assert (bench.engine.ran, newer.ran) == ([(1, 1), (1, 1)], [(1, 1)])
    assert sorted((e.generation, e.mixed) for e in bench.records.executions) == [
        (0, True),
        (0, True),
        (1, False),
    ]


async def test_a_generation_is_retired_when_nothing_of_it_waits_or_runs(bench):
    running = bench.ask()
    await until(lambda: bench.engine.running)
    waiting = bench.ask()
    await until(lambda: len(bench.worker.batcher))
    bench.worker.switch(1, FakeEngine())
    retiring = asyncio.create_task(bench.worker.retire(0))
    running.cancel()  # it runs on, without anyone who waits for it
    waiting.cancel()
    await until(lambda: not len(bench.worker.batcher))
    assert not retiring.done()
    bench.engine.let_end()
    assert await retiring is bench.engine


async def test_retired_while_idle_it_is_gone_at_once(bench):
    bench.worker.switch(1, FakeEngine())
    assert await bench.worker.retire(0) is bench.engine


async def test_threads_are_prepared_anew_for_an_engine_that_came_meanwhile(bench):
    newer = FakeEngine()
    bench.engine.hold_preparing()
    applying = asyncio.create_task(
        bench.worker.apply(Shape(1, 2, 4, (1, 1)), [ServiceTime(1, 0.5, 0.4, 0.6)])
    )
    await until(lambda: bench.engine.preparing)
    bench.worker.switch(1, newer)
    bench.engine.let_prepare()
    await applying
    assert newer.prepared == [(2, [1, 2, 4])]
    assert bench.worker.batcher.shape.threads == 2
    assert bench.worker.batcher.times.mean(1) == 0.01  # the prediction was for the older


async def test_an_engine_that_is_retired_takes_its_faults_with_it(bench):
    bench.engine.hold_preparing()
    bench.engine.broken = True
    applying = asyncio.create_task(bench.worker.apply(Shape(1, 2, 4, (1, 1)), []))
    await until(lambda: bench.engine.preparing)
    bench.worker.switch(1, FakeEngine())
    bench.engine.let_prepare()
    await applying
    assert bench.worker.batcher.shape.threads == 2


async def test_threads_that_cannot_be_prepared_are_not_in_force(bench):
    bench.engine.broken = True
    with pytest.raises(EngineError):
        await bench.worker.apply(Shape(1, 2, 4, (1, 1)), [])
    assert bench.worker.batcher.shape.threads == 1


async def test_without_an_engine_a_shape_is_only_remembered(bench):
    await bench.worker.retire(0)
    await bench.worker.apply(Shape(1, 2, 4, (1, 1)), [])
    assert bench.engine.prepared == []
    assert bench.worker.batcher.shape.threads == 2


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_batches_to_warm_up_with(limit, sizes):
    assert warm_batches(limit) == sizes
