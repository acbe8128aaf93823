"""Bodies of ModelInfer calls: valid requests, then changed in what they say, then in their bytes."""

import random
import struct
from collections.abc import Callable, Sequence

from dataplane.datatypes import BYTES, DATATYPES
from dataplane.tensors import ModelSignature, TensorSpec
from protos import inference_pb2 as pb

Request = pb.ModelInferRequest

MAX_ROWS = 8

SIZES = (0, 1, 2, 3, MAX_ROWS, MAX_ROWS + 1, -1, -(2**31), -(2**63), 2**31, 2**32, 2**62, 2**63 - 1)
INTEGERS = (0, 1, -1, 255, 256, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
DOUBLES = (
    0.0,
    -1.0,
    0.5,
    1e-300,
    5e-324,
    1e15,
    1e300,
    1.7e308,
    -1.7e308,
    float("inf"),
    float("-inf"),
    float("nan"),
)
NAMES = (
    "",
    "x",
    "X",
    "y",
    "ids",
    "weights",
    "score",
    "é" * 40,
    "x" * 5000,
    "x\0",
    "../../etc",
    "%s%n",
    "inputs[x]",
)
TIMES = ("slo_ms", "sent_unix_ms", "timeout", "grace_ms", "priority")
PARAMETERS = (*TIMES, "shared_memory_region", "classification", "binary_data_output", "")
# The last three are wrong.
DATATYPE_NAMES = (*DATATYPES, "", "fp32", "FP8" * 100)

_TYPED = tuple(dict.fromkeys(datatype.typed for datatype in DATATYPES.values() if datatype.typed))


def identity(
    datatype: str, shape: tuple[int | None, ...] = (None, None), batched: bool = True
) -> ModelSignature:
    """Of a model that gives back its only tensor."""
    spec = TensorSpec("x", datatype, shape)
    return ModelSignature("m", "1", (spec,), (spec,), batched)


SIGNATURES = (
    *(identity(datatype) for datatype in DATATYPES),
    identity("FP32", batched=False),
    identity("INT64", (None, 3)),
    identity("BYTES", (None,)),
    identity("FP32", (), batched=False),
    ModelSignature(
        "m",
        "1",
        inputs=(TensorSpec("ids", "INT64", (None, None)), TensorSpec("weights", "FP32", (None, 2))),
        outputs=(TensorSpec("score", "FP32", (None,)), TensorSpec("sign", "BYTES", (None,))),
        batched=True,
    ),
)


class Bodies:
    """An endless supply, the same for the same seed."""

    def __init__(self, seed: int, signatures: Sequence[ModelSignature] = SIGNATURES) -> None:
        self._random = random.Random(seed)
        self._signatures = signatures
        self._kept = [b""]  # to splice with

    def next(self) -> tuple[bytes, ModelSignature]:
        """A body, and the model that it was meant for before it was changed."""
        dice = self._random
        signature = dice.choice(self._signatures)
        request = valid(dice, signature)
        for _ in range(int(dice.expovariate(0.7))):
            dice.choice(_CHANGES)(dice, request)
        body = request.SerializeToString()
        if dice.random() < 0.3:
            for _ in range(1 + int(dice.expovariate(1.0))):
                body = self._disturb(body)
        if len(body) < 4096:
            self._keep(body)
        return body, signature

    def _keep(self, body: bytes) -> None:
        if len(self._kept) < 64:
            self._kept.append(body)
        else:
            self._kept[self._random.randrange(64)] = body

    def _disturb(self, body: bytes) -> bytes:
        dice = self._random
        at = dice.randrange(len(body) + 1)
        match dice.randrange(8):
            case 0:
                return body[:at]
            case 1:
                return body[:at] + dice.choice(self._kept)[dice.randrange(64) :]
            case 2:
                return body[:at] + dice.randbytes(dice.randrange(1, 9)) + body[at:]
            case 3:
                return body[:at] + body[at + dice.randrange(1, 9) :]
            case 4:
                return body[:at] + body[max(0, at - dice.randrange(64)) :]
            case 5:  # a length or number that is huge
                return body[:at] + b"\xff" * dice.randrange(1, 11) + b"\x7f" + body[at:]
            case 6:  # a field of any number and wire type
                return body[:at] + bytes([dice.randrange(256), dice.randrange(4)]) + body[at:]
            case _:
                changed = bytearray(body)
                for _ in range(dice.randrange(1, 4)):
                    if changed:
                        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
                return bytes(changed)


def valid(dice: random.Random, signature: ModelSignature) -> Request:
    """A request that is answered."""
    request = Request(model_name=signature.name, model_version=dice.choice(("", signature.version)))
    rows = dice.choice((1, 1, 2, MAX_ROWS))
    raw = dice.random() < 0.6 or any(not spec.elements.typed for spec in signature.inputs)
    for spec in signature.inputs:
        shape = [dice.randrange(1, 4) if size is None else size for size in spec.shape]
        if signature.batched:
            shape[0] = rows
        count = 1
        for size in shape:
            count *= size
        tensor = request.inputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
        if raw:
            request.raw_input_contents.append(_raw(dice, spec, count))
        else:
            _fill(dice, tensor.contents, spec.elements.typed, count)
    if len(signature.inputs) > 1 and dice.random() < 0.3:
        _swap(request)
    return request


def _raw(dice: random.Random, spec: TensorSpec, count: int) -> bytes:
    if spec.elements is BYTES:
        elements = [dice.choice((b"", b"a", "é".encode(), b"a\0b", b"\n" * 40)) for _ in range(count)]
        return b"".join(struct.pack("<I", len(element)) + element for element in elements)
    size = count * spec.dtype.itemsize
    if spec.datatype == "BOOL":
        return bytes(dice.choices((0, 1), k=size))
    # All ones is NaN to floats, −1 to integers.
    return dice.choice((bytes(size), b"\xff" * size, dice.randbytes(size)))


def _fill(dice: random.Random, contents: pb.InferTensorContents, field: str, count: int) -> None:
    values: Sequence[object]
    match field:
        case "bool_contents":
            values = dice.choices((False, True), k=count)
        case "int_contents":
            values = dice.choices((0, 1, -1, 127), k=count)
        case "uint_contents":
            values = dice.choices((0, 1, 255), k=count)
        case "int64_contents":
            values = dice.choices(INTEGERS, k=count)
        case "uint64_contents":
            values = dice.choices((0, 1, 2**64 - 1), k=count)
        case "bytes_contents":
            values = dice.choices((b"", b"a", "é".encode(), b"a\0b"), k=count)
        case _:
            values = dice.choices((0.0, -0.0, 1.5, float("nan"), float("inf"), 1e-40), k=count)
    getattr(contents, field).extend(values)


def _swap(request: Request) -> None:
    """Inputs in another order than the model's."""
    first = Request.InferInputTensor()
    first.CopyFrom(request.inputs[0])
    request.inputs[0].CopyFrom(request.inputs[1])
    request.inputs[1].CopyFrom(first)
    if len(request.raw_input_contents) > 1:
        request.raw_input_contents[:2] = request.raw_input_contents[1::-1]


def _parameter(dice: random.Random, parameter: pb.InferParameter) -> None:
    match dice.randrange(6):
        case 0:
            parameter.int64_param = dice.choice(INTEGERS)
        case 1:
            parameter.uint64_param = dice.choice((0, 1, 2**64 - 1))
        case 2:
            parameter.double_param = dice.choice(DOUBLES)
        case 3:
            parameter.string_param = dice.choice(NAMES)
        case 4:
            parameter.bool_param = True
        case _:
            pass  # of no kind


def _change_size(dice: random.Random, request: Request) -> None:
    for tensor in request.inputs:
        if tensor.shape:
            tensor.shape[dice.randrange(len(tensor.shape))] = dice.choice(SIZES)


def _change_rank(dice: random.Random, request: Request) -> None:
    for tensor in request.inputs:
        if dice.random() < 0.5:
            tensor.shape.extend(dice.choice((SIZES[1:2], SIZES[:3], SIZES * 10)))
        elif tensor.shape:
            tensor.shape.pop()


def _change_datatype(dice: random.Random, request: Request) -> None:
    for tensor in request.inputs:
        tensor.datatype = dice.choice(DATATYPE_NAMES)


def _rename(dice: random.Random, request: Request) -> None:
    for tensor in request.inputs:
        if dice.random() < 0.7:
            tensor.name = dice.choice(NAMES)


def _add_input(dice: random.Random, request: Request) -> None:
    for _ in range(dice.choice((1, 1, 2, 50))):
        request.inputs.add(name=dice.choice(NAMES), datatype=dice.choice(DATATYPE_NAMES), shape=[1, 1])


def _repeat_inputs(dice: random.Random, request: Request) -> None:
    for _ in range(dice.choice((1, 1, 4))):
        request.MergeFrom(Request(inputs=request.inputs))


def _remove_input(dice: random.Random, request: Request) -> None:
    if request.inputs:
        del request.inputs[dice.randrange(len(request.inputs))]


def _change_raw(dice: random.Random, request: Request) -> None:
    contents = request.raw_input_contents
    match dice.randrange(6):
        case 0:
            contents.append(b"")
        case 1:
            contents.append(dice.randbytes(dice.randrange(64)))
        case 2:
            del contents[:]
        case 3 if contents:
            contents[0] = contents[0][:-1]
        case 4 if contents:
            contents[-1] += b"\xff"
        case 5 if contents:
            contents[0] = dice.randbytes(len(contents[0]))


def _add_contents(dice: random.Random, request: Request) -> None:
    for tensor in request.inputs:
        _fill(dice, tensor.contents, dice.choice(_TYPED), dice.randrange(4))


def _change_contents(dice: random.Random, request: Request) -> None:
    for tensor in request.inputs:
        contents = tensor.contents
        contents.int_contents.extend(dice.choices((128, -129, 2**31 - 1, 0), k=len(contents.int_contents)))
        contents.uint_contents.extend(dice.choices((256, 2**32 - 1, 0), k=len(contents.uint_contents)))
        contents.bytes_contents.extend([b"\xff", b"\xed\xa0\x80"][: len(contents.bytes_contents)])


def _add_tensor_parameters(dice: random.Random, request: Request) -> None:
    for tensor in (*request.inputs, *request.outputs):
        _parameter(dice, tensor.parameters[dice.choice(PARAMETERS)])


def _add_outputs(dice: random.Random, request: Request) -> None:
    for _ in range(dice.choice((1, 1, 2, 50))):
        request.outputs.add(name=dice.choice(NAMES))


def _add_parameters(dice: random.Random, request: Request) -> None:
    for _ in range(dice.randrange(1, 4)):
        _parameter(dice, request.parameters[dice.choice(PARAMETERS)])


def _add_time(dice: random.Random, request: Request) -> None:
    request.parameters[dice.choice(TIMES)].double_param = dice.choice(DOUBLES)


def _change_model(dice: random.Random, request: Request) -> None:
    request.model_name = dice.choice(("m", *NAMES))
    request.model_version = dice.choice(("", "1", "2", *NAMES))


def _change_id(dice: random.Random, request: Request) -> None:
    request.id = dice.choice(NAMES)


def _enlarge(dice: random.Random, request: Request) -> None:
    """Rarely, as it takes time: raw contents of a large message are not parsed."""
    if dice.random() < 0.05:
        request.raw_input_contents.append(bytes(70_000))


_CHANGES: tuple[Callable[[random.Random, Request], None], ...] = (
    _change_size,
    _change_rank,
    _change_datatype,
    _rename,
    _add_input,
    _repeat_inputs,
    _remove_input,
    _change_raw,
    _add_contents,
    _change_contents,
    _add_tensor_parameters,
    _add_outputs,
    _add_parameters,
    _add_time,
    _change_model,
    _change_id,
    _enlarge,
)
