"""Both planes over loopback, as processes: what is learned, what follows, and what survives."""

import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from core.cgroup import Cgroup, usable_parent
from protos import inference_pb2 as pb
from tests import models
from tests.inference import stub
from tests.planes import Load, control
from tests.processes import LOOPBACK, eventually, free_port, worker, write_toml

INPUTS = {"x": np.ones((1, 256), np.float32)}


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory) -> Path:
    """A model of some milliseconds, so that a handful of clients is a load."""
    return models.slow(tmp_path_factory.mktemp("model") / "slow.onnx", 2000)


def start_worker(directory: Path, model: Path, control_address: str, group: Cgroup | None = None):
    return worker(
        directory,
        model,
        group=group,
        service={"slo_ms": 2000},
        engine={"max_instances": 2, "max_threads": 1, "max_batch": 1},
        control={"address": control_address, "report_interval_ms": 50},
    )


def test_instances_follow_the_load_up_and_down_without_privileges(tmp_path, slow_model):
    """The threads-only actuator: nothing enforces a quota, and workers still follow."""
    sections = {
        "host": {"millicores": 4000},
        "planner": {"interval_s": 0.2},
        "governor": {"shrink_hold_s": 1.0},
    }
    with (
        control(tmp_path / "control", **sections) as plane,
        start_worker(tmp_path / "worker", slow_model, plane.address) as serving,
    ):
        eventually(lambda: plane.worker() is not None and plane.worker().state == "serving")
        with Load(serving.address, "slow", INPUTS, clients=6) as load:
            grown = eventually(plane.worker, lambda w: w.in_force.instances == 2)
        assert grown.in_force.cpu_millicores > 1100
        assert load.failures == {}
        eventually(plane.worker, lambda w: w.in_force.instances == 1 and w.in_force.cpu_millicores < 1100)
        decisions = plane.process.events("decision")
        assert [d["action"] for d in decisions if d["action"] in ("grow", "shrink")][-1] == "shrink"
        metrics = plane.metrics()
        assert metrics['sponge_control_decisions_total{action="grow",service="slow"}'] >= 1
        assert metrics["sponge_control_workers"] == 1


def test_workers_serve_on_while_control_planes_come_and_go(tmp_path, slow_model):
    address = f"{LOOPBACK}:{free_port()}"
    # There is none at first.
    with start_worker(tmp_path / "worker", slow_model, address) as serving:
        with Load(serving.address, "slow", INPUTS, clients=2) as load:
            terms = []
            for life in range(3):
                sections = {"host": {"millicores": 4000}, "planner": {"interval_s": 0.2}}
                with control(tmp_path / f"control-{life}", listen=address, **sections) as plane:
                    attached = eventually(plane.worker, lambda w: w is not None and w.arrival_rate > 0)
                    if life == 0:
                        # What it came with is no configuration of ours: it is told another.
                        eventually(
                            plane.worker, lambda w: 0 < w.target.cpu_millicores == w.in_force.cpu_millicores
                        )
                    terms.append(plane.fleet().term)
                    plane.process.popen.send_signal(signal.SIGKILL if life == 1 else signal.SIGTERM)
                    plane.process.wait()
                assert attached.worker_id
            answered = load.outcomes["OK"]
            eventually(lambda: load.outcomes["OK"] > answered + 20)
        assert load.failures == {}
    # Each puts its directives above those that the worker has obeyed, whatever became of who sent them.
    assert terms[0] == 1
    assert terms == sorted(terms)
    assert terms[1] > 1


def test_a_successor_of_a_killed_worker_is_planned_like_its_predecessor(tmp_path, slow_model):
    with control(tmp_path / "control", host={"millicores": 4000}, planner={"interval_s": 0.2}) as plane:
        with start_worker(tmp_path / "first", slow_model, plane.address) as first:
            before = eventually(plane.worker, lambda w: w is not None and w.state == "serving")
            first.process.popen.kill()
            eventually(plane.worker, lambda w: w is None)
        with (
            start_worker(tmp_path / "second", slow_model, plane.address) as second,
            Load(second.address, "slow", INPUTS, clients=4) as load,
        ):
            after = eventually(plane.worker, lambda w: w is not None and w.target.cpu_millicores > 0)
            eventually(lambda: load.outcomes["OK"] > 20)
        assert load.failures == {}
        assert after.worker_id != before.worker_id


