"""`python -m dataplane --config worker.toml`: composes and runs one worker."""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
import uuid
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

from core import logs
from core.cgroup import Cgroup
from core.config import ConfigError
from dataplane import config as configuration
from dataplane import resources, server
from dataplane.batcher import Batcher, Shape
from dataplane.config import Config
from dataplane.deadline import Policy
from dataplane.engine import Engine, ModelError
from dataplane.execution import Timing
from dataplane.metrics import Metrics, StateCollector
from dataplane.request import ExecutionRecord
from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.telemetry import Telemetry, version
from dataplane.uplink import Uplink, shape_of, table_of
from dataplane.worker import Worker, warm_batches
from protos import control_pb2, inference_pb2

# What a service time is taken to be at the least and at the most before any of it was seen.
_LOW, _HIGH = 0.8, 1.3

log = structlog.get_logger()


class Directed:
    """What the control plane sees of the worker, and does to it."""

    def __init__(
        self, config: Config, worker: Worker, engine: Engine, telemetry: Telemetry, cgroup: Cgroup | None
    ) -> None:
        self._config = config
        self._worker = worker
        self._engine = engine
        self._telemetry = telemetry
        self._cgroup = cgroup
        self._worker_id = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._directed_millicores = 0
        self.starting = True

    def hello(self) -> control_pb2.Hello:
        config, shape = self._config, self._worker.batcher.shape
        return control_pb2.Hello(
            worker_id=self._worker_id,
            service=config.service.name,
            container_id=socket.gethostname() if Path("/.dockerenv").exists() else "",
            cgroup_path=str(self._cgroup.cpu) if self._cgroup is not None else "",
            pid=os.getpid(),
            model_digest=self._engine.digest,
            model_name=config.model.name,
            max_instances=config.engine.max_instances,
            max_threads=config.engine.max_threads,
            max_batch=config.engine.max_batch if self._engine.signature.batched else 1,
            slo_ms=config.service.slo_ms,
            applied=version(shape.version),
            allocation=control_pb2.Allocation(
                cpu_millicores=self._millicores(resources.read(self._cgroup).quota_millicores),
                instances=shape.instances,
                threads=shape.threads,
                max_batch=shape.max_batch,
            ),
            starting=self.starting,
        )

    def sample(self, *, distress: bool) -> control_pb2.Sample:
        read = resources.read(self._cgroup)
        return self._telemetry.sample(
            self._worker.batcher,
            read,
            self._millicores(read.quota_millicores),
            time.monotonic(),
            starting=self.starting,
            distress=distress,
        )

    async def obey(self, directive: control_pb2.Directive) -> None:
        shape, current = shape_of(directive), self._worker.batcher.shape
        if shape.version <= current.version:
            return
        allocation, engine = directive.allocation, self._config.engine
        if not (
            1 <= shape.instances <= engine.max_instances
            and 1 <= shape.threads <= engine.max_threads
            and 1 <= shape.max_batch <= engine.max_batch
        ):
            log.error("directive out of bounds", shape=shape)
            return
        self._directed_millicores = allocation.cpu_millicores
        await self._worker.apply(
            shape, table_of(directive), allocation.cpu_millicores if directive.pace else None
        )
        log.info(
            "allocation applied",
            version=shape.version,
            cpu_millicores=allocation.cpu_millicores,
            instances=shape.instances,
            threads=shape.threads,
            max_batch=shape.max_batch,
        )

    def _millicores(self, quota_millicores: int) -> int:
        """The quota in force; without one what was asked for last, or what the threads can use."""
        shape = self._worker.batcher.shape
        return quota_millicores or self._directed_millicores or 1000 * shape.instances * shape.threads


def _table(timings: list[Timing]) -> list[ServiceTime]:
    return [ServiceTime(t.rows, t.wall_s, t.wall_s * _LOW, t.wall_s * _HIGH) for t in timings]


