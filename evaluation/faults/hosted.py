"""Two services in containers of a real engine, a control plane that reaches it by a relay, and what is seen of them."""

import asyncio
import ipaddress
import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import docker
from docker.errors import DockerException, ImageNotFound
from docker.models.containers import Container
from docker.models.networks import Network
from docker.types import IPAMConfig, IPAMPool

from controlplane.actuators.docker import PROJECT
from controlplane.config import Actuator
from evaluation import fleet, owner
from evaluation.admin import Admin
from evaluation.bench.containers import WORKER_IMAGE, Started
from evaluation.faults import bed
from evaluation.faults.bed import SERVICES, View
from evaluation.faults.relay import Relay
from evaluation.fleet import ControlSpec, WorkerSpec
from evaluation.load import Service
from evaluation.process import Process, StartError, free_port, serving
from evaluation.serving.subjects import Subject

T = TypeVar("T")

ENGINE = Path("/var/run/docker.sock")
_PORT = 8001
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container is created with, by somebody who knows nothing of what it has by now."""

    cpu_quota: int
    cpu_period: int


AS_USUAL = Limits(bed.START.cpu_millicores * fleet.PERIOD_US // 1000, fleet.PERIOD_US)


@dataclass(slots=True)
class Hosted:
    """What runs; `engine` is asked past the relay."""

    engine: docker.DockerClient
    relay: Relay
    control: Process
    view: View
    services: Mapping[str, Service]
    containers: dict[str, Container]
    create: Callable[[str, Limits], Container]

    async def call(self, call: Callable[..., T], *words: Any, **more: Any) -> T:
        """Ask the engine something without standing still."""
        return await asyncio.to_thread(call, *words, **more)

    async def inspected(self, service: str) -> Mapping[str, Any]:
        """What the engine says of a worker's container."""
        container = self.containers[service]
        await self.call(container.reload)
        return dict(container.attrs)

    async def quota(self, service: str) -> int:
        """What the engine holds a worker to, in millicores."""
        limits = (await self.inspected(service))["HostConfig"]
        return int(limits["CpuQuota"]) * 1000 // int(limits["CpuPeriod"])

    async def life(self, service: str) -> tuple[str, int]:
        """When a worker's container was started, and how often again."""
        found = await self.inspected(service)
        return found["State"]["StartedAt"], found["RestartCount"]

    def events(self) -> list[dict[str, Any]]:
        """What the control plane has logged."""
        return bed.events(self.control.log.read_text())

    async def settled(self) -> None:
        """Wait until both have what is planned for them."""
        await bed.until(lambda: self.right(*SERVICES), what="a plan in force")

    async def calm(self) -> None:
        """Wait until they have little as well: they start with more than they need."""

        async def read() -> bool:
            quotas = [await self.quota(service) for service in SERVICES]
            return max(quotas) <= bed.CALM_MILLICORES and await self.right(*SERVICES)

        await bed.until(read, what="little for both")

    async def right(self, *services: str) -> bool:
        """Whether services have what is planned for them, by the control plane and by the engine."""
        if not await self.view.at_rest(*services):
            return False
        for service in services:
            worker = await self.view.worker(service)
            if worker is None or worker.target.cpu_millicores != await self.quota(service):
                return False
        return True


