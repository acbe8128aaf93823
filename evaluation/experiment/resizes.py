"""Experiment «resizes»: a container's CPU and memory changed at random under load, and whether it survives that."""

import asyncio
import contextlib
import re
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import docker
import numpy as np
from docker.errors import DockerException
from docker.models.containers import Container
from msgspec import Meta

from controlplane import config
from controlplane.actuators import ActuationError, Quota, WorkerRef
from controlplane.actuators.docker import PROJECT, DockerActuator
from core.cgroup import Cgroup, CgroupError
from core.config import ConfigError, Section, load
from evaluation import owner
from evaluation.endurance import steady
from evaluation.endurance.steady import Answers
from evaluation.experiment.finding import Finding, Goal, Table, machine
from evaluation.experiment.kinds import Options
from evaluation.experiment.spinner import IMAGE, PERIOD_US
from evaluation.process import StartError, serving
from evaluation.serving import client, subjects
from evaluation.serving.recipes import Dialect
from evaluation.serving.subjects import Subject

_LEAST, _MOST, _STEP = 500, 2100, 100  # millicores
_UNLIMITED_SHARE = 0.05  # of the resizes lift the memory limit
_MIB = 1 << 20
_PORT = 8001
_TIMEOUT_S = 60.0  # longer than any request waits: what fails, fails because of a resize
_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)

Positive = Annotated[int, Meta(ge=1)]


class Settings(Section, frozen=True, kw_only=True):
    """A whole resizes.toml."""

    kind: Literal["resizes"]
    title: str
    question: str
    model: str
    resizes: Positive  # each way
    clients: Positive
    seed: int


@dataclass(slots=True)
class Lived:
    """What became of a container that was resized over and over."""

    way: str
    answers: Answers
    seconds: list[float] = field(default_factory=list)  # of each resize
    raised: int = 0
    lowered: int = 0
    held_up: int = 0  # not as low as asked for
    cpu_astray: int = 0  # another quota than asked for
    least_free_bytes: int = 1 << 62  # between a limit that was lowered and what is in use, right after
    in_use_share: float = 0.0  # the most that was in use at once, of the peak that the process itself had
    oom_kills: int = 0
    died: str = ""  # what the engine says, if it does not run on as it was started


def run(toml: Path, _output: Path, options: Options) -> Finding:
    """Resize a container each way. Raises ConfigError, KeyboardInterrupt."""
    settings = load(toml, Settings)
    try:
        lived = asyncio.run(_run(settings, options))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except (StartError, DockerException, CgroupError, OSError) as error:
        raise ConfigError(str(error)) from error
    return Finding(
        experiment=toml.stem,
        title=settings.title,
        question=settings.question,
        command=options.command,
        settings=machine() | {"model": settings.model, "seed": str(settings.seed)},
        tables=[table(lived)],
        goals=goals(lived),
    )


async def _run(settings: Settings, options: Options) -> list[Lived]:
    lived = []
    with tempfile.TemporaryDirectory(prefix="sponge-resizes-") as name:
        folder = Path(name)
        subject = subjects.build(settings.model, folder)
        for way, cgroup_write in (("docker", False), ("docker, cgroup_write", True)):
            async with _worker(folder, subject) as worker:
                lived.append(await _resize(way, cgroup_write, worker, subject, settings, options))
    return lived


@asynccontextmanager
async def _worker(folder: Path, subject: Subject) -> AsyncIterator[Container]:
    """A worker of the image, alone with its model, removed at the end. Raises StartError, DockerException."""
    _configure(folder, subject)
    engine = docker.from_env(timeout=60)
    owner.remove_abandoned(engine)
    # Not in a thread: who is cancelled meanwhile would leave a container behind.
    running = engine.containers.run(
        IMAGE,
        detach=True,
        ports={f"{_PORT}/tcp": ("127.0.0.1", 0)},  # any
        volumes=[f"{folder}:/etc/sponge:ro"],
        labels={
            config.Actuator().docker_label: "true",
            PROJECT: f"sponge-resizes-{uuid.uuid4().hex[:8]}",
            owner.LABEL: owner.this(),
        },
        cpu_period=PERIOD_US,
        cpu_quota=_MOST * PERIOD_US // 1000,
    )
    try:
        running.reload()
        await serving(_Started(running), _address(running))
        yield running
    finally:
        with contextlib.suppress(DockerException):
            await asyncio.to_thread(running.remove, force=True)
        engine.close()


def _configure(folder: Path, subject: Subject) -> None:
    (folder / "worker.toml").write_text(
        f'[model]\npath = "{subject.path.name}"\nwarmup_shapes = {{ {subject.input} = {list(subject.row)} }}\n'
        f'[service]\nslo_ms = {1000 * _TIMEOUT_S}\n[server]\nmetrics_listen = ""\n'
        "[engine]\ninstances = 2\nmax_batch = 8\n"
    )
    folder.chmod(0o755)  # the worker is not root


@dataclass(frozen=True, slots=True)
class _Started:
    container: Container

    @property
    def name(self) -> str:
        return "worker"

    async def running(self) -> bool:
        await asyncio.to_thread(self.container.reload)
        return bool(self.container.status == "running")

    async def last_line(self) -> str:
        written: bytes = await asyncio.to_thread(self.container.logs, tail=1)
        return written.decode(errors="replace").strip() or "no output"


def _address(container: Container) -> str:
    published = container.ports[f"{_PORT}/tcp"] or [{"HostPort": "0"}]
    return f"127.0.0.1:{published[0]['HostPort']}"


