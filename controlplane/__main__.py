"""`python -m controlplane --config control.toml`: composes and runs the control plane."""

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from controlplane import actuators, planner
from controlplane import config as configuration
from controlplane.config import Config
from controlplane.loop import ControlLoop
from controlplane.metrics import FleetCollector, Metrics
from controlplane.planner import Planner
from controlplane.server import AdminServer, ControlPlaneServer
from controlplane.state import Fleet
from controlplane.store import Store
from core import logs
from core.config import ConfigError
from core.edge import Edge, ListenError
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


async def serve(config: Config, store: Store, decide: Planner = planner.plan) -> None:
    """Run until SIGTERM or SIGINT, then put every worker back to what it was found with.

    `decide` is what plans. Raises ListenError before anything else happens.
    """
    clock = time.monotonic
    registry = CollectorRegistry()
    fleet = Fleet(
        host_millicores(config),
        host_memory_bytes(config),
        config.planner.request_overhead_ms / 1000,
        config.planner.latency_quantile,
    )
    fleet.policies.update(config.services)
    fleet.paused = config.governor.paused
    registry.register(FleetCollector(fleet))
    actuator = actuators.make(config.actuator)
    control = ControlLoop(config, fleet, actuator, store, Metrics(registry), clock, decide)
    edge = Edge([service.full_name for service in control_pb2.DESCRIPTOR.services_by_name.values()])
    control_pb2_grpc.add_ControlPlaneServicer_to_server(ControlPlaneServer(control), edge.server)
    control_pb2_grpc.add_AdminServicer_to_server(
        AdminServer(control, config.governor.stale_s, clock), edge.server
    )

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        addresses = await edge.listen(config.server.listen, config.server.metrics_listen, registry)
        log.info("listening", **addresses)
        await edge.serve()
        log.info("serving", actuator=actuator.kind, host_millicores=fleet.host_millicores)
        await _until(stop, control)
        log.info("stopping", workers=len(fleet.workers))
        await edge.refuse()
        await control.goodbye()
    finally:
        await edge.stop()
        await actuator.close()


async def _until(stop: asyncio.Event, control: ControlLoop) -> None:
    """Run the loop until `stop`; it never ends by itself, so what ends it is raised."""
    running, stopping = asyncio.create_task(control.run()), asyncio.create_task(stop.wait())
    await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if running.done():
        running.result()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def main(arguments: Sequence[str] | None = None, decide: Planner = planner.plan) -> int:
    """Exit code 2 and one line for what the user can mend; 0 after an orderly stop."""
    parser = argparse.ArgumentParser(prog="python -m controlplane", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    path = parser.parse_args(arguments).config
    try:
        config = configuration.read(path)
        logs.configure(config.log_level)
        store = Store(config.store.path)
        try:
            asyncio.run(serve(config, store, decide))
        finally:
            store.close()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except ListenError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    except sqlite3.Error as error:
        print(f"{path}: store.path: expected a file that SQLite can open: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
