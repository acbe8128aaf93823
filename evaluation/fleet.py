"""What a fleet of local processes and one of containers have in common: what is started, and how it ends."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from controlplane.allocation import Allocation
from controlplane.config import ActuatorKind, Explore, Governor
from controlplane.shape import Limits
from evaluation.admin import Admin
from evaluation.process import StartError

PERIOD_US = 20_000
_START_S = 60.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker: its service and model, what it starts with, and what it can be given."""

    service: str
    model: Path
    slo_ms: float
    start: Allocation
    limits: Limits
    warmup_shapes: Mapping[str, Sequence[int]]
    module: str = (
        "dataplane"  # what runs as `python -m`, with which words before its --config; in processes only
    )
    arguments: Sequence[str] = ()
    control: str = ""  # HOST:PORT where it looks for its control plane; default: where that listens
    environment: Mapping[str, str] = field(default_factory=dict)  # more of it; in processes only


@dataclass(frozen=True, slots=True)
class ControlSpec:
    """The control plane: what runs as `python -m`, with which words before its --config, its governor, what it tries.

    With `lock`, the path of a file, several may be started, of which one leads.
    """

    module: str = "controlplane"
    arguments: Sequence[str] = ()
    governor: Governor = field(default_factory=Governor)
    explore: Explore = Explore.IMPOSSIBLE
    metrics_listen: str = ""
    lock: str = ""
    store: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)  # more of it; in processes only


OURS = ControlSpec()


class Fleet(Protocol):
    """A control plane and its workers: started on entering, stopped on leaving whatever happened between.

    Entering raises StartError. Meanwhile signals are as in `stopped_at_the_end`.
    """

    @property
    def admin(self) -> Admin: ...

    @property
    def addresses(self) -> Mapping[str, str]:
        """HOST:PORT by service."""

    @property
    def kind(self) -> ActuatorKind: ...

    def pids(self) -> Mapping[str, Sequence[int]]:
        """Processes that take CPU from the host beside the workers, by what they are."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


def control_toml(
    control: ControlSpec, workers: Sequence[WorkerSpec], host_millicores: int, listen: str, actuator: str
) -> str:
    """Give the configuration of a control plane; `actuator` is that section's content."""
    services = "".join(
        f"[services.{spec.service}]\n"
        f"min_millicores = {spec.limits.min_millicores}\nmax_millicores = {spec.limits.max_millicores}\n"
        for spec in workers
    )
    governor = control.governor
    return (
        f'[server]\nlisten = "{listen}"\nmetrics_listen = "{control.metrics_listen}"\n'
        f'[leader]\nlock = "{control.lock}"\n[store]\npath = "{control.store}"\n'
        f"[host]\nmillicores = {host_millicores}\n"
        f'[planner]\nexplore = "{control.explore.value}"\n'
        f"[governor]\npaused = {str(governor.paused).lower()}\nshrink_hold_s = {governor.shrink_hold_s}\n"
        f"dead_band_millicores = {governor.dead_band_millicores}\n"
        f"{services}"
        f"[actuator]\nperiod_us = {PERIOD_US}\n{actuator}"
    )


def worker_toml(spec: WorkerSpec, model: Path, listen: str, control: str) -> str:
    """Give the configuration of a worker that listens and finds its control plane at these HOST:PORT.

    `model` is where it sees the file.
    """
    shapes = ", ".join(f"{name} = {list(shape)}" for name, shape in spec.warmup_shapes.items())
    start, limits = spec.start, spec.limits
    return (
        f'[model]\npath = "{model}"\nname = "{spec.service}"\nwarmup_shapes = {{{shapes}}}\n'
        f"[service]\nslo_ms = {spec.slo_ms}\n"
        f'[server]\nlisten = "{listen}"\nmetrics_listen = ""\n'
        f"[engine]\n"
        f"instances = {start.instances}\nmax_instances = {limits.max_instances}\n"
        f"threads = {start.threads}\nmax_threads = {limits.max_threads}\n"
        f"batch = {start.max_batch}\nmax_batch = {limits.max_batch}\n"
        f'[control]\naddress = "{spec.control or control}"\n'
    )


async def attached(admin: Admin, workers: Sequence[WorkerSpec]) -> None:
    """Wait until every worker is attached and warm. Raises StartError."""
    wanted = {spec.service for spec in workers}
    try:
        async with asyncio.timeout(_START_S):
            while True:
                found = (await admin.fleet()).workers
                if {worker.service for worker in found if worker.state == "serving"} == wanted:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise StartError(f"workers: not attached after {_START_S:.0f} s") from None


@contextlib.asynccontextmanager
async def stopped_at_the_end(stop: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Call `stop` when the block ends, however it does, and wait for it.

    Meanwhile SIGINT, SIGTERM and SIGHUP cancel the task that entered. Being cancelled, however often, cuts no
    stop short. For the main thread only.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        stopping = asyncio.ensure_future(stop())
        cancelled = False
        while not stopping.done():
            try:
                await asyncio.wait([stopping])
            except asyncio.CancelledError:
                cancelled = True
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        stopping.result()
        if cancelled:
            raise asyncio.CancelledError
