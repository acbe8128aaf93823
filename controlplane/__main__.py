"""`python -m controlplane --config control.toml`: composes and runs the control plane."""

import argparse
import asyncio
import os
import signal
import socket
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from controlplane import actuators, controlfile, planner, roles
from controlplane.config import Config
from controlplane.leader import FileLock, Leadership, LockError, Standby
from controlplane.lease import LeaseLeadership
from controlplane.loop import ControlLoop
from controlplane.metrics import FleetCollector, Metrics
from controlplane.planner import Planner
from controlplane.prior import Priors
from controlplane.scaling import Scaling
from controlplane.server import AdminServer, ControlPlaneServer
from controlplane.state import Fleet, Host
from controlplane.store import Store
from core import logs
from core.config import ConfigError
from core.edge import Edge, ListenError
from core.files import FileError
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


def hosts(config: Config) -> list[Host]:
    """Where workers run: the hosts of all engines, or this one."""
    if not config.actuator.engines:
        return [Host(host_millicores(config), host_memory_bytes(config))]
    return [
        Host(engine.millicores, engine.memory_mib << 20, name)
        for name, engine in config.actuator.engines.items()
    ]


def leadership(config: Config) -> Leadership:
    """What the control planes of this host, or of this namespace, have one of. Raises LockError and ConfigError."""
    if config.leader.lease:
        lease = actuators.make_lease(config.leader, config.actuator.kubernetes)
        # Of this process: after its end its successor under the same name is another.
        identity = f"{socket.gethostname()}_{uuid.uuid4()}"
        return LeaseLeadership(lease, identity, config.leader.lease_s, _stamp)
    if config.leader.lock:
        return FileLock("leader.lock", config.leader.lock)
    return FileLock("store.path", config.store.path and f"{config.store.path}.lock")


def _stamp() -> str:
    """Now, as Kubernetes writes it in a Lease: always with microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def serve(
    config: Config,
    leader: Leadership,
    decide: Planner = planner.plan,
    priors: Priors | None = None,
) -> None:
    """Stand by until this process leads; then plan and act until SIGTERM or SIGINT.

    `decide` is what plans, `priors` what is believed of models until it is learned. Raises ListenError and FileError
    before anything else happens.
    """
    clock = time.monotonic
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    services = [service.full_name for service in control_pb2.DESCRIPTOR.services_by_name.values()]
    standby = Standby(services)
    edge = Edge(
        services,
        before=[standby],
        tls=config.server.tls,
        guard=roles.guard(config.server, metrics.call_refused),
    )
    actuator = actuators.make(config.actuator)
    scaling = _scaling(config, metrics, clock)
    keeping: asyncio.Task[None] | None = None
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        addresses = await edge.listen(config.server.listen, config.server.metrics_listen, registry)
        log.info("listening", **addresses)
        await _until(stop, leader.gain())
        if not leader.held:
            return
        keeping = asyncio.create_task(_keep(leader))
        # What could touch an allocation is made only now, and the store read: until now another wrote it.
        with closing(Store(config.store.path)) as store:
            control = ControlLoop(
                config, _fleet(config), actuator, store, metrics, clock, decide, priors, scaling
            )
            control.overrides.recall()
            registry.register(FleetCollector(control.fleet))
            control_pb2_grpc.add_ControlPlaneServicer_to_server(ControlPlaneServer(control), edge.server)
            control_pb2_grpc.add_AdminServicer_to_server(
                AdminServer(control, config.governor.stale_s, clock), edge.server
            )
            standby.end()
            metrics.leader.set(1)
            await _lead(control, edge, stop)
    finally:
        await edge.stop()
        if scaling is not None:
            await scaling.close()
        await actuator.close()
        # What a thread may still write it writes while this process leads.
        await asyncio.get_running_loop().shutdown_default_executor()
        if keeping is not None:
            keeping.cancel()
        await leader.release()


async def _keep(leader: Leadership) -> None:
    """End this process, whatever it is doing, when it leads no more: others may from now on.

    Nothing is put back, as that would be to act; workers go on with what they have.
    """
    try:
        await leader.keep()
    except Exception:  # what does not renew does not lead, whatever the reason
        log.exception("leadership not kept")
    log.critical("leadership lost")
    os._exit(1)  # with all threads, of which one may be about to write a quota


def _scaling(config: Config, metrics: Metrics, clock: Callable[[], float]) -> Scaling | None:
    """What follows with replicas, if any service may have several. Raises ConfigError."""
    if not any(policy.max_replicas for policy in config.services.values()):
        return None
    return Scaling(actuators.make_scales(config.actuator.kubernetes), config.replicas, metrics, clock)


def _fleet(config: Config) -> Fleet:
    fleet = Fleet(
        hosts(config),
        config.planner.request_overhead_ms / 1000,
        config.planner.latency_quantile,
        config.actuator.period_us / 1e6,
    )
    fleet.policies.update(config.services)
    fleet.paused = config.governor.paused
    return fleet


async def _lead(control: ControlLoop, edge: Edge, stop: asyncio.Event) -> None:
    """Plan and act until `stop`, then put every worker back to what it was found with."""
    await edge.serve()
    for host in control.fleet.hosts.values():
        log.info("serving", actuator=control.actuator.kind, host=host.name, host_millicores=host.millicores)
    await _until(stop, control.run())
    log.info("stopping", workers=len(control.fleet.workers))
    await edge.refuse()
    await control.goodbye()
    await edge.stop()  # who watches decisions reads the store


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends, or until `stop`; what it raises is raised."""
    running, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
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
        config = controlfile.read(path)
        priors = Priors.read(path, config.services)
        logs.configure(config.log_level)
        # Given up when no thread is left that could still write a quota.
        with closing(leadership(config)) as leader:
            asyncio.run(serve(config, leader, decide, priors))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (LockError, ListenError, FileError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    except sqlite3.Error as error:
        print(f"{path}: store.path: expected a file that SQLite can open: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
