"""Slices of a model's executions: in this process, or in a child of its own under a CPU quota."""

import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, Self

from controlplane import config
from core.cgroup import Cgroup, CgroupError, usable_parent
from dataplane import execution
from dataplane.engine import Engine
from dataplane.execution import EngineError, ModelError
from dataplane.warmup import Warmup

PERIOD_US = config.Actuator().period_us
# As between requests: without a pause caches and clocks stay warmer than they are under load.
PAUSE_S = 0.02
_STOP_S = 10.0

Sizes = Mapping[str, Sequence[int]]


class QuotaError(Exception):
    """No quota can be set here; the text is one line that says what it takes."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What runs: `instances` executions at a time, of `rows` rows on `threads` threads each; 0 millicores: no quota."""

    rows: int
    threads: int
    instances: int = 1
    millicores: int = 0


@dataclass(frozen=True, slots=True)
class Slice:
    """Executions of one setting, in seconds, and what the quota did meanwhile.

    Without pauses an execution lasts from the end of the one before.
    """

    walls_s: Sequence[float]
    periods: int = 0
    throttled_periods: int = 0
    throttled_s: float = 0.0


class Runs(Protocol):
    """What runs slices of one model."""

    @property
    def digest(self) -> str: ...

    @property
    def batched(self) -> bool: ...

    def run(self, setting: Setting, seconds: float, pause_s: float) -> Slice:
        """Run a setting for so long, a pause before each execution, one of each instance at the least.

        Another that does not count is run before, without a quota. Raises EngineError.
        """


class Here:
    """Runs on `engine` in this process, without a quota; what it runs is of `warmup`."""

    def __init__(self, engine: execution.Runs, warmup: Warmup) -> None:
        self._engine = engine
        self._warmup = warmup

    @classmethod
    def load(cls, model: Path, shapes: Sizes, most_rungs: int) -> Self:
        """Load a model. Raises ModelError, also where the sizes of a row are not known."""
        engine = Engine(model, model.stem, "1", shapes, max_rungs=most_rungs)
        warmup = Warmup(engine.signature.inputs, shapes)
        if warmup.guessed:
            raise ModelError(
                f"{model}: {warmup.guessed[0]}: expected the sizes of one row, which the file leaves open"
            )
        return cls(engine, warmup)

    @property
    def digest(self) -> str:
        return self._engine.digest

    @property
    def batched(self) -> bool:
        return self._engine.signature.batched

    def run(self, setting: Setting, seconds: float, pause_s: float) -> Slice:
        """As in Runs; knows no quota."""
        self.warm(setting)
        return Slice(self.timed(setting, seconds, pause_s))

    def warm(self, setting: Setting) -> None:
        """Make what the setting needs, and run it once."""
        self._engine.prepare(setting.threads, [setting.rows])
        self._engine.run(setting.threads, [self._warmup.zeros(setting.rows)])

    def timed(self, setting: Setting, seconds: float, pause_s: float) -> list[float]:
        """Run the instances beside each other, as a worker does, on the same sessions and so on the same weights.

        What began when another instance had ended already was not beside it, and does not count.
        """
        feed = self._warmup.zeros(setting.rows)
        seen: list[list[tuple[float, float]]] = [[] for _ in range(setting.instances)]
        failed: list[EngineError] = []
        together = threading.Barrier(setting.instances)

        def one(mine: list[tuple[float, float]]) -> None:
            together.wait()
            ended = time.monotonic()
            until = ended + seconds
            try:
                while not mine or ended < until:
                    if pause_s:
                        time.sleep(pause_s)
                        ended = time.monotonic()
                    self._engine.run(setting.threads, [feed])
                    # Not the engine's own time: where executions are short, most stand-stills lie between them.
                    began, ended = ended, time.monotonic()
                    mine.append((began, ended - began))
            except EngineError as error:
                failed.append(error)

        workers = [threading.Thread(target=one, args=(mine,)) for mine in seen]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if failed:
            raise failed[0]
        first_end = min(began + wall_s for mine in seen for began, wall_s in mine[-1:])
        return [wall_s for mine in seen for began, wall_s in mine if began < first_end]


class Child:
    """Runs in a child that has a control group of its own; see `child`."""

    def __init__(self, group: Cgroup, pipe: Connection) -> None:
        self._group = group
        self._pipe = pipe
        self._digest, self._batched = self._answer()

    @property
    def digest(self) -> str:
        return str(self._digest)

    @property
    def batched(self) -> bool:
        return bool(self._batched)

    def run(self, setting: Setting, seconds: float, pause_s: float) -> Slice:
        """As in Runs."""
        self._group.set_quota(None, PERIOD_US)
        self._pipe.send((setting, None, 0.0))
        self._answer()
        if setting.millicores:
            self._group.set_quota(setting.millicores, PERIOD_US)
        before = self._group.throttling()
        self._pipe.send((setting, seconds, pause_s))
        walls_s = self._answer()
        after = self._group.throttling()
        return Slice(
            walls_s,
            after.periods - before.periods,
            after.throttled_periods - before.throttled_periods,
            after.throttled_s - before.throttled_s,
        )

    def _answer(self) -> Any:
        try:
            found = self._pipe.recv()
        except EOFError:
            raise EngineError(
                "the process that runs the model has ended, as it does when memory is short"
            ) from None
        if isinstance(found, Exception):
            raise found
        return found


@contextmanager
def child(model: Path, shapes: Sizes, most_rungs: int, root: Path = Path("/")) -> Iterator[Child]:
    """Start it, and end it with the block. Raises QuotaError where no control group may be made, and ModelError.

    `root` is where /proc and the mount points are looked for.
    """
    try:
        parent = usable_parent(root)
        if parent is None:
            raise QuotaError(
                "expected to be allowed to make control groups with a CPU quota: run it as root, or as "
                "systemd-run --user --scope -p Delegate=cpu"
            )
        group = Cgroup.create(f"sponge-{uuid.uuid4().hex[:8]}", parent)
    except CgroupError as error:
        raise QuotaError(f"expected a control group with a CPU quota: {error}") from error
    # As Ctrl-C does: it must not leave a group behind.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, model, shapes, most_rungs), daemon=True)
    try:
        process.start()
        theirs.close()
        assert process.pid is not None
        group.move(process.pid)
        yield Child(group, ours)
    except CgroupError as error:
        raise QuotaError(f"control groups: {error}") from error
    finally:
        signal.signal(signal.SIGTERM, before)
        ours.close()
        with suppress(CgroupError):
            group.set_quota(None, PERIOD_US)  # it ends sooner
        if process.pid is not None:
            process.join(_STOP_S)
            process.kill()
            process.join()
        with suppress(CgroupError):
            group.remove()


def _serve(pipe: Connection, model: Path, shapes: Sizes, most_rungs: int) -> None:
    """The child: answers settings with executions until nobody asks any more. Signals are its parent's to handle."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, BrokenPipeError):
        _answer(pipe, model, shapes, most_rungs)


def _answer(pipe: Connection, model: Path, shapes: Sizes, most_rungs: int) -> None:
    try:
        here = Here.load(model, shapes, most_rungs)
    except ModelError as error:
        pipe.send(error)
        return
    pipe.send((here.digest, here.batched))
    while True:
        setting, seconds, pause_s = pipe.recv()
        try:
            if seconds is None:
                here.warm(setting)
                pipe.send(None)
            else:
                pipe.send(here.timed(setting, seconds, pause_s))
        except EngineError as error:
            pipe.send(error)
