"""What goes wrong around one worker: its files, its ports, and a control plane that comes, goes and errs."""

import math
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from tests import models, processes, spinning
from tests.control_planes import control_plane
from tests.inference import infer_request, output, rows, stub
from tests.processes import LOOPBACK, eventually, free_port


class TestStart:
    def run(self, config):
        """Exit code and lines on standard error of a worker that must not start."""
        command = [sys.executable, "-m", "dataplane", "--config", config]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return ran.returncode, ran.stderr.splitlines()

    def config(self, directory, **sections):
        listen = {"listen": f"{LOOPBACK}:0", "metrics_listen": f"{LOOPBACK}:0"}
        sections["server"] = {**listen, **sections.get("server", {})}
        model = models.scale(directory / "scale.onnx")
        sections = {"model": {"path": model}, "service": {"slo_ms": 100}, **sections}
        return processes.write_toml(directory / "worker.toml", sections)

    @pytest.mark.parametrize(
        ("sections", "expected"),
        [
            ({"service": {"slo_ms": -1}}, "service.slo_ms: Expected"),
            ({"service": {"slo": 100}}, "service: "),
            ({"engine": {"instances": 9}}, "engine.instances: expected at most engine.max_instances = 8"),
            ({"server": {"listen": "nonsense"}}, "server.listen: expected host:port, free to listen on"),
            ({"server": {"metrics_listen": "8002"}}, "server.metrics_listen: expected host:port"),
            ({"server": {"token_file": "absent"}}, "server.token_file: expected a file, "),
            (
                {"server": {"tls": {"certificate": "tls.crt"}}},
                "server.tls: Object missing required field `key`",
            ),
            (
                {"server": {"tls": {"certificate": "absent", "key": "absent"}}},
                "server.tls.certificate: expected a file, ",
            ),
            ({"log_level": "loud"}, "log_level: "),
        ],
    )
    def test_a_bad_setting_is_one_line(self, tmp_path, sections, expected):
        config = self.config(tmp_path, **sections)
        code, lines = self.run(config)
        assert code == 2
        assert len(lines) == 1, lines
        assert lines[0].startswith(f"{config}: {expected}")

    def test_no_such_file(self, tmp_path):
        code, lines = self.run(tmp_path / "absent.toml")
        assert (code, len(lines)) == (2, 1)

    @pytest.mark.parametrize("content", [None, b"", b"not a model"])
    def test_a_model_that_is_missing_or_broken(self, tmp_path, content):
        path = tmp_path / "broken.onnx"
        if content is not None:
            path.write_bytes(content)
        code, lines = self.run(self.config(tmp_path, model={"path": path}))
        assert (code, len(lines)) == (2, 1), lines
        assert str(path) in lines[0]

    @pytest.mark.parametrize("key", ["listen", "metrics_listen"])
    def test_a_port_in_use(self, tmp_path, key):
        with socket.socket() as taken:
            taken.bind((LOOPBACK, 0))
            taken.listen()
            address = f"{LOOPBACK}:{taken.getsockname()[1]}"
            code, lines = self.run(self.config(tmp_path, server={key: address}))
        assert (code, len(lines)) == (2, 1), lines
        assert f"server.{key}: expected host:port, free to listen on, got '{address}'" in lines[0]


def test_a_control_plane_that_nobody_has_started(tmp_path):
    """Served as without one, and said once."""
    control = {"address": f"{LOOPBACK}:{free_port()}", "report_interval_ms": 20}
    with processes.worker(tmp_path, models.scale(tmp_path / "scale.onnx"), control=control) as worker:
        worker.process.wait_for("control plane out of reach")
        with grpc.insecure_channel(worker.address) as channel:
            for _ in range(200):
                assert output(stub(channel).ModelInfer(infer_request("scale", rows(1)))).size == 4
    assert len(worker.process.events("control plane out of reach")) == 1
    assert worker.process.popen.returncode == 0


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def worker(tmp_path_factory, port):
    """A worker that outlives every control plane of this module."""
    directory = tmp_path_factory.mktemp("worker")
    engine = {"max_instances": 3, "max_threads": 2, "max_batch": 4}
    control = {"address": f"{LOOPBACK}:{port}", "report_interval_ms": 50}
    with processes.worker(
        directory, spinning.save(directory / "spin.onnx"), engine=engine, control=control
    ) as worker:
        yield worker


