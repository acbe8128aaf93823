"""Elements on the wire: Open Inference Protocol datatypes, raw and typed, to numpy arrays and back.

BYTES stands for ONNX strings, which are UTF-8: such arrays hold `str` objects.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from protos import inference_pb2 as pb

Array = np.ndarray[Any, np.dtype[Any]]

# grpc-message travels in a header; at 8 KiB of headers intermediaries begin to refuse.
_MAX_ERROR_CHARS = 512

# Of a raw input: each takes a turn of a loop, and 16 million empty ones, 64 MiB, held the process up for 20 s.
_MAX_STRINGS = 1 << 18

# Fields whose packed encoding is the elements' memory: those of fixed width, and bool, a varint of one
# byte. They are copied as a whole, where element by element costs some 40 ns each.
_PACKED_AS_IN_MEMORY = ("bool_contents", "fp32_contents", "fp64_contents")


class InvalidRequest(ValueError):
    """A request that does not fit the model; the text tells the client which field, and what was expected."""

    def __init__(self, text: str) -> None:
        super().__init__(text if len(text) <= _MAX_ERROR_CHARS else text[: _MAX_ERROR_CHARS - 3] + "...")


@dataclass(frozen=True, slots=True)
class Datatype:
    """How elements of one type travel.

    `memory` is the dtype of an element, also in raw contents; `typed` the field of InferTensorContents,
    "" where the protocol has none; `wire` that field's own dtype, from which typed values are narrowed.
    """

    name: str
    memory: np.dtype[Any]
    typed: str
    wire: np.dtype[Any]


def _datatype(name: str, memory: str, typed: str, wire: str = "") -> Datatype:
    return Datatype(name, np.dtype(memory), typed, np.dtype(wire or memory))


BOOL = _datatype("BOOL", "?", "bool_contents")
BYTES = _datatype("BYTES", "O", "bytes_contents")

# By name.
DATATYPES = {
    datatype.name: datatype
    for datatype in (
        BOOL,
        _datatype("INT8", "<i1", "int_contents", "<i4"),
        _datatype("INT16", "<i2", "int_contents", "<i4"),
        _datatype("INT32", "<i4", "int_contents"),
        _datatype("INT64", "<i8", "int64_contents"),
        _datatype("UINT8", "<u1", "uint_contents", "<u4"),
        _datatype("UINT16", "<u2", "uint_contents", "<u4"),
        _datatype("UINT32", "<u4", "uint_contents"),
        _datatype("UINT64", "<u8", "uint64_contents"),
        _datatype("FP16", "<f2", ""),
        # Numpy has no such dtype: the bits.
        _datatype("BF16", "<u2", ""),
        _datatype("FP32", "<f4", "fp32_contents"),
        _datatype("FP64", "<f8", "fp64_contents"),
        BYTES,
    )
}


def from_raw(data: bytes | memoryview, datatype: Datatype, shape: tuple[int, ...], field: str) -> Array:
    """One raw entry in a shape of sizes above 0; a read-only view, unless it is BYTES or not aligned.

    Raises InvalidRequest, naming `field`.
    """
    count = prod(shape)
    if datatype is BYTES:
        return _strings(_split(data, count, field), shape, field)
    expected = count * datatype.memory.itemsize
    if len(data) != expected:
        raise InvalidRequest(
            f"{field}: expected {expected} bytes for {count} elements of {datatype.name}, found {len(data)}"
        )
    array: Array = np.ndarray(shape, datatype.memory, data)
    # A bool that is neither is undefined behaviour to whoever computes with it.
    if datatype is BOOL and array.view(np.uint8).max() > 1:
        raise InvalidRequest(f"{field}: expected every byte of BOOL to be 0 or 1")
    return array if array.flags.aligned else array.copy()


def from_typed(
    contents: pb.InferTensorContents, datatype: Datatype, shape: tuple[int, ...], field: str
) -> Array:
    """Copy typed contents into a shape of sizes above 0.

    Raises InvalidRequest, naming `field`: the elements in another field than the datatype's, too many, too
    few, or out of its range.
    """
    if not datatype.typed:
        raise InvalidRequest(f"{field}: expected {datatype.name} in raw_input_contents, it has no typed form")
    for descriptor, _ in contents.ListFields():
        if descriptor.name != datatype.typed:
            raise InvalidRequest(
                f"{field}: expected {datatype.name} in {datatype.typed}, found {descriptor.name}"
            )
    field = f"{field}.{datatype.typed}"
    values = getattr(contents, datatype.typed)
    count = prod(shape)
    if len(values) != count:
        raise InvalidRequest(f"{field}: expected {count} elements for the shape, found {len(values)}")
    if datatype is BYTES:
        return _strings(values, shape, field)
    if datatype.typed in _PACKED_AS_IN_MEMORY:
        # With this one field set the message is a tag, a length, and the elements. The copy aligns them.
        contents.DiscardUnknownFields()
        message = contents.SerializeToString()
        elements = message[len(message) - count * datatype.memory.itemsize :]
        return np.ndarray(shape, datatype.memory, elements)
    array = np.fromiter(values, datatype.wire, count).reshape(shape)
    if datatype.wire == datatype.memory:
        return array
    limits = np.iinfo(datatype.memory)
    if array.min() < limits.min or array.max() > limits.max:
        raise InvalidRequest(
            f"{field}: expected {datatype.name}, {limits.min} to {limits.max},"
            f" found values from {array.min()} to {array.max()}"
        )
    return array.astype(datatype.memory)


def to_raw(array: Array, datatype: Datatype) -> bytes | memoryview:
    """Elements in row-major order, little-endian, viewed where they are so already; BYTES each led by its
    length in 4 bytes.
    """
    if datatype is not BYTES:
        return np.asarray(array, datatype.memory, order="C").data
    elements = [element.encode() for element in array.flat]
    return b"".join(part for element in elements for part in (struct.pack("<I", len(element)), element))


def to_typed(array: Array, datatype: Datatype, contents: pb.InferTensorContents) -> None:
    """Fill empty contents with the elements in row-major order. Raises ValueError where there is no typed form."""
    if not datatype.typed:
        raise ValueError(f"{datatype.name} has no typed form")
    if datatype is BYTES:
        contents.bytes_contents.extend(element.encode() for element in array.flat)
    elif datatype.typed in _PACKED_AS_IN_MEMORY:
        number = contents.DESCRIPTOR.fields_by_name[datatype.typed].number
        contents.MergeFromString(b"".join(led(number, to_raw(array, datatype))))
    else:
        getattr(contents, datatype.typed).extend(array.ravel().tolist())


def led(number: int, data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """The wire form of protobuf field `number`, below 16, that holds `data`: in two parts, as that may be large."""
    length = data.nbytes if isinstance(data, memoryview) else len(data)
    # Wire type 2: a length, and so many bytes.
    return bytes([number << 3 | 2]) + _varint(length), data


def _split(data: bytes | memoryview, count: int, field: str) -> list[bytes | memoryview]:
    """Elements of BYTES in raw form."""
    if count > _MAX_STRINGS:
        raise InvalidRequest(f"{field}: expected at most {_MAX_STRINGS} elements of BYTES, found {count}")
    elements: list[bytes | memoryview] = []
    start = 0
    while len(elements) < count and start + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, start)
        end = start + 4 + length
        if end > len(data):
            break
        elements.append(data[start + 4 : end])
        start = end
    if start != len(data) or len(elements) != count:
        raise InvalidRequest(
            f"{field}: expected {count} elements of BYTES, each a 4-byte little-endian length and its data;"
            f" found {len(elements)} and {len(data) - start} bytes more"
        )
    return elements


def _strings(elements: Sequence[bytes | memoryview], shape: tuple[int, ...], field: str) -> Array:
    array = np.empty(len(elements), object)
    try:
        array[:] = [str(element, "utf-8") for element in elements]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{field}: expected UTF-8 in every element of BYTES") from error
    return array.reshape(shape)


def _varint(value: int) -> bytes:
    """Protobuf's base-128 encoding of a non-negative integer."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
