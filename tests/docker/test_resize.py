"""The whole loop against a real engine: load makes a running container larger, and its end makes it smaller."""

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import grpc
import numpy as np
import pytest
from docker.models.containers import Container

from protos import control_pb2, control_pb2_grpc
from sponge.client import Client
from tests import models
from tests.processes import LOOPBACK, PATIENCE_S, eventually, wait_serving, write_toml

PERIOD_US = 20_000
FLOOR_MILLICORES = 500
STARTUP_MILLICORES = 1100  # one execution of one thread, and head-room for the event loop
# More than many a machine has: a quota is a ceiling, and what is planned must not depend on where the test runs.
HOST_MILLICORES = 4000
ROWS = np.ones((4, 256), np.float32)


@dataclass(frozen=True, slots=True)
class Fleet:
    """A control plane and a worker, each in its container."""

    control: Container
    worker: Container

    def address(self, container: Container, port: int) -> str:
        """Where a port of a container is published on this host."""
        container.reload()
        return f"{LOOPBACK}:{container.ports[f'{port}/tcp'][0]['HostPort']}"

    def millicores(self) -> int:
        """The worker's quota, as its engine knows it."""
        self.worker.reload()
        host_config = self.worker.attrs["HostConfig"]
        quota: int = host_config["CpuQuota"] * 1000 // host_config["CpuPeriod"]
        return quota

    def status(self) -> control_pb2.WorkerStatus | None:
        """What the control plane tells of the worker; None before it has attached."""
        with grpc.insecure_channel(self.address(self.control, 8500)) as channel:
            admin = control_pb2_grpc.AdminStub(channel)
            workers = admin.GetFleet(control_pb2.GetFleetRequest(), timeout=PATIENCE_S).workers
        return workers[0] if workers else None


@pytest.fixture
def fleet(
    engine: docker.DockerClient, images: dict[str, str], project: str, tmp_path: Path
) -> Iterator[Fleet]:
    """A fleet of one worker with a model that is worth resizing for."""
    tmp_path.chmod(0o755)  # the worker is not root
    models.slow(tmp_path / "slow.onnx", work=300)
    write_toml(
        tmp_path / "worker.toml",
        {
            "model": {"path": "slow.onnx"},
            # Longer than any request here waits: what fails, fails because of a resize.
            "service": {"slo_ms": 1000 * PATIENCE_S},
            "control": {"address": f"{project}-control:8500"},
        },
    )
    write_toml(
        tmp_path / "control.toml",
        {
            "host": {"millicores": HOST_MILLICORES},
            "governor": {"shrink_hold_s": 1.0},
            "services": {"slow": {"min_millicores": FLOOR_MILLICORES}},
        },
    )
    labels = {"com.docker.compose.project": project}
    with (
        network(engine, project, labels),
        running(
            engine,
            images["control"],
            name=f"{project}-control",
            network=project,
            labels=labels,
            ports={"8500/tcp": (LOOPBACK, None)},
            volumes=[f"{tmp_path}:/etc/sponge:ro", "/var/run/docker.sock:/var/run/docker.sock"],
        ) as control,
        running(
            engine,
            images["worker"],
            name=f"{project}-worker",
            network=project,
            labels={**labels, "sponge.worker": "true"},
            ports={"8001/tcp": (LOOPBACK, None)},
            volumes=[f"{tmp_path}:/etc/sponge:ro"],
            cpu_period=PERIOD_US,
            cpu_quota=PERIOD_US * 11 // 10,
            restart_policy={"Name": "on-failure"},
        ) as worker,
    ):
        fleet = Fleet(control, worker)
        wait_serving(fleet.address(control, 8500))
        wait_serving(fleet.address(worker, 8001))
        eventually(fleet.status)
        yield fleet


@contextmanager
def network(engine: docker.DockerClient, name: str, labels: dict[str, str]) -> Iterator[None]:
    """A network in which containers find each other by name, until the block ends."""
    created = engine.networks.create(name, labels=labels)
    try:
        yield
    finally:
        created.remove()


@contextmanager
def running(engine: docker.DockerClient, image: str, **options: object) -> Iterator[Container]:
    """A container until the block ends; a failing test shows what it logged."""
    container = engine.containers.run(image, detach=True, **options)
    try:
        yield container
    except BaseException:
        print(container.logs().decode())
        raise
    finally:
        container.remove(force=True)


