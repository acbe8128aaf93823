from dataplane.modelconfig import config
from dataplane.served import Model
from dataplane.tensors import ModelSignature, TensorSpec
from protos import inference_pb2 as pb


def told(*, batched):
    inputs = (TensorSpec("text", "BYTES", (None, 3)), TensorSpec("image", "UINT8", (None, 4, None)))
    outputs = (TensorSpec("score", "FP16", (None,)),)
    return config(Model(0, ModelSignature("m", "1", inputs, outputs, batched), "0" * 64, 8 if batched else 1))


def test_a_batch_dimension_is_told_by_the_batch_size_alone():
    message = told(batched=True)
    assert message.max_batch_size == 8
    assert [(t.name, t.data_type, t.dims) for t in message.input] == [
        ("text", pb.TYPE_STRING, [3]),
        ("image", pb.TYPE_UINT8, [4, -1]),
    ]
    assert [(t.name, t.data_type, t.dims) for t in message.output] == [("score", pb.TYPE_FP16, [])]
    assert message.WhichOneof("scheduling_choice") == "dynamic_batching"


def test_without_one_dimensions_are_all_there():
    message = told(batched=False)
    assert message.max_batch_size == 0
    assert [t.dims for t in message.input] == [[-1, 3], [-1, 4, -1]]
    assert message.WhichOneof("scheduling_choice") is None
