"""Tensors on the wire: Open Inference Protocol messages, checked against a model, to arrays and back."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from dataplane.datatypes import (
    DATATYPES,
    Array,
    Datatype,
    InvalidRequest,
    from_raw,
    from_typed,
    to_raw,
    to_typed,
)
from protos import inference_pb2 as pb

__all__ = [
    "Array",
    "Decoded",
    "InvalidRequest",
    "ModelSignature",
    "TensorSpec",
    "decode",
    "encode",
    "metadata",
]

# Triton's name for an ONNX model run by ONNX Runtime.
PLATFORM = "onnxruntime_onnx"

# Extensions of Triton's that change what a tensor means: they cannot be ignored, as unknown parameters are.
_REFUSED_PARAMETERS = ("shared_memory_region", "classification")


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
        """The numpy dtype of an element; object, holding str, for BYTES."""
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


def decode(request: pb.ModelInferRequest, signature: ModelSignature) -> Decoded:
    """Check a request against the model and view its contents as arrays, without a further copy if raw.

    Raises InvalidRequest.
    """
    # Raw entries follow the request's order of inputs, arrays the model's.
    positions = _positions([tensor.name for tensor in request.inputs], signature)
    raw = len(request.raw_input_contents) > 0
    if raw and len(request.raw_input_contents) != len(request.inputs):
        raise InvalidRequest(
            f"raw_input_contents: expected one entry for each of {len(request.inputs)} inputs,"
            f" found {len(request.raw_input_contents)}"
        )
    inputs: dict[str, Array] = {}
    for spec in signature.inputs:
        position = positions[spec.name]
        tensor = request.inputs[position]
        shape = _shape(tensor, spec)
        if not raw:
            flat = from_typed(tensor.contents, spec.elements, prod(shape), f"inputs[{spec.name}].contents")
        elif tensor.contents.ListFields():
            raise InvalidRequest(f"inputs[{spec.name}].contents: expected none beside raw_input_contents")
        else:
            # Every access to a bytes field copies it: read it once.
            data = request.raw_input_contents[position]
            flat = from_raw(data, spec.elements, prod(shape), f"raw_input_contents of {spec.name}")
        inputs[spec.name] = flat.reshape(shape)
    return Decoded(
        inputs=inputs,
        rows=_rows(inputs) if signature.batched else 1,
        shape_key=tuple(array.shape[1:] if signature.batched else array.shape for array in inputs.values()),
        raw=raw,
        outputs=_requested_outputs(request.outputs, signature),
    )


def encode(
    outputs: Mapping[str, Array],
    decoded: Decoded,
    signature: ModelSignature,
    request_id: str = "",
    parameters: Mapping[str, bool | int | float | str] | None = None,
) -> pb.ModelInferResponse:
    """Answer a request with the outputs it asked for: raw if it was raw, as tritonclient needs, else typed.

    An output without a typed form (FP16) makes the whole answer raw. Raises KeyError if an output is missing.
    """
    response = pb.ModelInferResponse(
        model_name=signature.name,
        model_version=signature.version,
        id=request_id,
        parameters={key: _parameter(value) for key, value in (parameters or {}).items()},
    )
    specs = {spec.name: spec for spec in signature.outputs}
    raw = decoded.raw or not all(specs[name].elements.typed for name in decoded.outputs)
    for name in decoded.outputs:
        spec, array = specs[name], outputs[name]
        tensor = response.outputs.add(name=name, datatype=spec.datatype, shape=array.shape)
        if raw:
            response.raw_output_contents.append(to_raw(array, spec.elements))
        else:
            tensor.contents.CopyFrom(to_typed(array, spec.elements))
    return response


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


def _positions(names: Sequence[str], signature: ModelSignature) -> dict[str, int]:
    """Where each input of the model stands in the request, which has exactly these."""
    expected = [spec.name for spec in signature.inputs]
    positions: dict[str, int] = {}
    for position, name in enumerate(names):
        if name not in expected:
            raise InvalidRequest(f"inputs: expected {', '.join(expected)}; found {name!r}")
        if name in positions:
            raise InvalidRequest(f"inputs: expected {name} once, found it again")
        positions[name] = position
    missing = [name for name in expected if name not in positions]
    if missing:
        raise InvalidRequest(f"inputs: expected {', '.join(expected)}; missing {', '.join(missing)}")
    return positions


def _shape(tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec) -> tuple[int, ...]:
    """The shape the client states, if it and the datatype are the model's."""
    field = f"inputs[{spec.name}]"
    _refuse_parameters(tensor.parameters, field)
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(f"{field}.datatype: expected {spec.datatype}, found {tensor.datatype!r}")
    shape = tuple(tensor.shape)
    # None is empty: the contents, compared with their product, then bound every dimension.
    if len(shape) != len(spec.shape) or not all(
        size >= 1 and expected in (None, size) for size, expected in zip(shape, spec.shape, strict=True)
    ):
        expected_sizes = ", ".join(">=1" if size is None else str(size) for size in spec.shape)
        raise InvalidRequest(f"{field}.shape: expected [{expected_sizes}], found {list(shape)}")
    return shape


def _rows(inputs: Mapping[str, Array]) -> int:
    rows = {name: len(array) for name, array in inputs.items()}
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{name} has {count}" for name, count in rows.items())
        raise InvalidRequest(f"inputs: expected as many rows in each of them; {found}")
    return max(rows.values())


def _requested_outputs(
    requested: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor], signature: ModelSignature
) -> tuple[str, ...]:
    expected = tuple(spec.name for spec in signature.outputs)
    names: list[str] = []
    for output in requested:
        if output.name not in expected:
            raise InvalidRequest(f"outputs: expected some of {', '.join(expected)}; found {output.name!r}")
        if output.name in names:
            raise InvalidRequest(f"outputs: expected {output.name} once, found it again")
        _refuse_parameters(output.parameters, f"outputs[{output.name}]")
        names.append(output.name)
    return tuple(names) or expected


def _refuse_parameters(parameters: Mapping[str, pb.InferParameter], field: str) -> None:
    for key in _REFUSED_PARAMETERS:
        if key in parameters:
            raise InvalidRequest(f"{field}.parameters: expected no {key}, it is not supported")


def _parameter(value: bool | int | float | str) -> pb.InferParameter:
    match value:
        case bool():
            return pb.InferParameter(bool_param=value)
        case int():
            return pb.InferParameter(int64_param=value)
        case float():
            return pb.InferParameter(double_param=value)
        case str():
            return pb.InferParameter(string_param=value)
