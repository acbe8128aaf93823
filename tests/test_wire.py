"""One worker over loopback: real gRPC, a real model, clients as they come."""

import threading
import time

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos import inference_pb2 as pb
from tests import models, processes, spinning
from tests.inference import ask_triton, infer_request, output, rows, stub
from tests.processes import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def scale(tmp_path_factory):
    """A worker that doubles, with a small limit on messages."""
    directory = tmp_path_factory.mktemp("scale")
    with processes.worker(
        directory, models.scale(directory / "scale.onnx"), server={"max_message_mib": 1}
    ) as worker:
        yield worker


@pytest.fixture(scope="module")
def service(scale):
    with grpc.insecure_channel(scale.address) as channel:
        yield stub(channel)


@pytest.fixture(scope="module")
def spin(tmp_path_factory):
    """A worker of one slot that can be kept busy, and whose clients are believed."""
    directory = tmp_path_factory.mktemp("spin")
    with processes.worker(directory, spinning.save(directory / "spin.onnx")) as worker:
        yield worker


@pytest.fixture(scope="module")
def second(spin):
    """Spins that take about a second."""
    return spinning.spins_per_second(spin.address)


@pytest.fixture
def spinner(spin):
    with grpc.insecure_channel(spin.address) as channel:
        yield stub(channel)


@pytest.fixture
def busy(spin, spinner, second):
    """The worker's only slot is busy for a second; the call that keeps it so."""
    call = spinner.ModelInfer.future(infer_request("spin", spinning.spins(second)))
    eventually(lambda: spin.metrics()["sponge_worker_executions_running"])
    yield call
    assert call.result().model_name == "spin"