@pytest.fixture(scope="module")
def second(worker):
    return spinning.spins_per_second(worker.address)


@pytest.fixture
def control(worker, port):  # noqa: ARG001 - it is the worker that attaches
    with control_plane(port) as servicer:
        eventually(lambda: servicer.samples)
        yield servicer


@pytest.fixture
def service(worker):
    with grpc.insecure_channel(worker.address) as channel:
        yield stub(channel)


@contextmanager
def traffic(service, cost):
    """Requests one after the other on two threads until the block ends; each must be answered."""
    over = threading.Event()
    answers = []

    def ask():
        while not over.is_set():
            answers.append(output(service.ModelInfer(infer_request("spin", spinning.spins(cost)))))

    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(ask) for _ in range(2)]
        try:
            yield answers
        finally:
            over.set()
        for asked in asking:
            asked.result()
    np.testing.assert_array_equal(np.concatenate(answers)[:, 0], np.full(len(answers), cost, np.float32))


def newest(worker):
    """The epoch in force, whatever earlier tests have left."""
    return max((event["version"][1] for event in worker.process.events("allocation applied")), default=0)


def shape(worker):
    metrics = worker.metrics()
    return tuple(int(metrics[f"sponge_worker_{key}"]) for key in ("instances", "threads", "max_batch"))


def test_hello_says_who_and_samples_what(worker, control, service):
    hello = control.hellos[-1]
    assert (hello.service, hello.model_name, len(hello.model_digest)) == ("spin", "spin", 64)
    assert (hello.max_instances, hello.max_threads, hello.max_batch, hello.slo_ms) == (3, 2, 4, 10_000)
    assert hello.pid == worker.process.popen.pid
    assert not hello.starting
    before, headers = control.total(lambda s: s.arrivals), control.total(lambda s: s.headers)
    for _ in range(5):
        service.ModelInfer(infer_request("spin", spinning.spins(1)))
    eventually(lambda: control.total(lambda s: s.arrivals), lambda n: n == before + 5)
    assert control.total(lambda s: s.headers) == headers + 5
    eventually(lambda: control.total(lambda s: len(s.executions)), lambda n: n >= 5)
    assert control.total(lambda s: sum(s.budget_at_arrival.count)) == control.total(lambda s: s.arrivals)


def test_shapes_follow_while_requests_are_in_flight(worker, control, service, second):
    base = newest(worker)
    with traffic(service, second / 50) as answers:
        for step, (instances, threads, batch) in enumerate([(2, 1, 4), (1, 2, 1), (3, 1, 2), (1, 1, 1)], 1):
            count = len(answers)
            control.direct(
                base + step, instances=instances, threads=threads, max_batch=batch, mean_ms=(20, 30, 40, 50)
            )
            eventually(control.acknowledged, lambda epoch, expected=base + step: epoch == expected)
            assert shape(worker) == (instances, threads, batch)
            eventually(lambda count=count: len(answers) > count + 2)
        allocation = control.samples[-1].allocation
        assert (allocation.instances, allocation.threads, allocation.max_batch) == (1, 1, 1)


def test_acknowledged_only_when_nothing_older_runs(worker, control, service, second):
    base = newest(worker)
    call = service.ModelInfer.future(infer_request("spin", spinning.spins(second / 2)))
    eventually(lambda: worker.metrics()["sponge_worker_executions_running"])
    control.direct(base + 1, instances=2)
    eventually(lambda: control.samples[-1].applied.epoch == base + 1)
    during = [
        s for s in list(control.samples) if s.applied.epoch == base + 1 and s.acknowledged.epoch == base
    ]
    assert during
    call.result()
    eventually(control.acknowledged, lambda epoch: epoch == base + 1)