@contextmanager
def load(address: str, outstanding: int) -> Iterator[list[str]]:
    """Keep as many requests outstanding until the block ends: whatever the quota, it is used up.

    Yields the failures, complete once the block has ended.
    """
    stop = threading.Event()
    failures: list[str] = []

    def ask(client: Client) -> None:
        while not stop.is_set():
            try:
                outputs = client.infer({"x": ROWS}, model="slow", timeout_s=PATIENCE_S)
                if not np.array_equal(outputs["y"], ROWS):
                    failures.append("wrong answer")
            except Exception as error:  # noqa: BLE001  # the test tells of it
                failures.append(str(error))

    with Client(address) as client, ThreadPoolExecutor(outstanding) as pool:
        for _ in range(outstanding):
            pool.submit(ask, client)
        try:
            yield failures
        finally:
            stop.set()


class History(threading.Thread):
    """Records every quota that the engine tells of."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__()
        self._fleet = fleet
        self._stopped = threading.Event()
        self.millicores: list[int] = []

    def run(self) -> None:
        while not self._stopped.wait(0.05):
            self.millicores.append(self._fleet.millicores())

    def stop(self) -> list[int]:
        """Every quota seen, the one in force now included, repetitions left out."""
        self._stopped.set()
        self.join()
        return [quota for quota, _ in itertools.groupby((*self.millicores, self._fleet.millicores()))]


def test_load_resizes_a_running_container_up_and_its_end_down(fleet: Fleet) -> None:
    fleet.worker.reload()
    started_at = fleet.worker.attrs["State"]["StartedAt"]
    eventually(fleet.millicores, lambda millicores: millicores == FLOOR_MILLICORES)
    history = History(fleet)
    history.start()
    with load(fleet.address(fleet.worker, 8001), outstanding=8) as failures:
        eventually(fleet.millicores, lambda millicores: millicores > 1000)
        # Above one core a second execution or thread is what the quota is for.
        eventually(fleet.status, lambda status: status.in_force.instances * status.in_force.threads > 1)
    eventually(fleet.millicores, lambda millicores: millicores == FLOOR_MILLICORES)
    eventually(fleet.status, lambda status: status.in_force.instances * status.in_force.threads == 1)
    seen = history.stop()
    print("quota in millicores:", seen)

    assert failures == []
    assert seen[0] == seen[-1] == FLOOR_MILLICORES
    assert max(seen) > 1000
    fleet.worker.reload()
    assert fleet.worker.attrs["State"]["StartedAt"] == started_at
    assert fleet.worker.attrs["RestartCount"] == 0


def test_an_orderly_stop_puts_back_the_quota_that_was_found(fleet: Fleet) -> None:
    eventually(fleet.millicores, lambda millicores: millicores == FLOOR_MILLICORES)
    fleet.control.stop(timeout=20)
    assert fleet.millicores() == 1100
    with Client(fleet.address(fleet.worker, 8001)) as client:
        outputs = client.infer({"x": ROWS}, model="slow", timeout_s=PATIENCE_S)
    assert np.array_equal(outputs["y"], ROWS)


@pytest.mark.usefixtures("root")
def test_a_killed_worker_comes_back_warm_and_planned(fleet: Fleet) -> None:
    eventually(fleet.millicores, lambda millicores: millicores == FLOOR_MILLICORES)
    before = fleet.status()
    history = History(fleet)
    history.start()
    # From outside: what the engine kills itself it does not restart.
    os.kill(fleet.worker.attrs["State"]["Pid"], signal.SIGKILL)
    after = eventually(
        fleet.status,
        lambda status: (
            status is not None and status.worker_id != before.worker_id and status.state == "serving"
        ),
    )
    eventually(fleet.millicores, lambda millicores: millicores == FLOOR_MILLICORES)
    seen = history.stop()
    print("quota in millicores:", seen)

    # The engine keeps the small quota over a restart; a worker that starts is given what it needs to.
    assert max(seen) == STARTUP_MILLICORES
    assert after.service == before.service
    fleet.worker.reload()
    assert fleet.worker.attrs["RestartCount"] == 1
    with Client(fleet.address(fleet.worker, 8001)) as client:
        outputs = client.infer({"x": ROWS}, model="slow", timeout_s=PATIENCE_S)
    assert np.array_equal(outputs["y"], ROWS)