def refused(call, *arguments, **options):
    """The error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    return caught.value


class TestProtocol:
    def test_infers_raw(self, service):
        request = infer_request("scale", rows(3))
        request.id = "an id"
        response = service.ModelInfer(request)
        np.testing.assert_array_equal(output(response), 2 * rows(3))
        assert (response.id, response.model_name, response.model_version) == ("an id", "scale", "1")

    def test_infers_typed_and_answers_alike(self, service):
        request = pb.ModelInferRequest(
            model_name="scale",
            inputs=[
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, 4],
                    "contents": {"fp32_contents": [1, 2, 3, 4]},
                }
            ],
        )
        response = service.ModelInfer(request)
        assert response.outputs[0].contents.fp32_contents == [2, 4, 6, 8]
        assert not response.raw_output_contents

    def test_says_that_it_lives_and_is_ready(self, service):
        assert service.ServerLive(pb.ServerLiveRequest()).live
        assert service.ServerReady(pb.ServerReadyRequest()).ready
        assert service.ModelReady(pb.ModelReadyRequest(name="scale")).ready
        assert service.ModelReady(pb.ModelReadyRequest(name="scale", version="1")).ready
        assert not service.ModelReady(pb.ModelReadyRequest(name="scale", version="2")).ready
        assert not service.ModelReady(pb.ModelReadyRequest(name="other")).ready

    def test_describes_itself(self, service):
        assert service.ServerMetadata(pb.ServerMetadataRequest()).name == "sponge"
        metadata = service.ModelMetadata(pb.ModelMetadataRequest(name="scale"))
        assert (metadata.name, metadata.versions) == ("scale", ["1"])
        assert [(t.name, t.datatype, t.shape) for t in metadata.inputs] == [("x", "FP32", [-1, 4])]
        assert [(t.name, t.datatype, t.shape) for t in metadata.outputs] == [("y", "FP32", [-1, 4])]

    def test_tritonclient(self, scale, service):
        (before,) = service.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
        succeeded, inferred = before.inference_stats.success.count, before.inference_count
        assert ask_triton(scale.address, "scale") == {
            "live": True,
            "ready": True,
            "model_ready": True,
            "other_ready": False,
            "server": "sponge",
            "inputs": [["x", "FP32", [-1, 4]]],
            "outputs": [["y", "FP32", [-1, 4]]],
            "id": "seven",
            "spent": ["batch_rows", "queue_us", "remaining_us", "service_us", "upload_us"],
            "batch_rows": 2,
            "y": (2 * rows(2)).tolist(),
            "streamed": {
                "good": [True, (2 * rows(2)).tolist()],
                "bad": ["model_name: expected 'scale', got 'another'"],
            },
            "succeeded": succeeded + 2,
            "rows": inferred + 4,
            "max_batch_size": 8,
            "dims": [[4], [4]],
            "index": [["scale", "1", "READY"]],
        }

    def test_counts_requests_rows_and_batches(self, service):
        def told():
            (found,) = service.ModelStatistics(pb.ModelStatisticsRequest(name="scale")).model_stats
            return found

        before, began_ms = told(), 1000 * time.time()
        service.ModelInfer(infer_request("scale", rows(3)))
        refused(service.ModelInfer, _bad(datatype="FP64"))
        after = told()
        assert (after.name, after.version) == ("scale", "1")
        assert after.inference_count == before.inference_count + 3
        assert after.execution_count == before.execution_count + 1
        assert began_ms - 1 <= after.last_inference <= 1000 * time.time() + 1
        stats = after.inference_stats
        assert stats.success.count == before.inference_stats.success.count + 1
        assert stats.fail.count == before.inference_stats.fail.count + 1
        for part in (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output):
            assert part.count == stats.success.count
            assert 0 < part.ns < stats.success.ns
        batches = {batch.batch_size: batch.compute_infer for batch in after.batch_stats}
        assert batches[3].count >= 1
        assert sum(batch.count for batch in batches.values()) == after.execution_count

    def test_configuration_in_tritons_terms(self, service):
        config = service.ModelConfig(pb.ModelConfigRequest(name="scale")).config
        assert (config.name, config.platform, config.max_batch_size) == ("scale", "onnxruntime_onnx", 8)
        assert [(t.name, t.data_type, t.dims) for t in config.input] == [("x", pb.TYPE_FP32, [4])]
        assert [(t.name, t.data_type, t.dims) for t in config.output] == [("y", pb.TYPE_FP32, [4])]
        assert config.WhichOneof("scheduling_choice") == "dynamic_batching"

    def test_what_the_repository_has(self, service):
        for ready in (False, True):
            (model,) = service.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready)).models
            assert (model.name, model.version, model.state, model.reason) == ("scale", "1", "READY", "")

    def test_a_client_that_knows_nothing_but_reflection(self, scale):
        with grpc.insecure_channel(scale.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            names = set(database.get_services())
            assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
            pool = DescriptorPool(database)
            service = pool.FindServiceByName("inference.GRPCInferenceService")
            method = service.methods_by_name["ModelMetadata"]
            request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelMetadata",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            assert call(request(name="scale")).platform == "onnxruntime_onnx"


def _bad(**changes):
    """A good request with some of its parts replaced."""
    request = infer_request("scale", rows(2))
    for name in ("datatype", "name"):
        if name in changes:
            setattr(request.inputs[0], name, changes[name])
    if "shape" in changes:
        request.inputs[0].shape[:] = changes["shape"]
    if "raw" in changes:
        del request.raw_input_contents[:]
        request.raw_input_contents.extend(changes["raw"])
    if "typed" in changes:
        request.inputs[0].contents.fp32_contents.extend(changes["typed"])
    if "model" in changes:
        request.model_name = changes["model"]
    if "version" in changes:
        request.model_version = changes["version"]
    if "parameter" in changes:
        request.parameters[changes["parameter"]].string_param = "soon"
    if "wanted" in changes:
        request.outputs.add(name=changes["wanted"])
    return request


NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "code", "text"),
        [
            ({"model": "other"}, NOT_FOUND, "model_name: expected 'scale', got 'other'"),
            ({"version": "2"}, NOT_FOUND, "model_version: expected '1', got '2'"),
            ({"name": "z"}, INVALID, "inputs: expected x; found 'z'"),
            ({"datatype": "FP64"}, INVALID, "inputs[x].datatype: expected FP32, found 'FP64'"),
            ({"shape": [2, 5]}, INVALID, "inputs[x].shape: expected [>=1, 4], found [2, 5]"),
            ({"shape": [0, 4], "raw": [b""]}, INVALID, "inputs[x].shape: expected [>=1, 4], found [0, 4]"),
            ({"shape": [-2, 4]}, INVALID, "inputs[x].shape: expected [>=1, 4], found [-2, 4]"),
            (
                {"shape": [2**62, 4]},
                INVALID,
                "inputs: expected at most 8 rows (engine.max_batch), found 46116",
            ),
            (
                {"shape": [4, 4]},
                INVALID,
                "raw_input_contents of x: expected 64 bytes for 16 elements of FP32",
            ),
            ({"raw": [b""] * 1000}, INVALID, "raw_input_contents: expected one entry for each of 1 inputs"),
            ({"raw": [b"abc"]}, INVALID, "expected 32 bytes"),
            ({"raw": []}, INVALID, "inputs[x].contents"),
            ({"typed": [1.0]}, INVALID, "inputs[x].contents: expected none beside raw_input_contents"),
            ({"wanted": "z"}, INVALID, "outputs: expected some of y; found 'z'"),
            ({"parameter": "slo_ms"}, INVALID, "parameters.slo_ms: expected a finite number"),
        ],
    )
    def test_is_named(self, service, changes, code, text):
        error = refused(service.ModelInfer, _bad(**changes))
        assert error.code() is code
        assert text in error.details()

    def test_more_rows_than_an_execution_may_have(self, service):
        error = refused(service.ModelInfer, infer_request("scale", rows(9)))
        assert error.code() is INVALID
        assert "at most 8 rows (engine.max_batch), found 9" in error.details()

    def test_another_model_is_not_described(self, service):
        for call, request in (
            (service.ModelMetadata, pb.ModelMetadataRequest(name="other")),
            (service.ModelConfig, pb.ModelConfigRequest(name="scale", version="2")),
            (service.ModelStatistics, pb.ModelStatisticsRequest(name="other")),
        ):
            assert refused(call, request).code() is NOT_FOUND

    def test_a_message_over_the_limit(self, service):
        error = refused(service.ModelInfer, _bad(raw=[bytes(2 << 20)]))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(1 << 20) in error.details()

    @pytest.mark.parametrize(
        ("method", "text"),
        [
            ("ModelInfer", "request: expected a ModelInferRequest"),
            ("ModelMetadata", "request: expected a message of this method's type"),
        ],
    )
    def test_bytes_that_are_no_message(self, scale, method, text):
        before = scale.ended("failed")
        with grpc.insecure_channel(scale.address) as channel:
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            error = refused(call, b"\xff\xff\xff\xff")
        assert (error.code(), error.details()) == (INVALID, text)
        assert scale.ended("failed") == before + (method == "ModelInfer")

    def test_is_counted_and_serving_goes_on(self, scale, service):
        before, headers = scale.ended("failed"), scale.metrics()["sponge_worker_headers_total"]
        refused(service.ModelInfer, _bad(datatype="FP64"))
        refused(service.ModelInfer, _bad(model="other"))
        assert scale.ended("failed") == before + 2
        assert scale.metrics()["sponge_worker_headers_total"] == headers + 2
        assert output(service.ModelInfer(infer_request("scale", rows(1)))).tolist() == [[0, 2, 4, 6]]


class TestRefusal:
    def test_says_why_when_and_that_retrying_is_no_use(self, spin, spinner, busy):
        executions, refusals = spin.executions(), spin.ended("refused")
        error = refused(spinner.ModelInfer, infer_request("spin", spinning.spins(1), slo_ms=8))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "no answer in time" in error.details()
        trailers = dict(error.trailing_metadata())
        assert trailers["sponge-reason"] == "refused"
        assert float(trailers["sponge-predicted-ms"]) > 0
        assert trailers["grpc-retry-pushback-ms"] == "-1"
        assert spin.ended("refused") == refusals + 1
        assert spin.executions() == executions

    def test_no_time_left_at_all(self, spinner):
        error = refused(spinner.ModelInfer, infer_request("spin", spinning.spins(1), slo_ms=-5))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"

    def test_an_idle_slot_takes_what_it_can_make(self, scale, service):
        before = scale.ended("refused")
        for _ in range(50):
            service.ModelInfer(infer_request("scale", rows(1)), timeout=5.0)
        assert scale.ended("refused") == before

    def test_a_full_queue(self, tmp_path):
        model = spinning.save(tmp_path / "spin.onnx")
        with (
            processes.worker(tmp_path, model, server={"max_queue": 1}) as worker,
            grpc.insecure_channel(worker.address) as channel,
        ):
            a_second = spinning.spins(spinning.spins_per_second(worker.address))
            infer, request = stub(channel).ModelInfer.future, infer_request("spin", a_second)
            first = infer(request)
            # It waits in the queue too, until its slot takes it out.
            eventually(lambda: worker.metrics()["sponge_worker_executions_running"])
            others = [infer(request), infer(request)]
            assert first.code() is grpc.StatusCode.OK
            assert sorted(call.code().name for call in others) == ["OK", "RESOURCE_EXHAUSTED"]
            full = next(call for call in others if call.code() is not grpc.StatusCode.OK)
            assert full.details() == "the queue is full"
            assert dict(full.trailing_metadata())["sponge-reason"] == "queue_full"


class TestDeadlines:
    def waiting(self, spin):
        return spin.metrics()["sponge_worker_queue_depth"]

    def test_cancelled_while_queued_it_never_runs(self, spin, spinner, busy):
        executions, cancelled = spin.executions(), spin.ended("cancelled")
        call = spinner.ModelInfer.future(infer_request("spin", spinning.spins(1)))
        eventually(lambda: self.waiting(spin))
        call.cancel()
        eventually(lambda: not self.waiting(spin))
        assert spin.ended("cancelled") == cancelled + 1
        busy.result()
        spinner.ModelInfer(infer_request("spin", spinning.spins(1)))
        assert spin.executions() == executions + 2

    @pytest.mark.parametrize("parameters", [{"slo_ms": 300}, {"timeout": 300_000}])
    def test_its_deadline_passes_while_queued_and_it_never_runs(self, spin, second, parameters, tmp_path):
        # A worker that has seen short executions only expects the slot to be free soon.
        with (
            processes.worker(tmp_path, spinning.save(tmp_path / "spin.onnx")) as worker,
            grpc.insecure_channel(worker.address) as channel,
        ):
            service = stub(channel)
            long = service.ModelInfer.future(infer_request("spin", spinning.spins(3 * second)))
            eventually(lambda: worker.metrics()["sponge_worker_executions_running"])
            error = refused(
                service.ModelInfer, infer_request("spin", spinning.spins(1), **parameters), timeout=20
            )
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert error.details() == "the deadline passed while the request was queued"
            error = refused(service.ModelInfer, infer_request("spin", spinning.spins(1)), timeout=1.0)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            long.result()
            assert eventually(lambda: worker.ended("expired"), lambda count: count == 2)
            assert worker.executions() == 1

    @pytest.mark.parametrize(
        ("first", "then", "answered_first"),
        [
            pytest.param({"timeout": 3000}, {"timeout": 12}, 0, id="a safety timeout is the service's SLO"),
            pytest.param({"slo_ms": 9000}, {"slo_ms": 6000}, 1, id="an earlier deadline overtakes"),
            pytest.param({"timeout": 9}, {"timeout": 6}, 1, id="gRPC's deadline as well"),
        ],
    )
    def test_the_order_of_answers(self, spin, spinner, busy, first, then, answered_first):
        order = []
        calls = []
        for number, stated in enumerate((first, then)):
            before = self.waiting(spin)
            timeout = stated.get("timeout")
            slo = {key: value for key, value in stated.items() if key == "slo_ms"}
            call = spinner.ModelInfer.future(infer_request("spin", spinning.spins(1), **slo), timeout=timeout)
            call.add_done_callback(lambda _, number=number: order.append(number))
            calls.append(call)
            eventually(lambda before=before: self.waiting(spin) > before)
        for call in calls:
            call.result()
        assert eventually(lambda: order, lambda order: len(order) == 2)[0] == answered_first

    def test_time_since_sending_is_charged(self, spin, spinner):
        ago = time.time() * 1000 - 60_000
        request = infer_request("spin", spinning.spins(1), slo_ms=59_000, sent_unix_ms=ago)
        assert refused(spinner.ModelInfer, request).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        request = infer_request("spin", spinning.spins(1), slo_ms=69_000, sent_unix_ms=ago)
        spinner.ModelInfer(request)

    def test_clients_behind_one_proxy_may_have_any_clock(self, service):
        """As they share its connection."""
        for sent_s in (100_000.0, 5.0, 100_001.0, 6.0):
            request = infer_request("scale", rows(1))
            service.ModelInfer(request, timeout=10.0, metadata=(("sent-s", f"{sent_s}"),))

    def test_an_answer_tells_where_its_time_went(self, spin, spinner, busy):
        """The parts add up to the budget: 9 s, of which 5 ms are kept back for the way home."""
        asked_at = time.monotonic()
        waited, ran = (
            spinner.ModelInfer.future(infer_request("spin", spinning.spins(1), slo_ms=9000)) for _ in range(2)
        )
        for call in (waited, ran):
            spent = {name: value.int64_param for name, value in call.result().parameters.items()}
            parts = [spent[name] for name in ("upload_us", "queue_us", "service_us", "remaining_us")]
            assert sum(parts) == pytest.approx(8_995_000, abs=2)
            assert all(part >= 0 for part in parts)
            # They waited for the slot, which was busy, and were answered before now.
            assert 0 < spent["queue_us"] < 1e6 * (time.monotonic() - asked_at)
            assert spent["batch_rows"] in (1, 2)

    def test_a_deadline_beyond_all_numbers_is_answered(self, spinner):
        response = spinner.ModelInfer(infer_request("spin", spinning.spins(1), slo_ms=1e300))
        assert 0 < response.parameters["remaining_us"].int64_param <= 10_000_000

    def test_with_grace_a_late_answer_is_delivered_and_counted(self, spin, spinner, busy):
        late = spin.ended("late")
        request = infer_request("spin", spinning.spins(1), grace_ms=30_000)
        response = spinner.ModelInfer(request, timeout=30.01)
        assert output(response).tolist() == [[1, 0, 0, 0]]
        assert response.parameters["remaining_us"].int64_param < 0
        assert spin.ended("late") == late + 1


class TestLife:
    def test_health_while_loading_serving_and_draining(self, tmp_path):
        """And a request that waits is answered, while new ones are sent elsewhere."""
        model = models.slow(tmp_path / "slow.onnx", 3000)
        with (
            processes.worker(tmp_path, model, serving=False) as worker,
            grpc.insecure_channel(worker.address) as channel,
        ):
            seen = []
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="slow"))
            early = refused(stub(channel).ModelInfer, infer_request("slow", rows(1, 256)))
            assert early.code() is grpc.StatusCode.UNAVAILABLE
            assert early.details() == "the model is still loading"
            reading = threading.Thread(target=lambda: _collect(watch, seen))
            reading.start()
            eventually(lambda: SERVING in seen)
            check = health_pb2_grpc.HealthStub(channel).Check
            for name in ("", "slow", "inference.GRPCInferenceService"):
                assert check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
            assert (
                refused(check, health_pb2.HealthCheckRequest(service="other")).code()
                is grpc.StatusCode.NOT_FOUND
            )
            known = worker.metrics()["sponge_worker_budget_seconds_count"]
            waiting = [stub(channel).ModelInfer.future(infer_request("slow", rows(8, 256))) for _ in range(4)]
            # All are queued: those that come later are new ones.
            eventually(lambda: worker.metrics()["sponge_worker_budget_seconds_count"] == known + len(waiting))
            worker.process.terminate()
            eventually(lambda: seen[-1] == NOT_SERVING)
            new = refused(stub(channel).ModelInfer, infer_request("slow", rows(1, 256)))
            assert new.code() is grpc.StatusCode.UNAVAILABLE
            for call in waiting:
                np.testing.assert_array_equal(output(call.result()), rows(8, 256))
            assert worker.process.wait() == 0
            reading.join()
            assert seen == [NOT_SERVING, SERVING, NOT_SERVING]

    def test_stopped_while_loading(self, tmp_path):
        model = models.slow(tmp_path / "slow.onnx", 3000)
        with processes.worker(tmp_path, model, serving=False) as worker:
            assert worker.process.stop() == 0
            assert not worker.process.events("serving")


def _collect(watch, seen):
    try:
        for response in watch:
            seen.append(response.status)
    except grpc.RpcError:
        pass
