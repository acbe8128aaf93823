"""Two control planes of one host, as processes: one leads, the other takes over when that has ended, and not before."""

import fcntl
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import control_pb2, control_pb2_grpc
from tests import models
from tests.planes import Control, Load, control
from tests.processes import PATIENCE_S, Process, Worker, eventually, wait_serving, worker, write_toml

INPUTS = {"x": np.ones((1, 256), np.float32)}
# What the control plane gives the worker, whatever the load. It comes with less, and with a larger batch.
MILLICORES = 1500
POLICY = {"min_millicores": MILLICORES, "max_millicores": MILLICORES, "max_batch": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.slow(tmp_path_factory.mktemp("model") / "slow.onnx", 2000)


@contextmanager
def two_planes(directory: Path) -> Iterator[tuple[Control, Control]]:
    """The one that leads, and the one that stands by."""
    sections = {
        "host": {"millicores": 4000},
        "planner": {"interval_s": 0.2},
        "store": {"path": directory / "sponge.db", "latency_interval_s": 1.0},
        "services": {"slow": POLICY},
    }
    with (
        control(directory / "first", **sections) as first,
        control(directory / "second", serving=False, **sections) as second,
    ):
        second.process.wait_for("standing by")
        yield first, second


@contextmanager
def attached(directory: Path, model: Path, first: Control, second: Control) -> Iterator[Worker]:
    """A worker that knows both, and that runs with what the first has given it."""
    with worker(
        directory,
        model,
        service={"slo_ms": 5000},
        engine={"max_instances": 1, "max_threads": 1, "batch": 2, "max_batch": 2},
        # The one that stands by comes first: it refuses, and the worker goes on to the other.
        control={"address": f"{second.address}, {first.address}", "report_interval_ms": 50},
    ) as serving:
        eventually(lambda: in_force(first) == MILLICORES and max_batch(serving) == 1)
        yield serving


def in_force(plane: Control) -> int | None:
    """Millicores that the worker has; None while none is attached."""
    status = plane.worker()
    return status and status.in_force.cpu_millicores


def max_batch(serving: Worker) -> float:
    return serving.metrics()["sponge_worker_max_batch"]


def leads(plane: Control) -> float:
    return plane.metrics()["sponge_control_leader"]


def health(plane: Control) -> int:
    with grpc.insecure_channel(plane.address) as channel:
        request = health_pb2.HealthCheckRequest()
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE_S).status


def attaching(plane: Control) -> grpc.StatusCode:
    """How the control plane refuses a worker."""
    report = control_pb2.Report(hello=control_pb2.Hello(worker_id="w"))
    with grpc.insecure_channel(plane.address) as channel:
        stub = control_pb2_grpc.ControlPlaneStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            next(stub.Attach(iter([report]), timeout=PATIENCE_S))
    return refusal.value.code()


def test_the_one_that_stands_by_serves_nothing_and_says_so(tmp_path: Path) -> None:
    with two_planes(tmp_path) as (first, second):
        assert (leads(first), leads(second)) == (1, 0)
        assert health(first) == health_pb2.HealthCheckResponse.SERVING
        assert health(second) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert attaching(second) is grpc.StatusCode.UNAVAILABLE
        # The other looks at what it says, and refuses that.
        assert attaching(first) is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError, match="another control plane leads"):
            second.fleet()
        assert second.process.stop() == 0
        assert leads(first) == 1


def test_a_leader_that_is_killed_is_succeeded_and_no_request_fails(tmp_path: Path, model: Path) -> None:
    with (
        two_planes(tmp_path) as (first, second),
        attached(tmp_path / "worker", model, first, second) as serving,
        Load(serving.address, "slow", INPUTS, clients=1) as load,
    ):
        eventually(lambda: kept_cells(tmp_path / "sponge.db"))
        term = first.fleet().term
        first.process.popen.kill()
        wait_serving(second.address)
        assert leads(second) == 1
        # It comes with what the first gave it.
        eventually(lambda: in_force(second) == MILLICORES)
        assert max_batch(serving) == 1
        assert second.fleet().term > term
        assert second.process.wait_for("latency remembered")["cells"] >= 1
        answered = load.outcomes["OK"]
        eventually(lambda: load.outcomes["OK"] > answered + 20)
        assert load.failures == {}
    assert not {"grow", "shrink"} & {decision["action"] for decision in second.process.events("decision")}
    assert len(second.process.events("standing by")) == 1


