"""Loading and unloading over loopback: real gRPC, real models, requests all the while."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from tests import models, processes, spinning
from tests.control_planes import control_plane
from tests.inference import infer_request, output, rows, stub
from tests.processes import LOOPBACK, eventually, free_port

CODE = grpc.StatusCode
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def serving(directory, model, **sections):
    server = {"allow_repository_control": True, **sections.pop("server", {})}
    return processes.worker(directory, model, server=server, **sections)


@contextmanager
def directed(directory, model):
    """A control plane, and a worker that has attached to it."""
    port = free_port()
    with (
        control_plane(port) as control,
        serving(directory, model, control={"address": f"{LOOPBACK}:{port}"}) as worker,
    ):
        eventually(lambda: control.samples)
        yield control, worker


@contextmanager
def client(worker):
    with grpc.insecure_channel(worker.address) as channel:
        yield stub(channel)


def version(directory, number, factor):
    """A version that multiplies by `factor`."""
    (directory / f"{number}").mkdir(parents=True, exist_ok=True)
    return replaced(directory / f"{number}" / "model.onnx", factor)


def replaced(path, factor):
    """Put another model where one may be, as a whole."""
    os.replace(models.scale(path.with_suffix(".new"), factor=factor), path)
    return path


def load(service, name="scale", **fields):
    return service.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name, **fields))


def unload(service, name="scale", **fields):
    return service.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name, **fields))


def index(service, **fields):
    found = service.RepositoryIndex(pb.RepositoryIndexRequest(**fields)).models
    assert {model.name for model in found} <= {"scale", "spin"}
    return [(model.version, model.state, model.reason) for model in found]


def factor(service, **fields):
    """What the served model multiplies by."""
    request = infer_request("scale", np.ones((1, 4), np.float32))
    for name, value in fields.items():
        setattr(request, name, value)
    return output(service.ModelInfer(request))[0, 0]


def refused(call, *arguments, **fields):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **fields)
    return caught.value.code(), caught.value.details()


class Traffic:
    """Clients that ask one after the other: alone on their calls, or all on one stream each.

    Each answer has to be of one version as a whole, and of the version that it says.
    """

    def __init__(self, address, factors, alone=4, streams=2):
        self._address = address
        self._factors = factors
        self._stop = threading.Event()
        self._clients = [self._alone] * alone + [self._streamed] * streams
        self.versions = Counter()

    def __enter__(self):
        self._pool = ThreadPoolExecutor(len(self._clients))
        self._asking = [self._pool.submit(each, number) for number, each in enumerate(self._clients)]
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._pool.shutdown()
        for asking in self._asking:
            asking.result()

    def _requests(self, number):
        count = 0
        while not self._stop.is_set():
            count += 1
            request = infer_request("scale", rows(1 + count % 3) + number)
            request.id = f"{count}"
            yield request

    def _alone(self, number):
        with grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            for request in self._requests(number):
                self._check(number, stub(channel).ModelInfer(request, timeout=60))

    def _streamed(self, number):
        with grpc.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            for response in stub(channel).ModelStreamInfer(self._requests(number)):
                assert not response.error_message
                self._check(number, response.infer_response)

    def _check(self, number, response):
        asked = rows(1 + int(response.id) % 3) + number
        np.testing.assert_array_equal(output(response), self._factors[response.model_version] * asked)
        self.versions[response.model_version] += 1


class TestLoading:
    def test_a_new_version_takes_over_between_two_requests(self, tmp_path):
        """Nothing fails, and every answer is of the version that it says."""
        model = tmp_path / "scale"
        version(model, 1, factor=2)
        engine = {"instances": 2, "batch": 8}
        with serving(tmp_path, model, engine=engine) as worker, client(worker) as service:
            with Traffic(worker.address, {"1": 2, "2": 3, "10": 5}) as traffic:
                for number, times in ((2, 3), (10, 5)):
                    seen = traffic.versions.total()
                    eventually(lambda seen=seen: traffic.versions.total() > seen + 50)
                    version(model, number, factor=times)
                    load(service)
                    assert factor(service) == times
                    eventually(lambda number=number: traffic.versions[f"{number}"] > 50)
            assert set(traffic.versions) == {"1", "2", "10"}
            assert worker.ended("failed") == worker.ended("refused") == 0
            assert index(service) == [
                ("10", "READY", ""),
                ("2", "UNAVAILABLE", "it is not loaded"),
                ("1", "UNAVAILABLE", "it is not loaded"),
            ]
            assert index(service, ready=True) == [("10", "READY", "")]
            assert service.ModelMetadata(pb.ModelMetadataRequest(name="scale")).versions == ["10"]
            (statistics,) = service.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
            assert statistics.version == "10"
            assert statistics.inference_stats.fail.count == 0
            assert 50 < statistics.inference_stats.success.count < traffic.versions.total()

    def test_what_waits_is_executed_by_the_version_it_was_asked_of(self, tmp_path):
        """And never in one batch with what is asked of the next."""
        path = spinning.save(tmp_path / "spin.onnx")
        with serving(tmp_path, path, engine={"batch": 8}) as worker, client(worker) as service:
            second = spinning.spins_per_second(worker.address)
            busy = service.ModelInfer.future(infer_request("spin", spinning.spins(2 * second)))
            eventually(lambda: worker.metrics()["sponge_worker_executions_running"])
            before = [service.ModelInfer.future(infer_request("spin", spinning.spins(1))) for _ in range(3)]
            eventually(lambda: worker.metrics()["sponge_worker_queue_depth"] == 3)
            # Of the same name and inputs, and quite another model.
            os.replace(models.scale(tmp_path / "new.onnx", factor=7), path)
            load(service, "spin")
            after = [service.ModelInfer.future(infer_request("spin", spinning.spins(1))) for _ in range(3)]
            assert output(busy.result())[0, 0] == pytest.approx(2 * second)
            assert [output(call.result())[0, 0] for call in before] == [1, 1, 1]
            assert [output(call.result())[0, 0] for call in after] == [7, 7, 7]
            for calls in (before, after):
                assert max(call.result().parameters["batch_rows"].int64_param for call in calls) <= 3
            eventually(lambda: worker.process.events("unloaded"))

    def test_a_file_put_in_the_place_of_another(self, tmp_path):
        path = models.scale(tmp_path / "scale.onnx")
        with serving(tmp_path, path) as worker, client(worker) as service:
            replaced(path, factor=3)
            assert factor(service) == 2
            load(service)
            assert factor(service) == 3
            assert index(service) == [("1", "READY", "")]

    def test_what_is_served_already_is_not_loaded_again(self, tmp_path):
        with (
            serving(tmp_path, models.scale(tmp_path / "scale.onnx")) as worker,
            client(worker) as service,
        ):
            load(service)
            load(service)
            assert len(worker.process.events("serving")) == 1

    def test_two_at_once_are_one_after_the_other(self, tmp_path):
        path = models.scale(tmp_path / "scale.onnx")
        with serving(tmp_path, path) as worker, client(worker) as service:
            replaced(path, factor=3)
            request = pb.RepositoryModelLoadRequest(model_name="scale")
            for call in [service.RepositoryModelLoad.future(request) for _ in range(4)]:
                call.result()
            assert factor(service) == 3
            assert len(worker.process.events("serving")) == 2

    def test_a_load_goes_on_when_its_caller_has_gone(self, tmp_path):
        path = models.slow(tmp_path / "scale.onnx", 50)
        with serving(tmp_path, path) as worker, client(worker) as service:
            replaced(path, factor=3)
            call = service.RepositoryModelLoad.future(pb.RepositoryModelLoadRequest(model_name="scale"))
            # One that is cancelled before it was heard of is none.
            eventually(lambda: ("1", "LOADING", "") in index(service) or call.done())
            call.cancel()
            eventually(lambda: len(worker.process.events("serving")) == 2)
            assert factor(service) == 3

    def test_a_server_that_is_stopped_meanwhile_stops(self, tmp_path):
        path = models.scale(tmp_path / "scale.onnx")
        with serving(tmp_path, path) as worker, client(worker) as service:
            os.replace(models.slow(tmp_path / "new.onnx", 3000), path)
            call = service.RepositoryModelLoad.future(pb.RepositoryModelLoadRequest(model_name="scale"))
            eventually(lambda: worker.process.log.read_text().count("loading"))
            assert worker.process.stop() == 0
            assert call.code() in (CODE.UNAVAILABLE, CODE.CANCELLED)
            assert len(worker.process.events("serving")) == 1
            assert not worker.process.events("call failed")

    def test_the_older_version_is_gone_and_the_error_names_the_newer(self, tmp_path):
        model = tmp_path / "scale"
        version(model, 1, factor=2)
        with serving(tmp_path, model) as worker, client(worker) as service:
            assert factor(service, model_version="1") == 2
            version(model, 2, factor=3)
            load(service)
            assert refused(factor, service, model_version="1") == (
                CODE.NOT_FOUND,
                "model_version: expected '2', got '1'",
            )
            assert factor(service, model_version="2") == 3
            assert not service.ModelReady(pb.ModelReadyRequest(name="scale", version="1")).ready
            assert service.ModelReady(pb.ModelReadyRequest(name="scale", version="2")).ready

    def test_the_highest_version_is_served_and_the_next_lower_when_it_is_taken_away(self, tmp_path):
        model = tmp_path / "scale"
        for number in (2, 9, 10):
            version(model, number, factor=number)
        with serving(tmp_path, model) as worker, client(worker) as service:
            assert factor(service) == 10
            (model / "10" / "model.onnx").unlink()
            assert factor(service) == 10
            load(service)
            assert factor(service) == 9

    def test_inputs_and_batches_may_be_others(self, tmp_path):
        """From batches to none and back."""
        path = models.scale(tmp_path / "scale.onnx")
        with serving(tmp_path, path, engine={"batch": 4}) as worker, client(worker) as service:
            for batch, batched in ((1, False), ("N", True)):
                os.replace(models.scale(tmp_path / "new", batch=batch, factor=3), path)
                load(service)
                config = service.ModelConfig(pb.ModelConfigRequest(name="scale")).config
                assert config.max_batch_size == (8 if batched else 0)
                assert worker.metrics()["sponge_worker_max_batch"] == (4 if batched else 1)
                for _ in range(3):
                    assert factor(service) == 3


class TestBroken:
    @pytest.mark.parametrize("content", [b"", b"no model at all"])
    def test_a_broken_version_is_refused_and_the_old_one_serves_on(self, tmp_path, content):
        model = tmp_path / "scale"
        version(model, 1, factor=2)
        with serving(tmp_path, model) as worker, client(worker) as service:
            (model / "2").mkdir()
            (model / "2" / "model.onnx").write_bytes(content)
            assert refused(load, service) == (
                CODE.FAILED_PRECONDITION,
                "version 2 is not loaded: it is not a model that ONNX Runtime can load; version 1 is served on",
            )
            assert factor(service) == 2
            assert index(service) == [
                ("2", "UNAVAILABLE", "it is not a model that ONNX Runtime can load"),
                ("1", "READY", ""),
            ]
            (logged,) = worker.process.events("model not loaded")
            assert str(model / "2" / "model.onnx") in logged["error"]
            version(model, 2, factor=3)
            load(service)
            assert factor(service) == 3

    def test_a_file_broken_in_place_is_refused_and_what_was_in_it_serves_on(self, tmp_path):
        """Also on other numbers of threads: what is served does not depend on the file."""
        path = models.scale(tmp_path / "scale.onnx")
        with directed(tmp_path, path) as (control, worker), client(worker) as service:
            path.write_bytes(b"no model at all")
            assert refused(load, service)[0] is CODE.FAILED_PRECONDITION
            control.direct(1, cpu_millicores=2000, instances=1, threads=2, max_batch=4)
            eventually(lambda: worker.metrics()["sponge_worker_threads"] == 2)
            assert factor(service) == 2

    def test_a_file_that_is_gone(self, tmp_path):
        path = models.scale(tmp_path / "scale.onnx")
        with serving(tmp_path, path) as worker, client(worker) as service:
            path.unlink()
            assert refused(load, service) == (
                CODE.FAILED_PRECONDITION,
                "version 1 is not loaded: its file cannot be read; version 1 is served on",
            )
            assert factor(service) == 2

    def test_a_directory_without_versions(self, tmp_path):
        model = tmp_path / "scale"
        version(model, 1, factor=2).unlink()
        config = processes.write_toml(
            tmp_path / "worker.toml", {"model": {"path": model}, "service": {"slo_ms": 100}}
        )
        ran = subprocess.run(
            [sys.executable, "-m", "dataplane", "--config", config], capture_output=True, timeout=60
        )
        assert ran.returncode == 2
        assert ran.stderr.decode().endswith(
            "expected a version of the model, <number>/model.onnx, found none\n"
        )

    def test_a_model_that_does_not_run(self, tmp_path):
        path = models.scale(tmp_path / "scale.onnx")
        with serving(tmp_path, path) as worker, client(worker) as service:
            models.reshaped(path, shape=[0, 2, -1], declared=["N", 2, "U"])
            code, text = refused(load, service)
            assert code is CODE.FAILED_PRECONDITION
            assert text == "version 1 is not loaded: it does not run on zeros; version 1 is served on"
            assert factor(service) == 2


class TestPermission:
    def test_off_by_default_and_the_setting_is_named(self, tmp_path):
        with (
            processes.worker(tmp_path, models.scale(tmp_path / "scale.onnx")) as worker,
            client(worker) as service,
        ):
            for call in (load, unload):
                code, text = refused(call, service)
                assert code is CODE.PERMISSION_DENIED
                assert "server.allow_repository_control" in text
            assert factor(service) == 2

    def test_what_cannot_be_done_is_named(self, tmp_path):
        with (
            serving(tmp_path, models.scale(tmp_path / "scale.onnx")) as worker,
            client(worker) as service,
        ):
            text = {"string_param": "{}"}
            for call in (load, unload):
                assert refused(call, service, "other")[0] is CODE.NOT_FOUND
                assert "repository_name" in refused(call, service, repository_name="r")[1]
                code, details = refused(call, service, parameters={"config": text})
                assert code is CODE.INVALID_ARGUMENT
                assert details.startswith("parameters.config: expected none")
            assert factor(service) == 2


class TestUnloading:
    def test_nothing_is_taken_until_it_is_loaded_again(self, tmp_path):
        with (
            serving(tmp_path, models.scale(tmp_path / "scale.onnx")) as worker,
            client(worker) as service,
            grpc.insecure_channel(worker.address) as channel,
        ):

            def health(name):
                request = health_pb2.HealthCheckRequest(service=name)
                return health_pb2_grpc.HealthStub(channel).Check(request).status

            for _ in range(2):
                unload(service)
            gone = (CODE.UNAVAILABLE, "the model is unloaded")
            assert refused(factor, service) == gone
            assert refused(service.ModelMetadata, pb.ModelMetadataRequest(name="scale")) == gone
            assert not service.ServerReady(pb.ServerReadyRequest()).ready
            assert not service.ModelReady(pb.ModelReadyRequest(name="scale")).ready
            assert service.ServerLive(pb.ServerLiveRequest()).live
            assert {health(name) for name in ("", "scale")} == {NOT_SERVING}
            assert index(service) == [("1", "UNAVAILABLE", "the model is unloaded")]
            assert not index(service, ready=True)
            assert not service.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
            (error,) = service.ModelStreamInfer(iter([infer_request("scale", rows(1))]))
            assert error.error_message == "the model is unloaded"
            load(service)
            assert factor(service) == 2
            assert service.ServerReady(pb.ServerReadyRequest()).ready
            assert {health(name) for name in ("", "scale")} == {SERVING}
            assert index(service) == [("1", "READY", "")]

    def test_what_waits_is_answered_first(self, tmp_path):
        with (
            serving(tmp_path, spinning.save(tmp_path / "spin.onnx")) as worker,
            client(worker) as service,
        ):
            second = spinning.spins_per_second(worker.address)
            waiting = [
                service.ModelInfer.future(infer_request("spin", spinning.spins(second))) for _ in range(2)
            ]
            eventually(lambda: worker.metrics()["sponge_worker_queue_depth"])
            unloading = service.RepositoryModelUnload.future(
                pb.RepositoryModelUnloadRequest(model_name="spin")
            )
            eventually(lambda: index(service)[0][1] == "UNLOADING")
            assert refused(service.ModelInfer, infer_request("spin", spinning.spins(1)))
            assert not unloading.done()
            for call in waiting:
                assert output(call.result())[0, 0] == pytest.approx(second)
            unloading.result()
            assert index(service)[0][1] == "UNAVAILABLE"

    def test_memory_comes_back(self, tmp_path):
        """Of 64 MiB of weights most of which is all that the machine has to give back."""
        path = models.heavy(tmp_path / "scale.onnx", mebibytes=64)
        with serving(tmp_path, path) as worker, client(worker) as service:
            loaded = worker.metrics()["sponge_worker_memory_bytes"]
            unload(service)
            eventually(
                lambda: worker.metrics()["sponge_worker_memory_bytes"], lambda now: now < loaded - (48 << 20)
            )

    def test_a_broken_file_leaves_it_unloaded(self, tmp_path):
        path = models.scale(tmp_path / "scale.onnx")
        with serving(tmp_path, path) as worker, client(worker) as service:
            unload(service)
            path.write_bytes(b"no model at all")
            code, text = refused(load, service)
            assert code is CODE.FAILED_PRECONDITION
            assert text.endswith("; none is served")
            assert refused(factor, service) == (CODE.UNAVAILABLE, "the model is unloaded")
            replaced(path, factor=3)
            load(service)
            assert factor(service) == 3


def test_tritonclient_loads_and_unloads(tmp_path):
    model = tmp_path / "scale"
    version(model, 1, factor=2)
    with serving(tmp_path, model) as worker, client(worker) as service:
        version(model, 2, factor=3)
        script = Path(__file__).with_name("triton_repository.py")
        ran = subprocess.run(
            [sys.executable, script, worker.address, "scale"], check=True, capture_output=True, timeout=60
        )
        assert json.loads(ran.stdout) == {
            "before": [["2", "UNAVAILABLE"], ["1", "READY"]],
            "loaded": [["2", "READY"], ["1", "UNAVAILABLE"]],
            "unloaded": [["2", "UNAVAILABLE"], ["1", "UNAVAILABLE"]],
            "ready": [True, False],
        }
        load(service)
        assert factor(service) == 3


def test_the_control_plane_learns_of_another_model_as_of_another_worker(tmp_path):
    """Whose executions are its own alone, with the times that it was warmed up with first."""
    path = models.scale(tmp_path / "scale.onnx")
    with directed(tmp_path, path) as (control, worker), client(worker) as service:
        control.direct(1, max_batch=4)
        eventually(lambda: control.acknowledged() == 1)
        replaced(path, factor=3)
        load(service)
        eventually(lambda: len(control.hellos) == 2)
        first, then = control.hellos
        assert first.worker_id == then.worker_id
        assert first.model_digest != then.model_digest
        assert (then.applied.term, then.applied.epoch, then.starting) == (1, 1, False)
        control.direct(2, max_batch=4)
        eventually(lambda: control.acknowledged() == 2)