def test_stale_and_impossible_directives_are_ignored(worker, control):
    base = newest(worker)
    control.direct(base + 5, instances=2)
    eventually(control.acknowledged, lambda epoch: epoch == base + 5)
    before = len(worker.process.events("directive ignored"))
    control.direct(base + 4, instances=3)
    for number, bad in enumerate(
        [
            {"instances": 4},
            {"threads": 3},
            {"max_batch": 0},
            {"mean_ms": (0,)},
            {"mean_ms": (1,), "high_ms": math.inf},
            {"mean_ms": (1,), "low_ms": math.nan},
            {"pace": True, "cpu_millicores": 0},
        ]
    ):
        control.direct(base + 6 + number, **bad)
        eventually(
            lambda: len(worker.process.events("directive ignored")), lambda n, k=number: n == before + k + 1
        )
    assert shape(worker) == (2, 1, 1)
    control.direct(base + 6)
    eventually(control.acknowledged, lambda epoch: epoch == base + 6)
    assert shape(worker) == (1, 1, 1)


def test_it_stops_and_starts_again_and_no_request_fails(worker, service, port, second):
    with traffic(service, second / 100) as answers:
        with control_plane(port) as first:
            eventually(lambda: first.samples)
            base = newest(worker)
            first.direct(base + 1, instances=2)
            eventually(first.acknowledged, lambda epoch: epoch == base + 1)
        count = len(answers)
        eventually(lambda: len(answers) > count + 5)
        with control_plane(port) as then:
            eventually(lambda: then.samples)
            hello = then.hellos[0]
            assert (hello.applied.term, hello.applied.epoch) == (1, base + 1)
            assert hello.allocation.instances == 2
            assert hello.worker_id == first.hellos[0].worker_id


def test_what_happened_without_a_control_plane_is_not_told_as_of_now(service, port):
    with control_plane(port) as first:
        eventually(lambda: first.samples)
    for _ in range(10):
        service.ModelInfer(infer_request("spin", spinning.spins(1)))
    with control_plane(port) as then:
        eventually(lambda: then.samples)
        assert then.total(lambda s: s.arrivals) == 0
        service.ModelInfer(infer_request("spin", spinning.spins(1)))
        eventually(lambda: then.total(lambda s: s.arrivals), lambda n: n == 1)


def test_a_pace_holds_the_mean(worker, control, service, second):
    base = newest(worker)
    control.direct(base + 1, pace=True, cpu_millicores=250)
    eventually(control.acknowledged, lambda epoch: epoch == base + 1)
    start = len(control.samples)
    with traffic(service, second / 50):
        eventually(lambda: sum(s.window_s for s in control.samples[start:]), lambda window: window > 3.0)
        samples = control.samples[start:]
    used = sum(s.usage.cpu_s for s in samples) / sum(s.window_s for s in samples)
    # A quarter of a core, what is left over of a second at the start, and the event loop's own work.
    assert used < 0.6
    control.direct(base + 2)
    eventually(control.acknowledged, lambda epoch: epoch == base + 2)


def test_distress_is_told_out_of_turn(tmp_path):
    """By a worker that otherwise reports once an hour."""
    port = free_port()
    with control_plane(port) as control:
        model = spinning.save(tmp_path / "spin.onnx")
        section = {"address": f"{LOOPBACK}:{port}", "report_interval_ms": 3_600_000}
        with processes.worker(tmp_path, model, control=section) as worker:
            second = spinning.spins_per_second(worker.address)
            with grpc.insecure_channel(worker.address) as channel:
                service = stub(channel)
                long = service.ModelInfer.future(infer_request("spin", spinning.spins(2 * second)))
                eventually(lambda: worker.metrics()["sponge_worker_executions_running"])
                hopeless = infer_request("spin", spinning.spins(1), slo_ms=8)

                def told():
                    # On a busy machine one may be past its deadline when it is queued, which is no distress.
                    with pytest.raises(grpc.RpcError):
                        service.ModelInfer(hopeless)
                    return any(sample.distress for sample in list(control.samples))

                eventually(told)
                long.result()
