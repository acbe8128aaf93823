"""The loop of a worker: turns arrivals, ends of executions and time into steps of the batcher."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf
from typing import Protocol

import structlog

from dataplane.batcher import Batcher, Drop, Execution, Shape
from dataplane.deadline import CLIENT_EARLY_S
from dataplane.execution import EngineError, Executed, Runs
from dataplane.linger import Linger
from dataplane.pace import Pace
from dataplane.request import Completion, ExecutionRecord, Outcome, Request, Tensors
from dataplane.servicetime import ServiceTime

# Handing an execution to a thread and its outcome back costs a good part of this: what is shorter runs on the loop, if
# no other could run beside it.
_ON_THE_LOOP_S = 0.001

log = structlog.get_logger()


class Unanswered(Exception):
    """A request that ends without an answer."""

    def __init__(self, outcome: Outcome, predicted_s: float | None = None) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome
        self.predicted_s = predicted_s


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs of one request, and how it came to them."""

    outputs: Tensors
    completion: Completion


class Observer(Protocol):
    """Hears of everything that happens to requests; must return quickly."""

    def announced(self) -> None:
        """The header of a request is there; its body may take a while, or never come."""

    def arrived(self, request: Request, now: float) -> None: ...
    def completed(self, completion: Completion) -> None: ...
    def executed(self, record: ExecutionRecord) -> None: ...


