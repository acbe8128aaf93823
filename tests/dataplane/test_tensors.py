import pytest

from dataplane.tensors import ModelSignature, TensorSpec, metadata

PAIR = ModelSignature(
    "pair",
    "3",
    inputs=(TensorSpec("ids", "INT64", (None, None)), TensorSpec("weights", "FP32", (None, 2))),
    outputs=(TensorSpec("score", "FP32", (None,)), TensorSpec("sign", "BYTES", (None,))),
    batched=True,
)


def test_metadata():
    described = metadata(PAIR)
    assert (described.name, list(described.versions), described.platform) == (
        "pair",
        ["3"],
        "onnxruntime_onnx",
    )
    assert [(t.name, t.datatype, list(t.shape)) for t in described.inputs] == [
        ("ids", "INT64", [-1, -1]),
        ("weights", "FP32", [-1, 2]),
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in described.outputs] == [
        ("score", "FP32", [-1]),
        ("sign", "BYTES", [-1]),
    ]


def test_a_datatype_that_cannot_be_served():
    with pytest.raises(ValueError, match="x: FP8 cannot be served"):
        TensorSpec("x", "FP8", (None,))