def test_a_leader_that_is_told_to_stop_hands_over(tmp_path: Path, model: Path) -> None:
    with (
        two_planes(tmp_path) as (first, second),
        attached(tmp_path / "worker", model, first, second) as serving,
        Load(serving.address, "slow", INPUTS, clients=1) as load,
    ):
        assert first.process.stop() == 0
        wait_serving(second.address)
        eventually(lambda: in_force(second) == MILLICORES and max_batch(serving) == 1)
        # What the first had learned it has written down on its way out.
        second.process.wait_for("latency remembered")
        assert load.failures == {}


def test_what_people_set_is_what_the_successor_goes_by(tmp_path: Path) -> None:
    with two_planes(tmp_path) as (first, second):
        with grpc.insecure_channel(first.address) as channel:
            admin = control_pb2_grpc.AdminStub(channel)
            asked = control_pb2.SetServicePolicyRequest(service="slow", weight=7.0)
            admin.SetServicePolicy(asked, timeout=PATIENCE_S)
            admin.Pause(control_pb2.PauseRequest(), timeout=PATIENCE_S)
        first.process.popen.kill()
        wait_serving(second.address)
        assert second.process.wait_for("policies remembered")["paused"] is True
        with grpc.insecure_channel(second.address) as channel:
            admin = control_pb2_grpc.AdminStub(channel)
            # What is asked for changes nothing: the answer is what counts.
            unchanged = control_pb2.SetServicePolicyRequest(service="slow")
            policy = admin.SetServicePolicy(unchanged, timeout=PATIENCE_S)
            assert (policy.weight, policy.min_millicores) == (7.0, MILLICORES)
            back = control_pb2.SetServicePolicyRequest(service="slow", reset=True)
            assert admin.SetServicePolicy(back, timeout=PATIENCE_S).weight == 1.0


def test_a_leader_that_is_stopped_leads_on(tmp_path: Path, model: Path) -> None:
    with (
        two_planes(tmp_path) as (first, second),
        attached(tmp_path / "worker", model, first, second) as serving,
        Load(serving.address, "slow", INPUTS, clients=1) as load,
    ):
        first.process.popen.send_signal(signal.SIGSTOP)
        try:
            answered = load.outcomes["OK"]
            # Two hundred answers of some milliseconds: the other has tried more than once meanwhile.
            eventually(lambda: load.outcomes["OK"] > answered + 200)
            with (tmp_path / "sponge.db.lock").open() as lock, pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert leads(second) == 0
            assert attaching(second) is grpc.StatusCode.UNAVAILABLE
        finally:
            first.process.popen.send_signal(signal.SIGCONT)
        eventually(lambda: in_force(first) == MILLICORES)
        assert (leads(first), leads(second)) == (1, 0)
        assert load.failures == {}


def test_a_store_that_is_none_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "sponge.db").write_bytes(b"no database " * 1000)
    sections = {
        "server": {"listen": "127.0.0.1:0", "metrics_listen": ""},
        "actuator": {"kind": "threads"},
        "store": {"path": tmp_path / "sponge.db"},
    }
    config = write_toml(tmp_path / "control.toml", sections)
    process = Process.start("controlplane", "--config", config, log=tmp_path / "control.log")
    assert process.wait() == 2
    told = [line for line in process.log.read_text().splitlines() if not line.startswith("{")]
    assert len(told) == 1
    assert told[0].startswith(f"{config}: store.path: expected a file that SQLite can open: ")


def kept_cells(path: Path) -> int:
    """How much of what was learned is in the store."""
    with closing(sqlite3.connect(path)) as file:
        return file.execute("SELECT count(*) FROM latency").fetchone()[0]