async def serve(config: Config, engine: Engine) -> None:
    """Run until SIGTERM or SIGINT, then drain."""
    clock = time.monotonic
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    cgroup = resources.own_cgroup()
    max_batch = config.engine.max_batch if engine.signature.batched else 1
    shape = Shape(config.engine.instances, config.engine.threads, min(config.engine.batch, max_batch))
    # A placeholder until the engine is warm; nothing is served before that.
    batcher = Batcher(shape, ServiceTimes([ServiceTime(1, 0.1, 0.08, 0.13)]), config.server.max_queue)
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    telemetry = Telemetry(clock(), resources.read(cgroup))
    registry.register(StateCollector(batcher, lambda: resources.read(cgroup), clock))
    worker = Worker(
        engine, batcher, (telemetry, metrics), clock, time.process_time, config.engine.max_instances
    )
    policy = Policy(
        max_slo_s=(config.service.max_slo_ms or config.service.slo_ms) / 1000,
        min_slo_s=config.service.min_slo_ms / 1000,
        margin_s=config.service.response_margin_ms / 1000,
        trust_client=config.service.trust_client_deadline,
    )
    inference = server.InferenceServer(
        worker, engine.signature, policy, max_batch, metrics, (telemetry, metrics), clock
    )
    grpc_server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", config.server.max_message_mib << 20),
            ("grpc.max_send_message_length", -1),
            # Two servers on one port would share its connections silently.
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ]
    )
    server.add_to(grpc_server, inference)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, grpc_server)
    reflection.enable_server_reflection(
        (
            inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
            health.SERVICE_NAME,
            reflection.SERVICE_NAME,
        ),
        grpc_server,
    )
    names = ("", server.SERVICE, config.model.name)

    async def set_health(status: int) -> None:
        for name in names:
            await health_servicer.set(name, status)

    await set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
    grpc_server.add_insecure_port(config.server.listen)
    if config.server.metrics_listen:
        host, _, port = config.server.metrics_listen.rpartition(":")
        start_http_server(int(port), host, registry)
    await grpc_server.start()

    directed = Directed(config, worker, engine, telemetry, cgroup)
    uplink_task: asyncio.Task[None] | None = None
    if config.control.address:
        uplink = Uplink(config.control.address, directed, config.control.report_interval_ms / 1000, clock)
        worker.on_distress = uplink.distress
        worker.on_acknowledged = uplink.acknowledge
        uplink_task = asyncio.create_task(uplink.run())

    timings = await worker.prepare(shape.threads, warm_batches(max_batch))
    if batcher.shape.version == (0, 0):
        batcher.times.adopt(_table(timings))
    for timing in timings:
        telemetry.executed(
            ExecutionRecord(timing.rows, timing.threads, timing.wall_s, timing.cpu_s, 1.0, mixed=False)
        )
    directed.starting = False
    inference.ready = True
    await set_health(health_pb2.HealthCheckResponse.SERVING)
    log.info("serving", model=config.model.name, listen=config.server.listen, digest=engine.digest[:12])

    await stop.wait()
    log.info("draining", waiting=len(batcher), running=len(batcher.running))
    inference.draining = True
    inference.ready = False
    await health_servicer.enter_graceful_shutdown()
    await worker.drain(config.server.drain_s)
    if uplink_task is not None:
        uplink_task.cancel()
        await asyncio.wait([uplink_task])
    await grpc_server.stop(grace=1.0)
    worker.close()


def main() -> int:
    """Exit code 2 and one line for what the user can mend; 0 after an orderly stop."""
    parser = argparse.ArgumentParser(prog="python -m dataplane", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        config = configuration.read(arguments.config)
        logs.configure(config.log_level)
        engine = Engine(
            Path(config.model.path), config.model.name, config.model.version, config.model.warmup_shapes
        )
        asyncio.run(serve(config, engine))
    except (ConfigError, ModelError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
