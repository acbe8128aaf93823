"""What the images carry, and what they leave out."""

import docker
import pytest
from docker.errors import ContainerError


def run_python(engine: docker.DockerClient, image: str, project: str, code: str) -> str:
    """Run `code` in a container of `image`; raises ContainerError if it fails."""
    labels = {"com.docker.compose.project": project}
    return engine.containers.run(
        image, ["-c", code], entrypoint="python", labels=labels, remove=True
    ).decode()


def test_each_plane_has_what_it_imports(
    engine: docker.DockerClient, images: dict[str, str], project: str
) -> None:
    run_python(engine, images["worker"], project, "import dataplane.__main__, onnxruntime")
    modules = "controlplane.__main__, socketproxy.__main__, ortools, docker"
    run_python(engine, images["control"], project, f"import {modules}")


@pytest.mark.parametrize(
    ("target", "module"), [("worker", "ortools"), ("worker", "docker"), ("control", "onnxruntime")]
)
def test_no_plane_carries_what_only_the_other_needs(
    engine: docker.DockerClient, images: dict[str, str], project: str, target: str, module: str
) -> None:
    with pytest.raises(ContainerError, match=f"ModuleNotFoundError.*{module}"):
        run_python(engine, images[target], project, f"import {module}")


def test_a_worker_runs_without_privileges(
    engine: docker.DockerClient, images: dict[str, str], project: str
) -> None:
    assert int(run_python(engine, images["worker"], project, "import os; print(os.getuid())")) != 0
