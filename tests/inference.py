"""Requests of the Open Inference Protocol for the models of tests.models."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc


def stub(channel: grpc.Channel) -> inference_pb2_grpc.GRPCInferenceServiceStub:
    """The inference service over `channel`."""
    return inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def infer_request(
    model: str, array: np.ndarray, name: str = "x", datatype: str = "FP32", **parameters: float | str
) -> pb.ModelInferRequest:
    """One raw input, and parameters of the kind that their values are of."""
    request = pb.ModelInferRequest(
        model_name=model,
        inputs=[{"name": name, "datatype": datatype, "shape": array.shape}],
        raw_input_contents=[array.tobytes()],
    )
    set_parameters(request.parameters, parameters)
    return request


def set_parameters(target: Mapping[str, pb.InferParameter], parameters: Mapping[str, float | str]) -> None:
    """Fill a message's parameters."""
    for key, value in parameters.items():
        match value:
            case int():
                target[key].int64_param = value
            case float():
                target[key].double_param = value
            case str():
                target[key].string_param = value


def output(response: pb.ModelInferResponse, dtype: type = np.float32) -> np.ndarray:
    """The first output of a raw answer."""
    array = np.frombuffer(response.raw_output_contents[0], dtype)
    return array.reshape(tuple(response.outputs[0].shape))


def rows(count: int, width: int = 4) -> np.ndarray:
    """FP32 [count, width] of different numbers."""
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def ask_triton(address: str, model: str, **options: Any) -> dict[str, Any]:
    """What tests/triton_client.py says of a worker that serves `tests.models.scale`."""
    script = Path(__file__).with_name("triton_client.py")
    command = [sys.executable, script, address, model, json.dumps(options)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60)
    said: dict[str, Any] = json.loads(ran.stdout)
    return said