async def _resize(
    way: str, cgroup_write: bool, worker: Container, subject: Subject, settings: Settings, options: Options
) -> Lived:
    began = worker.attrs["State"]
    group = Cgroup.of_process(began["Pid"])
    if group is None:
        raise StartError("the containers' control groups are not to be seen from here")
    actuator = DockerActuator(
        config.Actuator(
            period_us=PERIOD_US,
            compose_project=worker.labels[PROJECT],
            resize_memory=True,
            cgroup_write=cgroup_write,
        )
    )
    lived, over = Lived(way, Answers()), asyncio.Event()
    try:
        async with client.connect(Dialect.GRPC, _address(worker)) as asking:
            load = asyncio.create_task(
                steady.ask(asking, subject, settings.clients, _TIMEOUT_S, lambda _: over.is_set())
            )
            try:
                until_s = time.monotonic() + (options.seconds or float("inf"))
                rng = np.random.default_rng(settings.seed)
                for number in range(settings.resizes):
                    if time.monotonic() > until_s:
                        break
                    options.progress(f"{way}: resize {number + 1} of {settings.resizes}")
                    try:
                        await _one(lived, actuator, WorkerRef("w", worker.id or ""), group, began["Pid"], rng)
                    except (ActuationError, CgroupError, OSError) as error:
                        if group.cpu.is_dir():
                            raise StartError(f"resize {number + 1}: {error}") from error
                        break  # it has ended, of which its engine tells
            finally:
                over.set()
                lived.answers = await load
    finally:
        await actuator.close()
    worker.reload()
    if group.cpu.is_dir():
        lived.oom_kills = group.oom_kills()
    lived.died = _died(began, worker.attrs)
    return lived


async def _one(
    lived: Lived, actuator: DockerActuator, ref: WorkerRef, group: Cgroup, pid: int, rng: np.random.Generator
) -> None:
    """Ask for any CPU, and for memory between half of what is in use and twice what would be planned."""
    peak = _peak_bytes(pid)
    used, before = group.working_set_bytes(), group.memory_limit_bytes()
    millicores = int(rng.integers(_LEAST, _MOST + 1, endpoint=False)) // _STEP * _STEP
    planned = (1 + config.Planner().memory_head_room) * max(used, peak)
    memory = 0 if rng.random() < _UNLIMITED_SHARE else int(rng.uniform(used / 2, 2 * planned)) // _MIB * _MIB
    began = time.perf_counter()
    await actuator.write(ref, Quota(millicores, memory))
    lived.seconds.append(time.perf_counter() - began)
    await actuator.settle()
    limit = group.memory_limit_bytes()
    now = group.working_set_bytes()
    lived.cpu_astray += group.quota_millicores() != millicores
    lived.in_use_share = max(lived.in_use_share, now / _peak_bytes(pid))
    if limit is None or (before is not None and limit > before):
        lived.raised += 1
    elif before is None or limit < before:
        lived.lowered += 1
        lived.least_free_bytes = min(lived.least_free_bytes, limit - now)
    lived.held_up += limit is not None and memory > 0 and limit > memory


def _peak_bytes(pid: int) -> int:
    found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise StartError("worker: ended")
    return int(found[1]) * 1024


def _died(began: dict[str, Any], attrs: dict[str, Any]) -> str:
    state = attrs["State"]
    if state["OOMKilled"]:
        return "killed for want of memory"
    if attrs["RestartCount"] or state["StartedAt"] != began["StartedAt"]:
        return "started again"
    return "" if state["Running"] else f"ended with {state['ExitCode']}"


def table(lived: Sequence[Lived]) -> Table:
    """Resizes and answers."""
    return Table(
        title="Random resizes under load",
        columns=[
            "way",
            "resizes",
            "p50 ms",
            "p99 ms",
            "memory raised",
            "lowered",
            "not so low",
            "least left, MiB",
            "in use of the peak, %",
            "OOM kills",
            "requests",
            "failed",
        ],
        rows=[
            [
                one.way,
                len(one.seconds),
                *(1000 * float(np.quantile(one.seconds, q)) for q in (0.5, 0.99)),
                one.raised,
                one.lowered,
                one.held_up,
                one.least_free_bytes / _MIB if one.lowered else None,
                100 * one.in_use_share,
                one.oom_kills,
                one.answers.total,
                one.answers.failed.total(),
            ]
            for one in lived
        ],
        note=f"CPU from {_LEAST} to {_MOST} millicores, memory from half of what is in use to twice what would be "
        f"planned; {_UNLIMITED_SHARE:.0%} lift its limit. Not so low: what is in use did not allow it. Least left: "
        "between a lowered limit and what was in use right after. In use: the most of the control group, without page "
        "cache that is given back first, of what the process had resident at most.",
    )


def goals(lived: Sequence[Lived]) -> list[Goal]:
    """What is promised of each way."""
    return [
        Goal(
            goal=f"{one.way}: no OOM kill, no restart, no failed request",
            measured=", ".join(
                [
                    f"{one.oom_kills} OOM kills in {len(one.seconds)} resizes",
                    one.died or "still the same process",
                    f"{one.answers.failed.total()} of {one.answers.total} requests failed",
                    *([f"{one.cpu_astray} quotas astray"] if one.cpu_astray else []),
                ]
            ),
            met=not (one.oom_kills or one.died or one.answers.failed or one.cpu_astray),
        )
        for one in lived
    ]