def test_a_worker_whose_model_is_replaced_is_planned_for_the_new_one(tmp_path):
    """It attaches as another model's, and follows; no request fails."""
    served, slower = tmp_path / "slow.onnx", tmp_path / "slower.onnx"
    models.slow(served, 20)
    models.slow(slower, 2000)
    sections = {"host": {"millicores": 4000}, "planner": {"interval_s": 0.2}}
    with (
        control(tmp_path / "control", **sections) as plane,
        worker(
            tmp_path / "worker",
            served,
            service={"slo_ms": 2000},
            server={"allow_repository_control": True},
            engine={"max_instances": 2, "max_threads": 1, "max_batch": 1},
            control={"address": plane.address, "report_interval_ms": 50},
        ) as serving,
    ):
        before = eventually(plane.worker, lambda w: w is not None and w.state == "serving")
        with Load(serving.address, "slow", INPUTS, clients=6) as load:
            eventually(lambda: load.outcomes["OK"] > 100)
            served.write_bytes(slower.read_bytes())
            with grpc.insecure_channel(serving.address) as channel:
                stub(channel).RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="slow"))
            eventually(lambda: len(plane.process.events("worker attached")) == 2)
            after = eventually(
                plane.worker,
                lambda w: w is not None and 0 < w.target.cpu_millicores == w.in_force.cpu_millicores,
            )
            answered = load.outcomes["OK"]
            eventually(lambda: load.outcomes["OK"] > answered + 20)
        assert load.failures == {}
        assert after.worker_id == before.worker_id


@pytest.mark.skipif(usable_parent() is None, reason="no control group may be made here")
def test_the_quota_of_a_local_process_follows_its_load_in_the_kernel(tmp_path, slow_model):
    root = Cgroup.create(f"sponge-test-{free_port()}", usable_parent())
    group = Cgroup.create("worker", root)
    group.set_quota(1000, 20_000)
    try:
        sections = {
            "host": {"millicores": 4000},
            "planner": {"interval_s": 0.2},
            "governor": {"shrink_hold_s": 1.0},
            "actuator": {"kind": "local", "cgroup_root": str(root.cpu)},
        }
        with (
            control(tmp_path / "control", **sections) as plane,
            start_worker(tmp_path / "worker", slow_model, plane.address, group) as serving,
        ):
            eventually(plane.worker, lambda w: w is not None and w.state == "serving")
            with Load(serving.address, "slow", INPUTS, clients=6) as load:
                eventually(group.quota_millicores, lambda quota: quota > 1100)
            assert load.failures == {}
            eventually(group.quota_millicores, lambda quota: quota < 1000)
            plane.process.stop()
            # An orderly stop puts back what it found.
            assert group.quota_millicores() == 1000
    finally:
        group.remove()
        root.remove()


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"planner": {"interval_s": 0}}, "planner.interval_s"),
        ({"actuator": {"kind": "magic"}}, "actuator.kind"),
        ({"governor": {"hold_s": 1}}, "hold_s"),
        ({"services": {"a": {"min_millicores": 900, "max_millicores": 600}}}, "services.a.min_millicores"),
        ({"store": {"path": "/absent/sponge.db"}}, "store.path"),
        ({"store": {"latency_interval_s": 0.5}}, "store.latency_interval_s"),
        ({"leader": {"lock": "/absent/lock"}}, "leader.lock"),
        ({"server": {"listen": "nowhere:1"}}, "server.listen"),
        ({"log_level": "loud"}, "log_level"),
    ],
)
def test_a_bad_configuration_is_one_line_and_exit_code_2(tmp_path, sections, complaint):
    path = write_toml(tmp_path / "control.toml", {"actuator": {"kind": "threads"}, **sections})
    done = subprocess.run(
        [sys.executable, "-m", "controlplane", "--config", path], capture_output=True, text=True, timeout=60
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"{path}: ")
    assert complaint in lines[0]
