"""`python -m dataplane --config worker.toml`: composes and runs one worker."""

import argparse
import asyncio
import contextlib
import functools
import gc
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from core import logs
from core.config import ConfigError
from core.edge import Edge, ListenError
from core.files import FileError
from core.tls import channel_credentials
from dataplane import config as configuration
from dataplane import resources, server, versions
from dataplane.agent import Agent
from dataplane.batcher import Batcher, Shape
from dataplane.config import Config
from dataplane.deadline import Policy
from dataplane.engine import Engine
from dataplane.execution import EngineError, ModelError
from dataplane.inference import Inference
from dataplane.metrics import Metrics, StateCollector
from dataplane.repository import Repository
from dataplane.served import Model, Served
from dataplane.server import InferenceServer
from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.statistics import Statistics
from dataplane.telemetry import Telemetry
from dataplane.uplink import Uplink
from dataplane.versions import Version
from dataplane.worker import Observer, Worker

# Until the engine is warm; nothing is served before that.
_UNKNOWN = ServiceTime(rows=1, mean_s=0.1, low_s=0.1, high_s=0.1)

log = structlog.get_logger()


async def serve(config: Config, engine: Engine, watching: Sequence[Observer] = ()) -> None:
    """Run until SIGTERM or SIGINT, then drain; `watching` hears of every request besides telemetry and metrics.

    Raises ListenError and EngineError, before serving only.
    """
    clock = time.monotonic
    cgroup = resources.own_cgroup()
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    telemetry = Telemetry(clock(), resources.read(cgroup))
    statistics = Statistics()
    served = Served(Model.of(engine, generation=0, max_batch=config.engine.max_batch))
    statistics.begin(served.model.generation)
    observers: tuple[Observer, ...] = (telemetry, metrics, statistics, *watching)
    patience_s = config.service.patience_ms / 1000 if config.control.address else 0.0
    batcher = Batcher(_shape(config, engine), ServiceTimes([_UNKNOWN]), config.server.max_queue, patience_s)
    worker = Worker(engine, batcher, observers, clock, time.process_time, config.engine.max_instances)
    registry.register(StateCollector(batcher, lambda: resources.read(cgroup), worker.rung_bytes, clock))
    agent = Agent(config, worker, served, telemetry, cgroup, clock)
    edge = Edge(
        [server.SERVICE],
        [config.model.name],
        config.server.max_message_mib << 20,
        tls=config.server.tls,
        token_file=config.server.token_file,
        unauthenticated=metrics.unauthenticated,
    )
    repository = Repository(
        Path(config.model.path),
        config.model.version,
        served,
        worker,
        agent,
        statistics,
        config.engine.max_batch,
        functools.partial(_load, config),
        lambda serving: edge.serve() if serving else edge.pause(),
    )
    servicer = InferenceServer(
        Inference(
            worker,
            served,
            _policy(config),
            config.server.max_typed_mib << 20,
            statistics,
            observers,
            clock,
        ),
        served,
        repository,
        statistics,
        metrics,
        config.server,
        clock,
    )
    server.add_to(edge.server, servicer)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        addresses = await edge.listen(config.server.listen, config.server.metrics_listen, registry)
        log.info("listening", **addresses)
        async with _attached(config, worker, agent):
            if await _unless(stop, repository.start(engine)):
                # What was loaded by now stays, and need not be looked through time and again.
                gc.collect()
                gc.freeze()
                await stop.wait()
            log.info("draining", waiting=len(batcher), running=len(batcher.running))
            servicer.drain()
            await edge.refuse()
            await worker.drain(config.server.drain_s)
    finally:
        await edge.stop()
        worker.close()


@contextlib.asynccontextmanager
async def _attached(config: Config, worker: Worker, agent: Agent) -> AsyncIterator[None]:
    """Keep in touch with the control plane, if there is to be one."""
    if not config.control.address:
        yield
        return
    uplink = Uplink(
        config.control.address,
        agent,
        config.control.report_interval_ms / 1000,
        time.monotonic,
        config.control.tls,
    )
    worker.on_distress = uplink.distress
    worker.on_acknowledged = uplink.acknowledge
    agent.on_renewed = uplink.renew
    running = asyncio.create_task(uplink.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Do `work`; False if `stop` came first."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        return False
    working.result()
    return True


def _load(config: Config, version: Version) -> Engine:
    """Raises ModelError."""
    return Engine(
        version.file,
        config.model.name,
        version.name,
        config.model.warmup_shapes,
        keep_copy=config.server.allow_repository_control,
    )


def _shape(config: Config, engine: Engine) -> Shape:
    batch = config.engine.batch if engine.signature.batched else 1
    return Shape(config.engine.instances, config.engine.threads, batch)


def _policy(config: Config) -> Policy:
    service = config.service
    return Policy(
        max_slo_s=(service.max_slo_ms or service.slo_ms) / 1000,
        min_slo_s=service.min_slo_ms / 1000,
        max_grace_s=service.max_grace_ms / 1000,
        margin_s=service.response_margin_ms / 1000,
        trust_client=service.trust_client_deadline,
    )


def run(path: Path, watching: Sequence[Observer] = ()) -> int:
    """Serve as worker.toml at `path` says; exit code 2 and one line for what the user can mend, else 0."""
    try:
        config = configuration.read(path)
        logs.configure(config.log_level)
        if config.control.tls:
            # The uplink reads these files at each attempt; what is wrong with them now is worth an end.
            channel_credentials(config.control.tls)
        engine = _load(config, versions.newest(Path(config.model.path), config.model.version))
        # A call takes many turns of the loop, and uvloop's cost less: evaluation.serving has an echo on either.
        uvloop.run(serve(config, engine, watching))
    except (ListenError, FileError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    except (ConfigError, ModelError, EngineError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def main() -> int:
    """Run the worker that --config describes."""
    parser = argparse.ArgumentParser(prog="python -m dataplane", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    return run(parser.parse_args().config)


if __name__ == "__main__":
    sys.exit(main())
