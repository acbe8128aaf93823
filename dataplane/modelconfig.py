"""A model as ModelConfig tells it, in the terms of Triton's configuration."""

from collections.abc import Sequence

from dataplane.served import Model
from dataplane.tensors import PLATFORM, TensorSpec
from protos import inference_pb2 as pb

_BACKEND = "onnxruntime"
_NAMED_OTHERWISE = {"BYTES": "TYPE_STRING"}


def config(model: Model) -> pb.ModelConfig:
    """Name, tensors, and how requests are batched."""
    signature = model.signature
    message = pb.ModelConfig(
        name=signature.name,
        platform=PLATFORM,
        backend=_BACKEND,
        max_batch_size=model.max_rows if signature.batched else 0,
        default_model_filename="model.onnx",
        input=[
            pb.ModelInput(
                name=spec.name, data_type=_data_type(spec), dims=_dims(spec, batched=signature.batched)
            )
            for spec in signature.inputs
        ],
        output=[
            pb.ModelOutput(
                name=spec.name, data_type=_data_type(spec), dims=_dims(spec, batched=signature.batched)
            )
            for spec in signature.outputs
        ],
    )
    if signature.batched:
        message.dynamic_batching.SetInParent()
    return message


def _data_type(spec: TensorSpec) -> pb.DataType.ValueType:
    return pb.DataType.Value(_NAMED_OTHERWISE.get(spec.datatype, f"TYPE_{spec.datatype}"))


def _dims(spec: TensorSpec, *, batched: bool) -> Sequence[int]:
    """Without the batch dimension, which max_batch_size tells of."""
    return [-1 if size is None else size for size in spec.shape[1 if batched else 0 :]]
