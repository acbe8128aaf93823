import asyncio
import contextlib
import time

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from evaluation.bandwidth import BandwidthTrace
from evaluation.link import Links
from evaluation.load import Service, measure, payloads, run
from evaluation.rows import Outcome
from evaluation.workload import Arrival
from protos import inference_pb2, inference_pb2_grpc

FAST = BandwidthTrace.constant(1e9)


class Doubler(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers twice the input; requests for other models than "double" are what their name says."""

    def __init__(self) -> None:
        self.grace_ms: list[int] = []
        self.metadata: list[dict[str, str]] = []
        self.remaining_s: list[float] = []
        self.peers: set[str] = set()
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def ModelInfer(self, request, context):
        self.grace_ms.append(request.parameters["grace_ms"].int64_param)
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining_s.append(context.time_remaining())
        self.peers.add(context.peer())
        self.begun.set()
        try:
            match request.model_name:
                case "refuse":
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "cannot make it")
                case "break":
                    await context.abort(grpc.StatusCode.INTERNAL, "broken")
                case "hang":
                    await asyncio.Event().wait()
        finally:
            self.ended.set()
        row = 2 * np.frombuffer(request.raw_input_contents[0], np.float32)
        if request.model_name == "lie":
            row = row + 1
        if request.model_name == "shorten":
            row = row[1:]
        response = inference_pb2.ModelInferResponse(raw_output_contents=[row.tobytes()])
        if request.model_name == "tell":
            response.parameters["queue_us"].int64_param = 40_000
            response.parameters["service_us"].int64_param = 2_500
        return response


@contextlib.asynccontextmanager
async def serving():
    """Give a Doubler and its address."""
    servicer = Doubler()
    server = grpc.aio.server()
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield servicer, ("127.0.0.1", port)
    finally:
        await server.stop(None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Give the file of a model that doubles float rows [N, 4]."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("input", "output")
    ]
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "input"], ["output"])], "g", ends[:1], ends[1:]
    )
    path = tmp_path_factory.mktemp("load") / "double.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def service(model, name, address, **changes):
    inputs = [np.full((1, 4), value, np.float32) for value in (1.0, 2.0)]
    defaults = {"slo_ms": 60_000.0, "agrees": np.array_equal}
    return Service(name, address, payloads=payloads(model, name, inputs), **(defaults | changes))


def schedule(name, *at_s):
    return [Arrival(at, name, index % 2) for index, at in enumerate(at_s)]


async def test_right_answers_are_on_time_in_the_order_of_the_schedule(model):
    seen = []
    t0 = time.monotonic()
    async with serving() as (servicer, address), Links(address, FAST, t0) as links:
        services = {"double": service(model, "double", links.address)}
        load = await run(
            schedule("double", 0.0, 0.01, 0.02, 0.03), services, t0=t0, trace=FAST, progress=seen.append
        )
    assert [row.outcome for row in load.rows] == [Outcome.ON_TIME] * 4
    assert [row.scheduled_s for row in load.rows] == [0.0, 0.01, 0.02, 0.03]
    assert sorted(seen, key=lambda row: row.scheduled_s) == list(load.rows)
    assert all(row.scheduled_s <= row.sent_s <= row.finished_s <= row.deadline_s for row in load.rows)
    assert load.cpu_s > 0
    assert servicer.grace_ms == [2000] * 4
    # A connection each, the time of sending by the client's clock, and a timeout of SLO and grace.
    assert len(servicer.peers) == 4
    sent_s = sorted(float(metadata["sent-s"]) - t0 for metadata in servicer.metadata)
    assert sent_s == pytest.approx([row.sent_s for row in load.rows])
    assert all(remaining_s <= 62.0 + 0.02 for remaining_s in servicer.remaining_s)


@pytest.mark.parametrize(
    ("name", "outcome", "status"),
    [
        ("lie", Outcome.WRONG, "OK"),
        ("shorten", Outcome.WRONG, "OK"),
        ("refuse", Outcome.REFUSED, "RESOURCE_EXHAUSTED"),
        ("break", Outcome.FAILED, "INTERNAL"),
    ],
)
async def test_each_end_has_its_outcome(model, name, outcome, status):
    async with serving() as (_, address):
        services = {name: service(model, name, address)}
        load = await run(schedule(name, 0.0), services, t0=time.monotonic())
    assert [(row.outcome, row.status) for row in load.rows] == [(outcome, status)]


async def test_rows_tell_when_a_request_arrived_and_started_if_the_worker_does(model):
    async with serving() as (_, address):
        services = {name: service(model, name, address) for name in ("tell", "double")}
        both = [Arrival(0.0, name, 0) for name in ("tell", "double")]
        told, untold = (await run(both, services, t0=time.monotonic())).rows
    assert told.finished_s - told.started_s == pytest.approx(0.0025)
    assert told.started_s - told.arrived_s == pytest.approx(0.04)
    assert (untold.arrived_s, untold.started_s) == (None, None)


async def test_an_answer_after_the_deadline_is_late_and_timed_from_the_schedule(model):
    async with serving() as (_, address):
        services = {"double": service(model, "double", address, slo_ms=100.0, grace_ms=60_000)}
        # The generator begins half a second after the schedule: that is not the server's clock to hide.
        (row,) = (await run(schedule("double", 0.0), services, t0=time.monotonic() - 0.5)).rows
    assert row.outcome is Outcome.LATE
    assert row.answered
    assert row.latency_s >= 0.5


async def test_no_answer_within_the_grace_is_late_without_a_latency(model):
    async with serving() as (_, address):
        services = {"hang": service(model, "hang", address, slo_ms=100.0, grace_ms=100)}
        (row,) = (await run(schedule("hang", 0.0), services, t0=time.monotonic())).rows
    assert (row.outcome, row.status, row.answered) == (Outcome.LATE, "DEADLINE_EXCEEDED", False)


async def test_what_spends_its_budget_on_the_link_is_dead(model):
    slow = BandwidthTrace.constant(10.0)
    t0 = time.monotonic()
    async with serving() as (_, address), Links(address, slow, t0) as links:
        services = {"double": service(model, "double", links.address, slo_ms=100.0, grace_ms=100)}
        (row,) = (await run(schedule("double", 0.0), services, t0=t0, trace=slow)).rows
    assert row.outcome is Outcome.DEAD
    assert row.budget_on_arrival_ms == pytest.approx(100 - 1000 * row.size_bytes / 10)


async def test_more_open_requests_than_allowed_fail_without_being_sent(model):
    async with serving() as (servicer, address):
        services = {"hang": service(model, "hang", address, slo_ms=200.0, grace_ms=200)}
        load = await run(schedule("hang", 0.0, 0.0, 0.0), services, t0=time.monotonic(), max_in_flight=2)
    assert sorted(row.status for row in load.rows) == ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "UNSENT"]
    assert len(servicer.grace_ms) == 2


async def test_nobody_listening_is_a_failure(model):
    services = {"double": service(model, "double", ("127.0.0.1", 1))}
    (row,) = (await run(schedule("double", 0.0), services, t0=time.monotonic())).rows
    assert (row.outcome, row.status) == (Outcome.FAILED, "UNAVAILABLE")


async def test_cancelling_a_run_closes_its_connections(model):
    async with serving() as (servicer, address):
        services = {"hang": service(model, "hang", address)}
        running = asyncio.create_task(run(schedule("hang", 0.0, 1000.0), services, t0=time.monotonic()))
        async with asyncio.timeout(30):
            await servicer.begun.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await servicer.ended.wait()  # the server has seen it


def test_cost_of_a_row_is_cpu_time(model):
    inputs = [np.ones((3, 4), np.float32)]
    began = time.thread_time()
    cost_s = measure(model, inputs, seconds=0.05)
    assert 0 < cost_s <= time.thread_time() - began
