"""ModelStreamInfer over loopback: real gRPC, a real model."""

import queue
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from onnx import TensorProto

from tests import models, processes, spinning
from tests.inference import infer_request, output, rows, stub
from tests.processes import eventually

LIMIT = 4


@pytest.fixture(scope="module")
def spin(tmp_path_factory):
    """A worker of two slots that can be kept busy."""
    directory = tmp_path_factory.mktemp("spin")
    with processes.worker(
        directory, spinning.save(directory / "spin.onnx"), engine={"instances": 2}
    ) as worker:
        yield worker


@pytest.fixture(scope="module")
def second(spin):
    return spinning.spins_per_second(spin.address)


class Conversation:
    """A stream that is asked one request at a time."""

    def __init__(self, channel, model, **options):
        self._model = model
        self._asked = queue.SimpleQueue()
        self.call = stub(channel).ModelStreamInfer(iter(self._asked.get, None), **options)

    def ask(self, request_id, array, **parameters):
        request = infer_request(self._model, array, **parameters)
        request.id = request_id
        self.send(request)

    def send(self, request):
        self._asked.put(request)

    def end(self):
        self._asked.put(None)


@contextmanager
def talking(worker, model="spin", **options):
    with grpc.insecure_channel(worker.address) as channel:
        conversation = Conversation(channel, model, **options)
        try:
            yield conversation
        finally:
            conversation.end()
            conversation.call.cancel()


def waiting(worker):
    return worker.metrics()["sponge_worker_queue_depth"]


def running(worker):
    return worker.metrics()["sponge_worker_executions_running"]


def test_the_short_one_overtakes_and_both_say_who_they_are(spin, second):
    with talking(spin) as stream:
        stream.ask("long", spinning.spins(second))
        eventually(lambda: running(spin))
        stream.ask("short", spinning.spins(1))
        first, then = next(stream.call), next(stream.call)
        assert (first.infer_response.id, then.infer_response.id) == ("short", "long")
        assert output(first.infer_response).tolist() == [[1, 0, 0, 0]]
        assert first.infer_response.parameters["batch_rows"].int64_param == 1
        stream.end()
        assert list(stream.call) == []


def test_a_bad_request_ends_nothing(spin):
    with talking(spin) as stream:
        bad = infer_request("another", spinning.spins(1))
        bad.id = "bad"
        stream.send(bad)
        error = next(stream.call)
        assert error.error_message == "model_name: expected 'spin', got 'another'"
        assert error.infer_response.id == "bad"
        assert error.infer_response.parameters["sponge-status"].string_param == "NOT_FOUND"
        stream.ask("hurried", spinning.spins(1), slo_ms=-1)
        error = next(stream.call).infer_response
        assert error.parameters["sponge-status"].string_param == "RESOURCE_EXHAUSTED"
        assert error.parameters["sponge-reason"].string_param == "refused"
        stream.ask("good", spinning.spins(1))
        assert next(stream.call).infer_response.id == "good"


def test_what_is_no_message_is_answered_and_counted(spin):
    failed = spin.ended("failed")
    with grpc.insecure_channel(spin.address) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        good = infer_request("spin", spinning.spins(1)).SerializeToString()
        answers = list(call(iter([b"\xff\xff\xff\xff", good])))
    assert sum(b"expected a ModelInferRequest" in answer for answer in answers) == 1
    assert len(answers) == 2
    assert spin.ended("failed") == failed + 1


def test_each_has_its_own_deadline_and_the_stream_another(spin, second):
    """The one that cannot wait is told so while the stream has all the time."""
    with talking(spin, timeout=60) as stream:
        for number in range(2):
            stream.ask(f"long {number}", spinning.spins(2 * second))
        eventually(lambda: running(spin) == 2)
        stream.ask("patient", spinning.spins(1))
        stream.ask("hurried", spinning.spins(1), slo_ms=50)
        answers = {(each := next(stream.call)).infer_response.id: each for _ in range(4)}
    status = answers["hurried"].infer_response.parameters["sponge-status"].string_param
    assert status in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    assert not answers["patient"].error_message
    remaining_us = answers["patient"].infer_response.parameters["remaining_us"].int64_param
    assert remaining_us < 10_000_000  # of the service, not of the stream


def test_cancelling_cancels_what_waits(spin, second):
    cancelled, executions = spin.ended("cancelled"), spin.executions()
    with talking(spin) as stream:
        for number in range(2):
            stream.ask(f"long {number}", spinning.spins(second))
        eventually(lambda: running(spin) == 2)
        for number in range(5):
            stream.ask(f"{number}", spinning.spins(1))
        eventually(lambda: waiting(spin) == 5)
        stream.call.cancel()
        eventually(lambda: not waiting(spin))
    eventually(lambda: not running(spin))
    assert spin.ended("cancelled") == cancelled + 7
    assert spin.executions() == executions + 2


def test_who_asks_and_does_not_listen_is_read_no_further(tmp_path):
    """Each answer has a megabyte; 64 of them fill whatever the transport holds."""
    count, wide = 64, np.ones((1, 1 << 18), np.float32)
    with processes.worker(
        tmp_path,
        models.echo(tmp_path / "echo.onnx", TensorProto.FLOAT),
        server={"max_stream_requests": LIMIT},
    ) as worker:
        with talking(worker, "echo") as stream:
            for number in range(count):
                stream.ask(f"{number}", wide)
            stream.end()
            read = eventually(lambda: worker.metrics()["sponge_worker_headers_total"], lambda n: n >= LIMIT)
            with grpc.insecure_channel(worker.address) as other:
                for _ in range(20):
                    np.testing.assert_array_equal(
                        output(stub(other).ModelInfer(infer_request("echo", rows(1)))), rows(1)
                    )
            read = worker.metrics()["sponge_worker_headers_total"]
            assert read - 20 < count
            answers = list(stream.call)
        assert sorted(int(answer.infer_response.id) for answer in answers) == list(range(count))


def test_a_stream_ends_with_the_server_once_what_was_read_is_answered(tmp_path):
    with processes.worker(tmp_path, spinning.save(tmp_path / "spin.onnx")) as worker:
        second = spinning.spins_per_second(worker.address)
        with talking(worker) as stream:
            stream.ask("last", spinning.spins(second))
            eventually(lambda: running(worker))
            worker.process.terminate()
            assert next(stream.call).infer_response.id == "last"
            with pytest.raises(grpc.RpcError) as caught:
                next(stream.call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "the server is draining"
        assert worker.process.wait() == 0
