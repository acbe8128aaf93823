"""Requests of the Open Inference Protocol, checked against a model, to arrays; and arrays to answers."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

from dataplane.datatypes import InvalidRequest, from_raw, from_typed, led, to_raw, to_typed
from dataplane.message import Parsed
from dataplane.tensors import Array, Decoded, ModelSignature, TensorSpec
from protos import inference_pb2 as pb

# Extensions of Triton's that change what a tensor means: they cannot be ignored, as unknown parameters are.
_REFUSED_PARAMETERS = ("shared_memory_region", "classification")

# Of a name that is not the model's, in a refusal.
_SHOWN_CHARS = 100
# Of a shape.
_SHOWN_SIZES = 10

_RAW_OUTPUT = pb.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number


class Codec:
    """Decodes and encodes for one model; what its signature fixes is worked out once.

    A request may have at most `max_rows` rows.
    """

    def __init__(self, signature: ModelSignature, max_rows: int) -> None:
        self._signature = signature
        self._max_rows = max_rows
        self._names = [spec.name for spec in signature.inputs]
        self._outputs = {spec.name: spec for spec in signature.outputs}
        self._all_outputs = tuple(self._outputs)
        self._raw_only = frozenset(spec.name for spec in signature.outputs if not spec.elements.typed)

    def decode(self, parsed: Parsed) -> Decoded:
        """Check a request against the model and view its raw contents as arrays; typed ones are copied.

        Raises InvalidRequest. What a client may make long is looked at only as far as a valid request has it.
        """
        request, contents = parsed.message, parsed.contents
        # One more than expected is one too many or a second one: enough to tell.
        tensors = request.inputs[: len(self._names) + 1]
        raw = len(contents) > 0
        # Raw entries follow the request's order of inputs, arrays the model's.
        names = [tensor.name for tensor in tensors]
        positions = range(len(names)) if names == self._names else self._positions(names)
        if raw and len(contents) != len(tensors):
            raise InvalidRequest(
                f"raw_input_contents: expected one entry for each of {len(tensors)} inputs,"
                f" found {len(contents)}"
            )
        specs = self._signature.inputs
        shapes = [_shape(tensors[at], spec) for at, spec in zip(positions, specs, strict=True)]
        rows = self._rows(shapes) if self._signature.batched else 1
        outputs = self._requested(request.outputs) if request.outputs else self._all_outputs
        inputs: dict[str, Array] = {}
        for at, spec, shape in zip(positions, specs, shapes, strict=True):
            if raw:
                _expect_no_typed(tensors[at], spec)
                # Every access to a bytes field copies it: it is read once, here.
                array = from_raw(contents[at], spec.elements, shape, f"raw_input_contents of {spec.name}")
            else:
                field = f"inputs[{spec.name}].contents"
                array = from_typed(tensors[at].contents, spec.elements, shape, field)
            inputs[spec.name] = array
        return Decoded(
            inputs=inputs,
            rows=rows,
            shape_key=tuple([shape[1:] for shape in shapes] if self._signature.batched else shapes),
            raw=raw,
            outputs=outputs,
        )

    def encode(
        self,
        outputs: Mapping[str, Array],
        decoded: Decoded,
        request_id: str = "",
        parameters: Mapping[str, int] = {},
    ) -> bytes:
        """The ModelInferResponse to a request, serialised, with the outputs it asked for.

        Raw if the request was, as tritonclient needs, else typed; an output without a typed form (FP16, BF16)
        makes the whole answer raw. Raises KeyError if an output is missing.
        """
        response = pb.ModelInferResponse(
            model_name=self._signature.name, model_version=self._signature.version, id=request_id
        )
        for key, value in parameters.items():
            response.parameters[key].int64_param = value
        raw = decoded.raw or not self._raw_only.isdisjoint(decoded.outputs)
        contents: list[bytes | memoryview] = []
        for name in decoded.outputs:
            spec, array = self._outputs[name], outputs[name]
            tensor = response.outputs.add(name=name, datatype=spec.datatype, shape=array.shape)
            if raw:
                contents += led(_RAW_OUTPUT, to_raw(array, spec.elements))
            else:
                to_typed(array, spec.elements, tensor.contents)
        # Raw contents are the last field of a response: appended here, they are copied once and not three times,
        # which saves 0.2 ms for 600 KB.
        return b"".join((response.SerializeToString(), *contents))

    def _positions(self, names: Sequence[str]) -> list[int]:
        """Where each input of the model stands in the request, which has exactly these."""
        positions: dict[str, int] = {}
        for position, name in enumerate(names):
            if name not in self._names:
                raise InvalidRequest(
                    f"inputs: expected {', '.join(self._names)}; found {name[:_SHOWN_CHARS]!r}"
                )
            if name in positions:
                raise InvalidRequest(f"inputs: expected {name} once, found it again")
            positions[name] = position
        missing = [name for name in self._names if name not in positions]
        if missing:
            raise InvalidRequest(f"inputs: expected {', '.join(self._names)}; missing {', '.join(missing)}")
        return [positions[name] for name in self._names]

    def _rows(self, shapes: Sequence[tuple[int, ...]]) -> int:
        rows = shapes[0][0]
        for shape in shapes:
            if shape[0] != rows:
                pairs = zip(self._names, shapes, strict=True)
                found = ", ".join(f"{name} has {shape[0]}" for name, shape in pairs)
                raise InvalidRequest(f"inputs: expected as many rows in each of them; {found}")
        if rows > self._max_rows:
            raise InvalidRequest(
                f"inputs: expected at most {self._max_rows} rows (engine.max_batch), found {rows}"
            )
        return rows

    def _requested(
        self, requested: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor]
    ) -> tuple[str, ...]:
        names: list[str] = []
        for output in requested:
            if output.name not in self._outputs:
                raise InvalidRequest(
                    f"outputs: expected some of {', '.join(self._outputs)}; found {output.name[:_SHOWN_CHARS]!r}"
                )
            if output.name in names:
                raise InvalidRequest(f"outputs: expected {output.name} once, found it again")
            _refuse_parameters(output.parameters, f"outputs[{output.name}]")
            names.append(output.name)
        return tuple(names)


def _shape(tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec) -> tuple[int, ...]:
    """The shape the client states, if it and the datatype are the model's."""
    if tensor.parameters:
        _refuse_parameters(tensor.parameters, f"inputs[{spec.name}]")
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(
            f"inputs[{spec.name}].datatype: expected {spec.datatype}, found {tensor.datatype[:_SHOWN_CHARS]!r}"
        )
    stated = tensor.shape
    if len(stated) != len(spec.shape):
        _refuse_shape(stated, spec)
    shape = tuple(stated)
    # None is empty: the contents, compared with their product, then bound every dimension.
    for size, expected in zip(shape, spec.shape, strict=True):
        if size < 1 or (expected is not None and size != expected):
            _refuse_shape(shape, spec)
    return shape


def _refuse_shape(shape: Sequence[int], spec: TensorSpec) -> NoReturn:
    expected = ", ".join(">=1" if size is None else str(size) for size in spec.shape)
    found = ", ".join([*map(str, shape[:_SHOWN_SIZES]), *["..."][: len(shape) - _SHOWN_SIZES]])
    raise InvalidRequest(f"inputs[{spec.name}].shape: expected [{expected}], found [{found}]")


def _expect_no_typed(tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec) -> None:
    if tensor.HasField("contents") and tensor.contents.ListFields():
        raise InvalidRequest(f"inputs[{spec.name}].contents: expected none beside raw_input_contents")


def _refuse_parameters(parameters: Mapping[str, pb.InferParameter], field: str) -> None:
    for key in _REFUSED_PARAMETERS:
        if key in parameters:
            raise InvalidRequest(f"{field}.parameters: expected no {key}, it is not supported")
