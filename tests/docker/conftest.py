"""A real Docker engine, the planes' images, and a Compose project of one's own, swept away at the end."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import docker
import pytest
from docker.errors import DockerException

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT_S = 900.0


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


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of the engine that the environment names."""
    try:
        client = docker.from_env(timeout=60)
    except DockerException as error:
        unavailable(f"no Docker engine answers: {error}")
    yield client
    client.close()


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
