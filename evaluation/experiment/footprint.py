"""What the planes take of a machine: memory and CPU of real processes."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dataplane.uplink import Uplink
from dataplane.worker import warm_batches
from evaluation import models
from evaluation.admin import Admin
from evaluation.experiment.reporter import Reporter
from evaluation.process import Process, StartError, free_port

_ATTACH_S = 30.0
_SETTLE_S = 2.0  # of a fleet that has attached: first fits, first plans
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# What a worker does to its model before it serves, with nothing else in the process. Its options are those of
# dataplane.engine. Ends when its standard input does.
_BARE = """
import ast, sys
import numpy as np
import onnxruntime as ort
_, model, name, row, dtype, *sizes = sys.argv
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
for rows in map(int, sizes):
    for _ in range(2):
        session.run(None, {name: np.zeros((rows, *ast.literal_eval(row)), dtype)})
print("ready", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A control plane with so many workers attached."""

    workers: int
    rss_bytes: int
    cores: float


@dataclass(frozen=True, slots=True)
class Model:
    """A model of one input: its name, the shape of a row, and its numpy datatype."""

    service: str
    path: Path
    input: str
    row: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that is warm, and bare Python that has run the same session on the same batches."""

    service: str
    rss_bytes: int
    bare_rss_bytes: int
    idle_cores: float


def demo_models(directory: Path) -> tuple[Model, ...]:
    """Make the demo's two models in `directory`."""
    models.build(directory)
    return (
        Model("magika", directory / models.MAGIKA, "bytes", (2048,), "int32"),
        Model("vision", directory / models.VISION, "image", (224, 224, 3), "uint8"),
    )


async def control_plane(directory: Path, workers: int, rate: float, seconds: float) -> ControlPlane:
    """Attach `workers` that report `rate` requests per second each, and watch the control plane for so long.

    Raises StartError.
    """
    address = f"127.0.0.1:{free_port()}"
    config = directory / f"control-{workers}.toml"
    config.write_text(
        f'[server]\nlisten = "{address}"\nmetrics_listen = ""\n'
        f'[host]\nmillicores = 16000\n[actuator]\nkind = "threads"\n'
    )
    process = await Process.start("control plane", "controlplane", config)
    try:
        await process.serving(address)
        reporters = [Reporter(f"service-{i}", time.monotonic, rate=rate, seed=i) for i in range(workers)]
        async with attached(address, reporters):
            await asyncio.sleep(_SETTLE_S)
            pid = process.process.pid
            before, began = cpu_seconds(pid), time.monotonic()
            await asyncio.sleep(seconds)
            used = (cpu_seconds(pid) - before) / (time.monotonic() - began)
            return ControlPlane(workers, rss_bytes(pid), used)
    finally:
        await process.stop()


@asynccontextmanager
async def attached(address: str, reporters: Sequence[Reporter]) -> AsyncIterator[list[Uplink]]:
    """Connect each to the control plane at `address` as a worker is, while the block runs; waits until all serve.

    Raises StartError.
    """
    uplinks = [Uplink(address, reporter, 0.2, time.monotonic) for reporter in reporters]
    for reporter, uplink in zip(reporters, uplinks, strict=True):
        reporter.on_acknowledged = uplink.acknowledge
    tasks = [asyncio.create_task(uplink.run()) for uplink in uplinks]
    admin = Admin(address)
    try:
        async with asyncio.timeout(_ATTACH_S):
            while await _serving(admin) < len(reporters):  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.05)
        yield uplinks
    except TimeoutError:
        raise StartError(f"{len(reporters)} workers: not attached after {_ATTACH_S:.0f} s") from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await admin.aclose()


async def _serving(admin: Admin) -> int:
    return sum(worker.state == "serving" for worker in (await admin.fleet()).workers)


async def worker(directory: Path, model: Model, max_batch: int, seconds: float) -> Worker:
    """Start a worker and its bare counterpart, one after the other, and weigh both warm and idle.

    Raises StartError.
    """
    address = f"127.0.0.1:{free_port()}"
    config = directory / f"{model.service}.toml"
    config.write_text(
        f'[model]\npath = "{model.path}"\nname = "{model.service}"\n'
        f"warmup_shapes = {{{model.input} = {list(model.row)}}}\n"
        f'[service]\nslo_ms = 1000\n[server]\nlisten = "{address}"\n'
        f'metrics_listen = "127.0.0.1:0"\n[engine]\nmax_batch = {max_batch}\n'
    )
    process = await Process.start(model.service, "dataplane", config)
    try:
        await process.serving(address)
        pid = process.process.pid
        before = cpu_seconds(pid)
        await asyncio.sleep(seconds)
        idle = (cpu_seconds(pid) - before) / seconds
        rss = rss_bytes(pid)
    finally:
        await process.stop()
    return Worker(model.service, rss, await _bare(model, warm_batches(max_batch)), idle)


async def _bare(model: Model, batches: Sequence[int]) -> int:
    """Memory of Python with ONNX Runtime and nothing else, after the same executions."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _BARE, str(model.path), model.input, str(model.row), model.dtype, *map(str, batches),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if await process.stdout.readline() != b"ready\n":
            raise StartError(f"{model.path}: bare ONNX Runtime: exited with {await process.wait()}")
        return rss_bytes(process.pid)
    finally:
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


class HostLoad:
    """How busy the whole machine has been since this was made."""

    def __init__(self) -> None:
        self._busy, self._total = _host_cpu()

    def share(self) -> float:
        """Of its CPU time, 0 to 1."""
        busy, total = _host_cpu()
        return (busy - self._busy) / max(total - self._total, 1e-9)


def _host_cpu() -> tuple[float, float]:
    """CPU time since the machine's start that was used, and that there was, in ticks."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]  # waiting for disks is idle
    return sum(fields) - idle, sum(fields)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process, that shared with others included."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def cpu_seconds(pid: int) -> float:
    """CPU time of a process since its start, all threads of it."""
    # The second field, a name in parentheses, may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
