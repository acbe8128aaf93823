"""Every datatype over loopback: several inputs and outputs, raw and typed, and only what is asked for."""

import grpc
import numpy as np
import pytest
from onnx import TensorProto

from dataplane.datatypes import DATATYPES, to_raw, to_typed
from protos import inference_pb2 as pb
from tests import models, processes
from tests.inference import stub

_ONNX = {"FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE, "BYTES": TensorProto.STRING}

# Two rows of what is hardest to carry.
VALUES = {
    "BOOL": [True, False],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "UINT8": [0, 255],
    "UINT16": [0, 2**16 - 1],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "FP32": [np.nan, -0.0],
    "FP64": [-np.inf, 5e-324],
    "BYTES": ["", "a\0é"],
}
ARRAYS = {name: np.array(values, DATATYPES[name].memory).reshape(2, 1) for name, values in VALUES.items()}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Gives back one input of each datatype that has a typed form."""
    directory = tmp_path_factory.mktemp("echoes")
    datatypes = {name: _ONNX.get(name) or TensorProto.DataType.Value(name) for name in VALUES}
    with (
        processes.worker(directory, models.echoes(directory / "echoes.onnx", datatypes)) as worker,
        grpc.insecure_channel(worker.address) as channel,
    ):
        yield stub(channel)


def asking(raw, outputs=()):
    request = pb.ModelInferRequest(model_name="echoes", outputs=[{"name": name} for name in outputs])
    for name, array in ARRAYS.items():
        tensor = request.inputs.add(name=name, datatype=name, shape=array.shape)
        if raw:
            request.raw_input_contents.append(bytes(to_raw(array, DATATYPES[name])))
        else:
            to_typed(array, DATATYPES[name], tensor.contents)
    return request


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_all_at_once_come_back_as_they_went(service, raw):
    asked = asking(raw)
    response = service.ModelInfer(asked)
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        (f"out_{name}", name, [2, 1]) for name in VALUES
    ]
    assert response.raw_output_contents == asked.raw_input_contents
    # As bytes: NaN is not equal to itself.
    for tensor, answer in zip(asked.inputs, response.outputs, strict=True):
        assert answer.contents.SerializeToString() == tensor.contents.SerializeToString()


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_only_what_was_asked_for_in_that_order(service, raw):
    response = service.ModelInfer(asking(raw, ["out_FP64", "out_BYTES"]))
    assert [output.name for output in response.outputs] == ["out_FP64", "out_BYTES"]
    assert len(response.raw_output_contents) == (2 if raw else 0)


def test_half_precision_is_raw(tmp_path):
    """BF16 is the upper half of FP32."""
    x, w = np.float32([[1, -2.5, 384]]), np.float32([[2, 2, 0.5]])
    with (
        processes.worker(tmp_path, models.bfloat16(tmp_path / "bf16.onnx")) as worker,
        grpc.insecure_channel(worker.address) as channel,
    ):
        request = pb.ModelInferRequest(model_name="bf16")
        request.inputs.add(name="x", datatype="BF16", shape=x.shape)
        request.inputs.add(name="w", datatype="FP32", shape=w.shape)
        request.raw_input_contents.extend([(x.view("<u4") >> 16).astype("<u2").tobytes(), w.tobytes()])
        metadata = stub(channel).ModelMetadata(pb.ModelMetadataRequest(name="bf16"))
        assert [tensor.datatype for tensor in metadata.inputs] == ["BF16", "FP32"]
        response = stub(channel).ModelInfer(request)
        assert [output.datatype for output in response.outputs] == ["BF16", "FP32"]
        y = np.frombuffer(response.raw_output_contents[0], "<u2").astype("<u4") << 16
        assert y.view("<f4").tolist() == [2, -5, 192]
        assert np.frombuffer(response.raw_output_contents[1], "<f4").tolist() == [189]
