"""A real Docker engine, the planes' images, and a Compose project of one's own, swept away at the end."""

import contextlib
import io
import os
import platform
import shutil
import socket
import struct
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import docker
import pytest
from docker.errors import DockerException, NotFound
from docker.models.containers import Container

from controlplane.actuators.docker import PROJECT
from controlplane.actuators.engine import Address
from controlplane.config import Actuator

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT_S = 900.0
ENGINE_TIMEOUT_S = 60

# A whole program that waits for ever, so that no image has to come from anywhere.
MACHINE_CODE = {
    # again: mov eax, SYS_pause; syscall; jmp again
    "x86_64": (62, bytes.fromhex("b822000000 0f05 ebf7")),
    # again: x0..x3 = 0; x8 = SYS_ppoll; svc 0; b again
    "aarch64": (183, bytes.fromhex("000080d2 010080d2 020080d2 030080d2 280980d2 010000d4 faffff17")),
}


def waiting_program() -> bytes:
    """An ELF file with one loadable segment: both headers, then the code."""
    machine, code = MACHINE_CODE[platform.machine()]
    base, headers = 0x400000, 64 + 56
    size = headers + len(code)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, machine, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is below this directory; time limits hold for the tests, not for the images they wait for."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.docker)
            item.add_marker(pytest.mark.timeout(300, func_only=True))


def unavailable(reason: str) -> NoReturn:
    """Skip what needs Docker, or fail it where SPONGE_REQUIRE_DOCKER says that it must run."""
    if os.environ.get("SPONGE_REQUIRE_DOCKER"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def connect(url: str) -> None:
    """Connect to an engine, and no more. Raises OSError.

    docker-py leaves the socket open where it cannot, which at the end of all tests would count as a failure.
    """
    parts = urlsplit(url)
    if parts.scheme == "http+unix":
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(ENGINE_TIMEOUT_S)
            probe.connect(parts.path)
    else:
        socket.create_connection((parts.hostname, parts.port), ENGINE_TIMEOUT_S).close()


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of the engine that the environment names."""
    url = Address.from_env().url
    try:
        connect(url)
        client = docker.from_env(timeout=ENGINE_TIMEOUT_S)
    except (OSError, DockerException) as error:
        unavailable(f"no Docker engine answers at {url}: {error}")
    yield client
    client.close()


@pytest.fixture
def root() -> None:
    """Skip where this user may not kill a container's process: what the engine kills itself it does not restart."""
    if os.geteuid() != 0:
        unavailable("needs root, to kill a container's process from outside")


def has_compose() -> bool:
    """Whether this machine has Compose, v2 or 1.29."""
    if shutil.which("docker-compose"):
        return True
    return shutil.which("docker") is not None and (
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    )


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient) -> dict[str, str]:
    """Image ids of the worker and the control plane, by target, built from the tree as it is."""
    if not has_compose():
        unavailable("found neither 'docker compose' nor docker-compose to build the images with")
    build = subprocess.run(
        ["make", "images", "SERVICES=vision control"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if build.returncode != 0:
        pytest.fail(f"make images: {build.stdout[-2000:]}", pytrace=False)
    return {target: engine.images.get(f"sponge-{target}").id for target in ("worker", "control")}


@pytest.fixture(scope="session")
def project(engine: docker.DockerClient) -> Iterator[str]:
    """Name of a Compose project that is this session's; whatever carries its label is removed at the end."""
    name = f"sponge-test-{uuid.uuid4().hex[:8]}"
    yield name
    mine = {"label": f"com.docker.compose.project={name}"}
    for container in engine.containers.list(all=True, filters=mine):
        container.remove(force=True, v=True)
    for network in engine.networks.list(filters=mine):
        network.remove()
    for volume in engine.volumes.list(filters=mine):
        volume.remove()


@pytest.fixture(scope="session")
def image(engine: docker.DockerClient) -> Iterator[str]:
    """Name of an image with one program, `/wait`."""
    program, archive = waiting_program(), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("wait")
        member.size, member.mode = len(program), 0o755
        tar.addfile(member, io.BytesIO(program))
    name = f"sponge-test-wait:{uuid.uuid4().hex[:8]}"
    repository, tag = name.split(":")
    engine.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag)
    yield name
    engine.images.remove(name, force=True)


@pytest.fixture
def run(engine: docker.DockerClient, image: str, project: str) -> Iterator[Callable[..., Container]]:
    """Start a container that waits; it is removed at the end of the test."""
    started: list[Container] = []

    def start(*, labels: dict[str, str] | None = None, **limits: int) -> Container:
        labels = {Actuator().docker_label: "true", PROJECT: project} if labels is None else labels
        started.append(
            engine.containers.run(image, "/wait", detach=True, network_mode="none", labels=labels, **limits)
        )
        started[-1].reload()
        return started[-1]

    yield start
    for container in started:
        with contextlib.suppress(NotFound):
            container.remove(force=True)
