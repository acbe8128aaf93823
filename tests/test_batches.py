"""Requests that share an execution, over loopback: what becomes of one is no matter of the others."""

import grpc
import numpy as np
import pytest

from protos import inference_pb2 as pb
from tests import models, processes, spinning
from tests.inference import infer_request, output, stub
from tests.processes import eventually


@pytest.fixture
def spin(tmp_path):
    """A worker of one slot whose executions may have four rows, and that has seen none but short ones."""
    with processes.worker(tmp_path, spinning.save(tmp_path / "spin.onnx"), engine={"batch": 4}) as worker:
        yield worker


@pytest.fixture
def second(spin):
    """Spins that take a second at least: other work on this machine only ever makes it seem slower."""
    return spinning.spins_per_second(spin.address)


@pytest.fixture
def spinner(spin):
    with grpc.insecure_channel(spin.address) as channel:
        yield stub(channel)


def running(worker):
    return worker.metrics()["sponge_worker_executions_running"]


def waiting(worker):
    return worker.metrics()["sponge_worker_queue_depth"]


def together(spin, spinner, busy, spins, *, options=({}, {}), **parameters):
    """Two requests that wait for a slot busy for `busy` spins, and have then begun as one batch."""
    first = spinner.ModelInfer.future(infer_request("spin", spinning.spins(busy)))
    eventually(lambda: running(spin))
    calls = []
    for number, each in enumerate(options, start=1):
        request = infer_request("spin", spinning.spins(spins), **parameters)
        calls.append(spinner.ModelInfer.future(request, **each))
        eventually(lambda number=number: waiting(spin) == number)
    first.result()
    eventually(lambda: not waiting(spin))
    return calls


def batch_rows(call):
    return call.result().parameters["batch_rows"].int64_param


def test_who_leaves_before_it_begins_has_no_part_in_it(spin, spinner, second):
    busy = spinner.ModelInfer.future(infer_request("spin", spinning.spins(second)))
    eventually(lambda: running(spin))
    executions, cancelled = spin.executions(), spin.ended("cancelled")
    calls = [spinner.ModelInfer.future(infer_request("spin", spinning.spins(1))) for _ in range(3)]
    eventually(lambda: waiting(spin) == 3)
    calls[1].cancel()
    eventually(lambda: waiting(spin) == 2)
    busy.result()
    assert [batch_rows(call) for call in (calls[0], calls[2])] == [2, 2]
    assert spin.ended("cancelled") == cancelled + 1
    assert spin.executions() == executions + 2


def test_who_leaves_while_it_runs_takes_nothing_from_the_others(spin, spinner, second):
    cancelled = spin.ended("cancelled")
    stays, leaves = together(spin, spinner, busy=second / 2, spins=second)
    leaves.cancel()
    assert batch_rows(stays) == 2
    assert output(stays.result())[0, 0] == pytest.approx(second)
    assert spin.ended("cancelled") == cancelled + 1


def test_a_call_that_is_over_while_it_runs_is_no_matter_of_the_others(spin, spinner, second):
    executions = spin.executions()
    patient, hurried = together(
        spin, spinner, busy=second / 2, spins=5 * second, options=({}, {"timeout": 3.0})
    )
    assert hurried.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert batch_rows(patient) == 2
    assert spin.executions() == executions + 2


def test_a_deadline_that_passes_while_it_runs_makes_its_answer_late(spin, spinner, second):
    late = spin.ended("late")
    calls = together(spin, spinner, busy=second / 2, spins=5 * second, slo_ms=3000)
    for call in calls:
        assert batch_rows(call) == 2
        assert call.result().parameters["remaining_us"].int64_param < 0
    assert spin.ended("late") == late + 2


def test_inputs_in_any_order_and_only_the_outputs_that_are_asked_for(tmp_path):
    """Also within one batch, whose requests ask for different ones."""
    ids, weights = np.array([[1, 2]]), np.array([[1, -1]], np.float32)
    inputs = {
        "ids": ({"name": "ids", "datatype": "INT64", "shape": [1, 2]}, ids.tobytes()),
        "weights": ({"name": "weights", "datatype": "FP32", "shape": [1, 2]}, weights.tobytes()),
    }

    def request(order, wanted):
        return pb.ModelInferRequest(
            model_name="pair",
            inputs=[inputs[name][0] for name in order],
            raw_input_contents=[inputs[name][1] for name in order],
            outputs=[{"name": name} for name in wanted],
        )

    contents = {"score": np.float32(-1).tobytes(), "sign": b"\x01\x00\x00\x00-"}
    with (
        processes.worker(tmp_path, models.two_inputs(tmp_path / "pair.onnx"), engine={"batch": 8}) as worker,
        grpc.insecure_channel(worker.address) as channel,
    ):
        asked = [
            (order, wanted)
            for order in (["ids", "weights"], ["weights", "ids"])
            for wanted in ([], ["score"], ["sign"], ["sign", "score"])
        ] * 4
        calls = [stub(channel).ModelInfer.future(request(*each)) for each in asked]
        streamed = list(stub(channel).ModelStreamInfer(iter([request(*each) for each in asked])))
        for (_, wanted), call in zip(asked, calls, strict=True):
            expected = wanted or ["score", "sign"]
            response = call.result()
            assert [tensor.name for tensor in response.outputs] == expected
            assert list(response.raw_output_contents) == [contents[name] for name in expected]
        assert sum(len(response.infer_response.outputs) for response in streamed) == sum(
            len(wanted) or 2 for _, wanted in asked
        )
