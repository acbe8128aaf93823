"""The worker as the control plane sees it: who it is, how it fares, and what it is told to run with."""

import asyncio
import math
import os
import socket
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import structlog

from core.cgroup import Cgroup
from dataplane import resources
from dataplane.batcher import Shape
from dataplane.config import Config
from dataplane.execution import EngineError, Timing
from dataplane.request import ExecutionRecord
from dataplane.served import Served
from dataplane.servicetime import ServiceTime, warmed
from dataplane.telemetry import Telemetry, version
from dataplane.worker import Worker
from protos import control_pb2

log = structlog.get_logger()


class Agent:
    """Speaks for one worker, and acts on it; the Source of an Uplink."""

    def __init__(
        self,
        config: Config,
        worker: Worker,
        served: Served,
        telemetry: Telemetry,
        cgroup: Cgroup | None,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._worker = worker
        self._served = served
        self._telemetry = telemetry
        self._cgroup = cgroup
        self._clock = clock
        self._worker_id = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._directed_millicores = 0
        self._ignored: tuple[tuple[int, int], str] | None = None  # the last, and why
        self._quota_millicores = resources.read(cgroup).quota_millicores
        self._batched = served.model.signature.batched
        self._warm = asyncio.Event()
        self.on_renewed: Callable[[], None] = lambda: None

    def adopt(self, timings: Sequence[Timing]) -> None:
        """The model that is served is loaded from now on, or has become another, and takes so long.

        The control plane then learns of it as of a worker that comes back: latencies are known by model.
        """
        batcher = self._worker.batcher
        batched, self._batched = self._batched, self._served.model.signature.batched
        if batched != self._batched:
            max_batch = self._config.engine.batch if self._batched else 1
            batcher.reshape(replace(batcher.shape, max_batch=max_batch))
        batcher.times.costs.forget()
        batcher.times.adopt(warmed(_mean_s(timings)))
        batcher.times.costs.expect(_costs(timings))
        self._telemetry.disturb()
        for timing in timings:
            self._telemetry.executed(
                ExecutionRecord(timing.rows, timing.threads, timing.wall_s, timing.cpu_s, 1.0, mixed=False)
            )
        if not self._warm.is_set():
            self._warm.set()
            return
        self.on_renewed()

    def hello(self) -> control_pb2.Hello:
        """Who this is, and what is in force; samples begin here."""
        config = self._config
        read = resources.read(self._cgroup)
        self._telemetry.restart(self._clock(), read)
        return control_pb2.Hello(
            worker_id=self._worker_id,
            service=config.service.name,
            container_id=container_id(),
            cgroup_path=str(self._cgroup.cpu) if self._cgroup is not None else "",
            pid=os.getpid(),
            model_digest=self._served.model.digest,
            model_name=config.model.name,
            max_instances=config.engine.max_instances,
            max_threads=config.engine.max_threads,
            max_batch=self._served.model.max_rows,
            slo_ms=config.service.slo_ms,
            applied=version(self._worker.batcher.shape.version),
            allocation=self._allocation(read.quota_millicores),
            starting=not self._warm.is_set(),
        )

    def sample(self, *, distress: bool) -> control_pb2.Sample:
        """Everything since the last one."""
        read = resources.read(self._cgroup)
        if read.quota_millicores != self._quota_millicores:
            self._quota_millicores = read.quota_millicores
            self._worker.batcher.disturb()
        return self._telemetry.sample(
            self._worker.batcher,
            read,
            self._allocation(read.quota_millicores),
            self._clock(),
            starting=not self._warm.is_set(),
            distress=distress,
        )

    async def obey(self, directive: control_pb2.Directive) -> None:
        """Put a directive in force, unless it is stale or cannot be; what cannot is logged, once, as it comes again.

        Cancelled, it is not in force, and will not be.
        """
        await self._warm.wait()
        shape = shape_of(directive)
        if shape.version <= self._worker.batcher.shape.version:
            return
        if (reason := self._unfit(shape, directive)) is not None:
            self._ignore(shape, reason)
            return
        allocation = directive.allocation
        pace = allocation.cpu_millicores if directive.pace else None
        try:
            await self._worker.apply(shape, table_of(directive), pace)
        except EngineError as error:
            self._ignore(shape, str(error))
            return
        self._directed_millicores = allocation.cpu_millicores
        log.info(
            "allocation applied",
            version=shape.version,
            cpu_millicores=allocation.cpu_millicores,
            instances=shape.instances,
            threads=shape.threads,
            max_batch=shape.max_batch,
        )

    def _ignore(self, shape: Shape, reason: str) -> None:
        if (ignored := (shape.version, reason)) != self._ignored:
            self._ignored = ignored
            log.error("directive ignored", reason=reason, version=shape.version)

    def _unfit(self, shape: Shape, directive: control_pb2.Directive) -> str | None:
        """Why a directive cannot be obeyed, None if it can."""
        engine = self._config.engine
        for name, value, maximum in (
            ("instances", shape.instances, engine.max_instances),
            ("threads", shape.threads, engine.max_threads),
            ("max_batch", shape.max_batch, self._served.model.max_rows),
        ):
            if not 1 <= value <= maximum:
                return f"{name}: expected 1 to {maximum}, got {value}"
        if directive.pace and directive.allocation.cpu_millicores < 1:
            return "cpu_millicores: expected at least 1 to keep pace with"
        for p in directive.predictions:
            times_ms = (p.mean_ms, p.low_ms, p.high_ms)
            if not (p.rows >= 1 and p.mean_ms > 0 and all(map(math.isfinite, times_ms))):
                return "predictions: expected rows of at least 1, positive mean_ms, and finite times"
        return None

    def _allocation(self, quota_millicores: int) -> control_pb2.Allocation:
        """What is in force; without a quota its CPU is what was asked for last, or what the threads can use."""
        shape = self._worker.batcher.shape
        return control_pb2.Allocation(
            cpu_millicores=quota_millicores
            or self._directed_millicores
            or 1000 * shape.instances * shape.threads,
            instances=shape.instances,
            threads=shape.threads,
            max_batch=shape.max_batch,
        )


def container_id(environ: Mapping[str, str] = os.environ) -> str:
    """What whoever runs this container knows it by: the name of its pod, or Docker's short id; "" outside one.

    SPONGE_POD_NAME names the pod (the downward API's metadata.name); without it the hostname does, which is cut off
    after 63 characters.
    """
    if pod := environ.get("SPONGE_POD_NAME"):
        return pod
    contained = "KUBERNETES_SERVICE_HOST" in environ or Path("/.dockerenv").exists()
    return socket.gethostname() if contained else ""


def shape_of(directive: control_pb2.Directive) -> Shape:
    """What a directive asks the worker to run with."""
    allocation = directive.allocation
    return Shape(
        instances=allocation.instances,
        threads=allocation.threads,
        max_batch=allocation.max_batch,
        version=(directive.version.term, directive.version.epoch),
    )


def table_of(directive: control_pb2.Directive) -> list[ServiceTime]:
    """The service times that a directive predicts; a quantile on the wrong side of the mean counts as the mean."""
    return [
        ServiceTime(
            p.rows,
            p.mean_ms / 1000,
            min(max(p.low_ms, 0.0), p.mean_ms) / 1000,
            max(p.high_ms, p.mean_ms) / 1000,
        )
        for p in directive.predictions
    ]


def _mean_s(timings: Sequence[Timing]) -> dict[int, float]:
    """By rows, the mean of all shapes."""
    walls_s: defaultdict[int, list[float]] = defaultdict(list)
    for timing in timings:
        walls_s[timing.rows].append(timing.wall_s)
    return {rows: mean(seen) for rows, seen in walls_s.items()}


def _costs(timings: Sequence[Timing]) -> dict[int, float]:
    """What rows of so many elements cost beside the mean of all shapes, in the mean of all batch sizes."""
    means_s = _mean_s(timings)
    costs: defaultdict[int, list[float]] = defaultdict(list)
    for timing in timings:
        costs[timing.elements].append(timing.wall_s / means_s[timing.rows])
    return {elements: mean(seen) for elements, seen in costs.items()}
