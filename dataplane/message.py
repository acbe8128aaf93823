"""The body of a ModelInferRequest: what is small is parsed, raw contents are left where they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from dataplane.datatypes import InvalidRequest
from protos import inference_pb2 as pb

# Protobuf takes up to 44 bytes of memory, and 0.3 µs, for two bytes of a message: 64 MiB of nothing but empty
# inputs were 2.8 GiB and stopped the process for 20 s. No valid request comes near these.
_SMALL_BYTES = 64 << 10
_MAX_FIELDS = 4096

_RAW_INPUT = pb.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number << 3 | 2

# Bytes of protobuf's wire types of fixed width.
_WIDTH = {1: 8, 5: 4}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request, and its raw_input_contents: those of a large one are views, and missing in `message`."""

    message: pb.ModelInferRequest
    contents: Sequence[bytes | memoryview]


def parse(body: bytes, max_typed_bytes: int) -> Parsed:
    """Everything but raw contents may have so many bytes. Raises InvalidRequest."""
    cut: list[memoryview] = []
    if len(body) > _SMALL_BYTES:
        body, cut = _cut_raw(body)
        if len(body) > max_typed_bytes:
            raise InvalidRequest(
                f"request: expected at most {max_typed_bytes} bytes besides raw_input_contents"
                f" (server.max_typed_mib), found {len(body)}"
            )
    try:
        message = pb.ModelInferRequest.FromString(body)
    except DecodeError as error:
        raise InvalidRequest("request: expected a ModelInferRequest") from error
    contents = message.raw_input_contents
    return Parsed(message, [*cut, *contents] if cut else contents)


def _cut_raw(body: bytes) -> tuple[bytes, list[memoryview]]:
    """The message without raw contents, and these; from whatever is not plain on the message is left as it is."""
    view = memoryview(body)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    end = kept = 0
    try:
        for _ in range(_MAX_FIELDS):
            if end == len(body):
                break
            start = end
            tag, at = _varint(body, start)
            length = 0
            if tag & 7 == 2:
                length, at = _varint(body, at)
            elif tag & 7 == 0:
                _, at = _varint(body, at)
            else:
                length = _WIDTH[tag & 7]
            if at + length > len(body):
                break
            end = at + length
            if tag == _RAW_INPUT:
                rest.append(view[kept:start])
                raw.append(view[at:end])
                kept = end
    except (IndexError, KeyError):
        pass  # It ends within a number, or a group begins: for protobuf to judge.
    rest.append(view[kept:])
    return b"".join(rest), raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The base-128 number at this place, and where it ends; IndexError if it does not."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
