"""A model that takes as long as its input asks for: what tests of queueing keep a slot busy with."""

import time
from pathlib import Path

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.inference import infer_request, stub

NAME = "spin"
_SIDE = 128


def save(path: Path) -> Path:
    """Give FP32 x [N, 4] back as y, after as many products of 128 × 128 matrices as the largest of x says."""
    square = [_SIDE, _SIDE]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "one"], ["next"]),
            helper.make_node("Identity", ["going_on"], ["goes_on"]),
        ],
        "spin",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, square),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, square),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["times"], to=TensorProto.INT64),
        helper.make_node("Loop", ["times", "", "zeros"], ["spun"], body=body),
        helper.make_node("ReduceMax", ["spun"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(np.zeros(square, np.float32), "zeros"),
            numpy_helper.from_array(np.eye(_SIDE, dtype=np.float32), "one"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def spins(count: float) -> np.ndarray:
    """Input for one row that takes `count` spins."""
    return np.array([[count, 0, 0, 0]], np.float32)


def spins_per_second(address: str) -> float:
    """How fast this machine spins when nothing else wants it; leaves the worker with 100 spins or more as its
    service time.

    The fastest of some: what is to take a second must not take a tenth once a busy machine has less to do.
    """
    with grpc.insecure_channel(address) as channel:

        def took(count: int) -> float:
            began = time.monotonic()
            stub(channel).ModelInfer(infer_request(NAME, spins(count)))
            return time.monotonic() - began

        for count in (100, 1000, 10_000):
            least = took(count)
            if least > 0.05:
                break
        return count / min(least, *(took(count) for _ in range(4)))
