"""`python -m controlplane --config control.toml`: composes and runs the control plane."""

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

from controlplane import actuators
from controlplane import config as configuration
from controlplane.config import Config
from controlplane.loop import ControlLoop
from controlplane.metrics import FleetCollector, Metrics
from controlplane.server import AdminServer, ControlPlaneServer
from controlplane.state import Fleet
from controlplane.store import Store
from core import logs
from core.config import ConfigError
from protos import control_pb2, control_pb2_grpc

# CPU left to the planes' own needs and to whatever else the host runs.
_RESERVED_MILLICORES = 300
_RESERVED_BYTES = 1 << 30

log = structlog.get_logger()


def host_millicores(config: Config) -> int:
    """What there is for workers: as configured, or what this host has less the planes' own needs."""
    return config.host.millicores or 1000 * len(os.sched_getaffinity(0)) - _RESERVED_MILLICORES


def host_memory_bytes(config: Config) -> int:
    """As `host_millicores`, in bytes."""
    if config.host.memory_mib:
        return config.host.memory_mib << 20
    return max(_RESERVED_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") - _RESERVED_BYTES)


async def serve(config: Config, store: Store) -> None:
    """Run until SIGTERM or SIGINT, then put every worker back to what it was found with."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    clock = time.monotonic
    registry = CollectorRegistry()
    fleet = Fleet(
        host_millicores(config), host_memory_bytes(config), config.planner.request_overhead_ms / 1000
    )
    fleet.policies.update(config.services)
    fleet.paused = config.governor.paused
    registry.register(FleetCollector(fleet))
    actuator = actuators.make(config.actuator)
    control = ControlLoop(config, fleet, actuator, store, Metrics(registry), clock)

    server = grpc.aio.server(
        # Two control planes on one port would share its workers silently.
        options=[("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 5000)]
    )
    control_pb2_grpc.add_ControlPlaneServicer_to_server(ControlPlaneServer(control), server)
    control_pb2_grpc.add_AdminServicer_to_server(AdminServer(control, config.governor.stale_s, clock), server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    services = control_pb2.DESCRIPTOR.services_by_name.values()
    names = [service.full_name for service in services]
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        server.add_insecure_port(config.server.listen)
    except RuntimeError as error:
        raise ConfigError(f"server.listen: cannot listen on {config.server.listen}") from error
    if config.server.metrics_listen:
        host, _, port = config.server.metrics_listen.rpartition(":")
        try:
            start_http_server(int(port), host, registry)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"server.metrics_listen: cannot listen on {config.server.metrics_listen}: {error}"
            ) from error
    await server.start()
    for name in ("", *names):
        await health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    running = asyncio.create_task(control.run())
    log.info(
        "control plane ready",
        listen=config.server.listen,
        actuator=actuator.kind,
        host_millicores=fleet.host_millicores,
    )

    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, running], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if running.done():
        running.result()  # the loop never ends by itself: raise what ended it
    running.cancel()
    log.info("stopping", workers=len(fleet.workers))
    await health_servicer.enter_graceful_shutdown()
    await control.goodbye()
    await server.stop(grace=1.0)
    await actuator.close()


def main() -> int:
    """Exit code 2 and one line for what the user can mend; 0 after an orderly stop."""
    parser = argparse.ArgumentParser(prog="python -m controlplane", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        config = configuration.read(arguments.config)
        logs.configure(config.log_level)
        store = Store(config.store.path)
        try:
            asyncio.run(serve(config, store))
        finally:
            store.close()
    except ConfigError as error:
        print(
            error if str(arguments.config) in str(error) else f"{arguments.config}: {error}", file=sys.stderr
        )
        return 2
    except sqlite3.Error as error:
        print(f"{arguments.config}: store.path: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
