"""The Python client, against a servicer that answers over loopback."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc
from sponge.client import Client, InferenceError

Answer = Callable[[pb.ModelInferRequest, grpc.ServicerContext], pb.ModelInferResponse]


def echo(
    request: pb.ModelInferRequest, _context: grpc.ServicerContext | None = None
) -> pb.ModelInferResponse:
    """Every input as an output of the same name."""
    response = pb.ModelInferResponse(raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return response


class Servicer(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers as it is told, and keeps what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[pb.ModelInferRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.remaining_s: list[float] = []
        self.peers: list[str] = []

    def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> pb.ModelInferResponse:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining_s.append(context.time_remaining())
        self.peers.append(context.peer())
        return self.answer(request, context)


@contextmanager
def serving(answer: Answer = echo) -> Iterator[tuple[Servicer, Client]]:
    servicer = Servicer(answer)
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, options=[("grpc.max_receive_message_length", -1)])
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with Client(f"127.0.0.1:{port}") as client:
                yield servicer, client
        finally:
            server.stop(None).wait()


def infer(client: Client, array: np.ndarray) -> np.ndarray:
    return client.infer({"x": array}, model="m", timeout_s=30)["x"]


def test_every_datatype_comes_back_as_it_went() -> None:
    arrays = {
        "bool": np.array([[True, False], [False, True]]),
        **{
            f"{kind}{bits}": np.array([0, 1, 100], f"{kind}{bits // 8}")
            for kind in "iu"
            for bits in (8, 16, 32, 64)
        },
        **{f"f{bits}": np.array([[0.5], [-2.0]], f"f{bits // 8}") for bits in (16, 32, 64)},
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(1.5),
        "text": np.array([["", "a"], ["ü", "long enough"]], object),
    }
    with serving() as (_, client):
        answers = client.infer(arrays, model="m", timeout_s=30)
    assert answers.keys() == arrays.keys()
    for name, array in arrays.items():
        assert answers[name].dtype == array.dtype
        np.testing.assert_array_equal(answers[name], array)


def test_memory_layout_does_not_show_on_the_wire() -> None:
    rows = np.arange(6, dtype=np.int32).reshape(2, 3)
    with serving() as (servicer, client):
        for array in (rows.astype(">i4"), np.asfortranarray(rows), np.repeat(rows, 2, axis=1)[:, ::2]):
            np.testing.assert_array_equal(infer(client, array), rows)
        assert {tuple(request.raw_input_contents) for request in servicer.requests} == {(rows.tobytes(),)}


def test_fixed_width_and_raw_strings_are_bytes() -> None:
    with serving() as (servicer, client):
        for array in (np.array(["ab", "c"]), np.array([b"ab", b"c"]), np.array([b"ab", b"c"], object)):
            assert infer(client, array).tolist() == ["ab", "c"]
        assert {request.inputs[0].datatype for request in servicer.requests} == {"BYTES"}


@pytest.mark.parametrize("array", [np.array([1j]), np.array([object()])])
def test_what_has_no_datatype_is_named(array: np.ndarray) -> None:
    with serving() as (servicer, client):
        with pytest.raises(ValueError, match=r"inputs\['x'\]: expected"):
            infer(client, array)
        assert not servicer.requests


def test_the_request_says_everything() -> None:
    with serving() as (servicer, client):
        client.infer({}, model="m", timeout_s=30, grace_s=5, priority=-2, id="seven")
        client.infer({}, model="m", timeout_s=30)
        full, plain = servicer.requests
        assert (full.model_name, full.id) == ("m", "seven")
        assert full.parameters["grace_ms"].double_param == 5000
        assert full.parameters["priority"].int64_param == -2
        assert not plain.parameters
        # The deadline on the wire is that of a late answer; the worker subtracts the grace.
        assert 30 < servicer.remaining_s[0] <= 35.1
        assert servicer.remaining_s[1] <= 30.1
        first, second = (float(metadata["sent-s"]) for metadata in servicer.metadata)
        assert first <= second


def test_messages_may_be_larger_than_grpc_would_have_them() -> None:
    picture = np.zeros(5 << 20, np.uint8)
    with serving() as (_, client):
        assert infer(client, picture).size == picture.size


def test_calls_at_the_same_time_have_connections_of_their_own_and_later_ones_reuse_them() -> None:
    together = threading.Barrier(3, timeout=30)

    def answer(request: pb.ModelInferRequest, _context: grpc.ServicerContext) -> pb.ModelInferResponse:
        if request.id == "together":
            together.wait()
        return echo(request)

    with serving(answer) as (servicer, client), ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(client.infer, {}, model="m", timeout_s=30, id="together") for _ in range(3)]
        for call in calls:
            call.result()
        assert len(set(servicer.peers)) == 3
        assert repr(client).endswith("connections 3, idle 3>")
        for _ in range(3):
            client.infer({}, model="m", timeout_s=30)
        assert len(set(servicer.peers)) == 3


def test_a_refusal_says_why_and_when_it_would_have_been_ready() -> None:
    def refuse(_request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        context.set_trailing_metadata((("sponge-reason", "refused"), ("sponge-predicted-ms", "250.0")))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no answer in time")

    with serving(refuse) as (_, client), pytest.raises(InferenceError) as caught:
        client.infer({}, model="m", timeout_s=30)
    error = caught.value
    assert (error.code, error.text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "no answer in time")
    assert (error.reason, error.predicted_s) == ("refused", 0.25)
    assert str(error) == "RESOURCE_EXHAUSTED: no answer in time"


def test_a_deadline_that_passes_is_an_error_without_a_reason() -> None:
    passed = threading.Event()

    def wait(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        context.add_callback(passed.set)
        passed.wait(30)
        return echo(request)

    with serving(wait) as (_, client), pytest.raises(InferenceError) as caught:
        client.infer({}, model="m", timeout_s=0.1)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (caught.value.reason, caught.value.predicted_s) == (None, None)


def output(datatype: str, *raw: bytes) -> Answer:
    tensor = pb.ModelInferResponse.InferOutputTensor(name="y", datatype=datatype, shape=[1])
    return lambda _request, _context: pb.ModelInferResponse(outputs=[tensor], raw_output_contents=raw)


@pytest.mark.parametrize(
    "answer",
    [
        output("FP32"),
        output("FP32", b"123"),
        output("BF16", b"12"),
        output("FP32", bytes(8)),
        output("BYTES", b"\x09\0\0\0short"),
        output("BYTES", b"\x01"),
    ],
)
def test_an_answer_that_does_not_fit_itself_is_an_error(answer: Answer) -> None:
    with (
        serving(answer) as (_, client),
        pytest.raises(InferenceError, match=r"INTERNAL: .*raw_output_contents"),
    ):
        client.infer({}, model="m", timeout_s=30)


def test_no_server_is_unavailable() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InferenceError) as caught:
        client.infer({}, model="m", timeout_s=30)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_closing_ends_calls_under_way_and_refuses_new_ones() -> None:
    entered, closed = threading.Event(), threading.Event()

    def wait(request: pb.ModelInferRequest, _context: grpc.ServicerContext) -> pb.ModelInferResponse:
        entered.set()
        closed.wait(30)
        return echo(request)

    with serving(wait) as (_, client), ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.infer, {}, model="m", timeout_s=30)
        assert entered.wait(30)
        client.close()
        closed.set()
        with pytest.raises(InferenceError, match="CANCELLED"):
            call.result()
        with pytest.raises(ValueError, match="closed"):
            client.infer({}, model="m", timeout_s=30)
