import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane import message
from dataplane.datatypes import DATATYPES, InvalidRequest, from_raw
from protos import inference_pb2 as pb

LARGE = bytes(100_000)
MIB = 1 << 20


def request(*raw, **fields):
    return pb.ModelInferRequest(model_name="m", raw_input_contents=raw, **fields)


def parse(body, max_typed_bytes):
    parsed = message.parse(body, max_typed_bytes)
    return parsed.message, parsed.contents


def test_small_ones_are_parsed():
    asked = request(b"ab", b"", id="7")
    parsed, contents = parse(asked.SerializeToString(), MIB)
    assert parsed == asked
    assert list(contents) == [b"ab", b""]


def test_contents_of_large_ones_are_views():
    body = request(LARGE, b"", b"ab", id="7").SerializeToString()
    parsed, contents = parse(body, 100)
    assert parsed == pb.ModelInferRequest(model_name="m", id="7")
    assert [bytes(each) for each in contents] == [LARGE, b"", b"ab"]
    assert all(each.obj is body for each in contents)


def test_fields_in_any_order():
    parts = [
        pb.ModelInferRequest(raw_input_contents=[LARGE]),
        pb.ModelInferRequest(inputs=[{"name": "x", "shape": [1, 2]}]),
        pb.ModelInferRequest(raw_input_contents=[b"second"]),
        pb.ModelInferRequest(id="7"),
    ]
    parsed, contents = parse(b"".join(part.SerializeToString() for part in parts), 100)
    assert parsed == pb.ModelInferRequest(id="7", inputs=[{"name": "x", "shape": [1, 2]}])
    assert [bytes(each) for each in contents] == [LARGE, b"second"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x2a\x00" * MIB, id="inputs"),
        pytest.param(b"\x3a\x00" * MIB, id="raw contents"),
        pytest.param(b"\x22\x00" * MIB, id="parameters"),
        pytest.param(b"\x78\x00" * MIB, id="unknown fields"),
        pytest.param(request(inputs=[{"shape": [1] * 2 * MIB}]).SerializeToString(), id="shape"),
    ],
)
def test_what_would_take_much_memory_is_refused(body):
    with pytest.raises(
        InvalidRequest, match=r"^request: expected at most 1048576 bytes besides raw_input_contents"
    ):
        parse(body, MIB)


@pytest.mark.parametrize(
    "body", [b"\xff", b"\x0a\x02\xff\xfe", b"\x2a\x05ab", LARGE, b"\x3a\xff" + LARGE[:126]]
)
def test_what_is_no_message(body):
    with pytest.raises(InvalidRequest, match=r"^request: expected a ModelInferRequest$"):
        parse(body, MIB)


def test_groups_are_left_to_protobuf():
    """Nobody sends them, but they are allowed; what is within one is not ours."""
    group = b"\x7b\x3a\x01a\x7c"
    body = b"".join([request(LARGE).SerializeToString(), group, request(b"after").SerializeToString()])
    parsed, contents = parse(body, 1000)
    assert [bytes(each) for each in contents] == [LARGE, b"after"]
    assert parsed.model_name == "m"


FIELDS = st.one_of(
    st.builds(request, st.binary(max_size=300)).map(pb.ModelInferRequest.SerializeToString),
    st.just(pb.ModelInferRequest(inputs=[{"name": "x", "shape": [1, 300]}]).SerializeToString()),
    st.sampled_from([b"\x7d1234", b"\x7912345678", b"\x78\xff\x01", b"\x7b\x78\x01\x7c", b"\xba\x00\x01a"]),
    st.binary(max_size=6),
)


@given(st.lists(FIELDS, max_size=8), st.integers(0, 50))
def test_cutting_changes_nothing(fields, cut):
    """Whatever protobuf makes of a body it makes of what is left of it, with what was cut out of it."""
    body = b"".join(fields)
    body = body[: len(body) - cut]
    rest, raw = message._cut_raw(body)
    try:
        expected = pb.ModelInferRequest.FromString(body)
    except message.DecodeError:
        with pytest.raises(message.DecodeError):
            pb.ModelInferRequest.FromString(rest)
        return
    parsed = pb.ModelInferRequest.FromString(rest)
    contents = [*map(bytes, raw), *parsed.raw_input_contents]
    assert contents == list(expected.raw_input_contents)
    for each in (parsed, expected):
        del each.raw_input_contents[:]
    assert parsed.SerializeToString() == expected.SerializeToString()


def test_views_of_any_alignment_become_aligned_arrays():
    numbers = np.arange(4, dtype=np.float64)
    for offset in range(8):
        view = memoryview(bytes(offset) + numbers.tobytes())[offset:]
        array = from_raw(view, DATATYPES["FP64"], (2, 2), "x")
        assert array.flags.aligned
        assert array.ravel().tolist() == [0, 1, 2, 3]