class Worker:
    """Owns the futures of waiting requests, the execution slots and the wake-up timer.

    Each request is executed by the engine of its generation; `engine` is that of generation 0. All methods
    run on the event loop; only an engine's `run` and `prepare` run in threads.
    """

    def __init__(
        self,
        engine: Runs,
        batcher: Batcher,
        observers: Sequence[Observer],
        clock: Callable[[], float],
        cpu_seconds: Callable[[], float],
        max_instances: int,
    ) -> None:
        self._engines = {0: engine}
        self._generation = 0
        self._retiring: dict[int, asyncio.Event] = {}
        self.batcher = batcher
        self._observers = observers
        self._clock = clock
        self._cpu_seconds = cpu_seconds
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(max_instances, thread_name_prefix="execution")
        # Sessions are prepared while all slots run.
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._futures: dict[Request, asyncio.Future[Answer]] = {}
        self._idle = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = inf
        self._gathering = False
        self._linger = Linger()
        self._pace: Pace | None = None
        self.on_distress: Callable[[], None] = lambda: None
        self.on_acknowledged: Callable[[], None] = lambda: None

    async def infer(self, request: Request) -> Answer:
        """Wait for the answer to `request`.

        Raises Unanswered if it is refused or expires, EngineError if its execution failed. Cancelling
        takes a waiting request out of the queue.
        """
        now = self._clock()
        for observer in self._observers:
            observer.arrived(request, now)
        if now >= request.expires_at:
            self._end(request, Outcome.REFUSED, now)
            raise Unanswered(Outcome.REFUSED, self.batcher.times.mean(request.rows))
        if not self.batcher.add(request):
            self._end(request, Outcome.QUEUE_FULL, now)
            raise Unanswered(Outcome.QUEUE_FULL)
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._futures[request] = future
        self._linger.arrived()
        if not self._gathering:
            self._gathering = True
            self._loop.call_soon(self._gather)
        try:
            return await future
        except asyncio.CancelledError:
            self._futures.pop(request, None)
            now = self._clock()
            if self.batcher.cancel(request):
                expired = now >= request.expires_at - CLIENT_EARLY_S
                outcome = Outcome.EXPIRED if expired else Outcome.CANCELLED
                self._end(request, outcome, now)
                self._pump()
            raise

    def switch(self, generation: int, engine: Runs) -> None:
        """Execute requests of `generation`, from now on the newest, with `engine`."""
        self._engines[generation] = engine
        self._generation = generation
        # What runs is of an older one, and says nothing of how long this one takes.
        self.batcher.disturb()

    async def retire(self, generation: int) -> Runs:
        """Wait until nothing waits or runs for `generation`, forget its engine, and return it.

        No request of it may be asked for any more.
        """
        gone = self._retiring[generation] = asyncio.Event()
        self._release()
        try:
            await gone.wait()
        finally:
            del self._retiring[generation]
        return self._engines.pop(generation)

    def rung_bytes(self) -> Mapping[int, int]:
        """Memory of the newest engine's sessions by threads, empty while there is none; see `Runs.rung_bytes`."""
        engine = self._engines.get(self._generation)
        return {} if engine is None else engine.rung_bytes()

    async def apply(
        self, shape: Shape, table: Sequence[ServiceTime], pace_millicores: int | None = None
    ) -> None:
        """Put `shape` in force for every execution from now on.

        Builds what the newest engine needs for it first, without disturbing what runs. `table` replaces the
        predicted service times where it is not empty, unless there is another engine by then;
        `pace_millicores` holds the worker's mean CPU use to that much, None lifts it. Raises EngineError.
        """
        generation = self._generation
        while not await self._prepared(shape):
            pass
        if table and self._generation == generation:
            self.batcher.times.adopt(table)
        self.batcher.reshape(shape)
        self._repace(pace_millicores)
        self._pump()
        self.on_acknowledged()

    async def _prepared(self, shape: Shape) -> bool:
        """Make the newest engine ready for `shape`; False if meanwhile there is a newer one."""
        generation = self._generation
        engine = self._engines.get(generation)
        if engine is None or engine.has(shape.threads):
            return True
        batches = warm_batches(shape.max_batch)
        try:
            await self._loop.run_in_executor(self._preparing, engine.prepare, shape.threads, batches)
        except EngineError:
            # One that is retired takes its faults with it.
            if generation in self._engines and generation == self._generation:
                raise
        return generation == self._generation

    async def drain(self, timeout_s: float) -> None:
        """Wait until nothing waits or runs, for `timeout_s` at most."""
        self._pump()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

    def close(self) -> None:
        """Stop the threads; what runs is finished first."""
        if self._timer is not None:
            self._timer.cancel()
        self._threads.shutdown()
        self._preparing.shutdown()

    def _gather(self) -> None:
        """Pump when the loop has turned, and has taken in what would make a batch better."""
        if self.batcher.would_grow and self._linger.waits():
            self._loop.call_soon(self._gather)
        else:
            self._linger.end()
            self._gathering = False
            self._pump()

    def _pump(self) -> None:
        now = self._clock()
        if self._pace is not None:
            self.batcher.hold_until = self._pace.hold_until(now, self._cpu_seconds())
        step = self.batcher.step(now)
        for drop in step.drop:
            self._drop(drop, now)
        for execution in step.start:
            if execution.requests[0].generation != self._generation:
                execution.mixed = True
            self._start(execution)
        if step.distress:
            self.on_distress()
        if self.batcher.running or len(self.batcher) > 0:
            self._idle.clear()
        else:
            self._idle.set()
        self._wake(step.wake_at, now)
        if self._retiring:
            self._release()

    def _release(self) -> None:
        """Tell who retires a generation that nothing of it is left."""
        batcher = self.batcher
        wanted = {execution.requests[0].generation for execution in batcher.running}
        for lane in (batcher.live, batcher.doubtful, batcher.late):
            wanted.update(request.generation for request in lane)
        for generation, gone in self._retiring.items():
            if generation not in wanted:
                gone.set()

    def _wake(self, at: float | None, now: float) -> None:
        """Pump again at `at`, or before: a timer that is set stays until it is due, as most deadlines are met."""
        if at is None or at >= self._wakes_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, at - now), self._woken)
        self._wakes_at = at

    def _woken(self) -> None:
        self._timer, self._wakes_at = None, inf
        self._pump()

    def _start(self, execution: Execution) -> None:
        if self._short(execution):
            self._loop.call_soon(lambda: self._finish(execution, self._execute(execution)))
        else:
            self._threads.submit(self._run, execution)

    def _short(self, execution: Execution) -> bool:
        """Whether the loop can wait for an execution: no other could run meanwhile, and it is known to be short."""
        times = self.batcher.times
        alone = self.batcher.shape.instances == len(self.batcher.running) == 1
        if not (alone and times.settled) or execution.mixed:
            return False
        return times.mean(execution.rows) * times.costs.of(execution.requests[0]) <= _ON_THE_LOOP_S

    def _run(self, execution: Execution) -> None:
        """Execute in a thread. A future of the loop's own would cost two more of its turns."""
        self._loop.call_soon_threadsafe(self._finish, execution, self._execute(execution))

    def _execute(self, execution: Execution) -> Executed | BaseException:
        batch = [request.inputs or {} for request in execution.requests]
        try:
            engine = self._engines[execution.requests[0].generation]
            return engine.run(execution.shape.threads, batch)
        except BaseException as error:  # noqa: BLE001 - whatever it is, those who wait are told
            return error

    def _finish(self, execution: Execution, executed: Executed | BaseException) -> None:
        now = self._clock()
        before = self.batcher.acknowledged
        busy = self.batcher.finish(execution, now)
        if isinstance(executed, BaseException):
            self._fail(execution, executed, now)
        else:
            self._answer(execution, executed, busy, now)
        if self.batcher.acknowledged != before:
            self.on_acknowledged()
        self._pump()

    def _answer(self, execution: Execution, executed: Executed, busy: float, now: float) -> None:
        if not execution.mixed:
            self.batcher.times.observe(execution.rows, now - execution.started_at, execution.requests[0])
        record = ExecutionRecord(
            execution.rows,
            execution.shape.threads,
            executed.wall_s,
            executed.cpu_s,
            busy,
            execution.mixed,
            execution.requests[0].generation,
        )
        for observer in self._observers:
            observer.executed(record)
        for request, outputs in zip(execution.requests, executed.outputs, strict=True):
            future = self._futures.pop(request, None)
            gone = future is None or future.done()
            outcome = (
                Outcome.CANCELLED if gone else Outcome.ON_TIME if now <= request.deadline_at else Outcome.LATE
            )
            completion = self._end(request, outcome, now, execution)
            if future is not None and not gone:
                future.set_result(Answer(outputs, completion))

    def _fail(self, execution: Execution, error: BaseException, now: float) -> None:
        log.error("execution failed", rows=execution.rows, error=str(error.__cause__ or error))
        for request in execution.requests:
            self._end(request, Outcome.FAILED, now, execution)
            future = self._futures.pop(request, None)
            if future is not None and not future.done():
                future.set_exception(EngineError("execution failed"))

    def _drop(self, drop: Drop, now: float) -> None:
        self._end(drop.request, drop.outcome, now)
        future = self._futures.pop(drop.request, None)
        if future is not None and not future.done():
            future.set_exception(Unanswered(drop.outcome, drop.predicted_s))

    def _end(
        self, request: Request, outcome: Outcome, now: float, execution: Execution | None = None
    ) -> Completion:
        completion = Completion(
            outcome,
            request.rows,
            request.arrived_at,
            now,
            started_at=None if execution is None else execution.started_at,
            batch_rows=0 if execution is None else execution.rows,
            queued_at=request.queued_at,
            generation=request.generation,
        )
        for observer in self._observers:
            observer.completed(completion)
        return completion

    def _repace(self, millicores: int | None) -> None:
        """Hold executions to so much CPU in the mean from now on; what is owed stays owed."""
        if millicores is None:
            self._pace = None
            self.batcher.hold_until = 0.0
        elif self._pace is None:
            self._pace = Pace(millicores / 1000, self._clock(), self._cpu_seconds())
        else:
            self._pace.cpus = millicores / 1000


def warm_batches(max_batch: int) -> list[int]:
    """The batch sizes that a session is warmed with: powers of two, and the largest."""
    sizes = [1]
    while sizes[-1] * 2 < max_batch:
        sizes.append(sizes[-1] * 2)
    return sizes if max_batch == 1 else [*sizes, max_batch]