@asynccontextmanager
async def up(subject: Subject, folder: Path, engine: Path = ENGINE) -> AsyncIterator[Hosted]:
    """Run both services in containers while the block runs, and the control plane as a local process.

    `folder` is one that anybody can read: the workers are not root. `engine` is the local socket of one; all that is
    made there is removed. Raises StartError.
    """
    project = f"sponge-faults-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    labels = {PROJECT: project, owner.LABEL: owner.this()}
    async with AsyncExitStack() as stack:
        try:
            client = await asyncio.to_thread(_client, engine)
            stack.callback(client.close)
            await asyncio.to_thread(owner.remove_abandoned, client)
            network, subnet = await asyncio.to_thread(_network, client, project, labels)
            stack.callback(network.remove)
        except DockerException as error:
            raise StartError(f"Docker engine: {' '.join(str(error).split())}") from error
        gateway, *hosts = (str(host) for host in list(subnet.hosts())[: 1 + len(SERVICES)])
        relay = Relay(folder / "engine.sock", engine)
        await relay.open()
        stack.push_async_callback(relay.cut)
        specs = {name: bed.spec(subject, name) for name in SERVICES}
        address = f"{gateway}:{free_port()}"
        control = await _control(folder, project, list(specs.values()), address)
        stack.push_async_callback(control.stop)
        await control.serving(address)
        admin = Admin(address)
        stack.push_async_callback(admin.aclose)
        model = folder / subject.path.name
        model.write_bytes(subject.path.read_bytes())

        def create(name: str, limits: Limits) -> Container:
            config = folder / f"{name}.toml"
            config.write_text(
                fleet.worker_toml(specs[name], Path("/faults") / model.name, f"0.0.0.0:{_PORT}", address)
            )
            container = client.containers.create(
                WORKER_IMAGE,
                command=["--config", f"/faults/{name}.toml"],
                name=f"{project}-{name}",
                labels={**labels, Actuator().docker_label: "true"},
                volumes=[f"{folder}:/faults:ro"],
                restart_policy={"Name": "on-failure"},
                network=project,
                networking_config={
                    project: client.api.create_endpoint_config(ipv4_address=hosts[SERVICES.index(name)])
                },
                cpu_quota=limits.cpu_quota,
                cpu_period=limits.cpu_period,
            )
            container.start()
            return container

        stack.callback(_remove, client, project)
        try:
            containers = {name: await asyncio.to_thread(create, name, AS_USUAL) for name in SERVICES}
        except ImageNotFound as error:
            raise StartError(f"image {WORKER_IMAGE}: expected to be there, as after `make images`") from error
        services = {
            name: bed.service(subject, name, f"{host}:{_PORT}")
            for name, host in zip(SERVICES, hosts, strict=True)
        }
        for name, host in zip(SERVICES, hosts, strict=True):
            await serving(Started(name, containers[name]), f"{host}:{_PORT}")
        await fleet.attached(admin, list(specs.values()))
        yield Hosted(client, relay, control, View(admin), services, containers, create)


def _client(engine: Path) -> docker.DockerClient:
    return docker.DockerClient(base_url=f"unix://{engine}", timeout=_TIMEOUT_S)


async def _control(folder: Path, project: str, specs: list[WorkerSpec], address: str) -> Process:
    config = folder / "control.toml"
    actuator = f'kind = "docker"\ncompose_project = "{project}"\n'
    config.write_text(fleet.control_toml(ControlSpec(), specs, bed.HOST_MILLICORES, address, actuator))
    more = {"DOCKER_HOST": f"unix://{folder}/engine.sock"}
    return await Process.start("control", "controlplane", config, more=more)


def _network(
    client: docker.DockerClient, project: str, labels: Mapping[str, str]
) -> tuple[Network, ipaddress.IPv4Network]:
    """Make a network in which addresses can be chosen: the engine says where there is room for one."""
    probe = client.networks.create(project, labels=dict(labels))
    probe.reload()
    subnet = ipaddress.IPv4Network(probe.attrs["IPAM"]["Config"][0]["Subnet"])
    probe.remove()
    ipam = IPAMConfig(pool_configs=[IPAMPool(subnet=str(subnet), gateway=str(subnet[1]))])
    return client.networks.create(project, labels=dict(labels), ipam=ipam), subnet


def _remove(client: docker.DockerClient, project: str) -> None:
    """Remove all containers that carry the project's label, known here or not."""
    for container in client.containers.list(all=True, filters={"label": f"{PROJECT}={project}"}):
        container.remove(force=True, v=True)
