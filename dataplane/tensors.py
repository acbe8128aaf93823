"""What a model takes and gives, in the terms of the Open Inference Protocol."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataplane.datatypes import DATATYPES, Array, Datatype, InvalidRequest
from protos import inference_pb2 as pb

__all__ = ["Array", "Decoded", "InvalidRequest", "ModelSignature", "TensorSpec", "metadata"]

# Triton's name for an ONNX model run by ONNX Runtime.
PLATFORM = "onnxruntime_onnx"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model; `shape` is whole, batch dimension included, None where a size is free.

    Raises ValueError for a datatype that cannot be served.
    """

    name: str
    datatype: str
    shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if self.datatype not in DATATYPES:
            raise ValueError(f"{self.name}: {self.datatype} cannot be served, only {', '.join(DATATYPES)}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of an element: object, holding str, for BYTES; uint16, the bits, for BF16."""
        return self.elements.memory

    @property
    def elements(self) -> Datatype:
        """How the elements travel."""
        return DATATYPES[self.datatype]


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """What a model takes and gives; `batched` if the first dimension of every tensor counts rows."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool


@dataclass(frozen=True, slots=True)
class Decoded:
    """A request as the engine takes it.

    `inputs` has one array for each input of the model, possibly read-only; `rows` is the size of their first
    dimension, 1 where the model has no batch dimension; requests of equal `shape_key` may share a batch if
    the model is batched; `outputs` names what to answer with, in that order.
    """

    inputs: dict[str, Array]
    rows: int
    shape_key: Hashable
    raw: bool
    outputs: tuple[str, ...]


def metadata(signature: ModelSignature) -> pb.ModelMetadataResponse:
    """The model's tensors as ModelMetadata tells them; −1 stands for a free size."""
    return pb.ModelMetadataResponse(
        name=signature.name,
        versions=[signature.version],
        platform=PLATFORM,
        inputs=[_tensor_metadata(spec) for spec in signature.inputs],
        outputs=[_tensor_metadata(spec) for spec in signature.outputs],
    )


def _tensor_metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=[-1 if size is None else size for size in spec.shape]
    )
