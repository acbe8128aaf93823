import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dataplane.codec import Codec
from dataplane.datatypes import InvalidRequest
from dataplane.message import parse
from dataplane.tensors import ModelSignature, TensorSpec
from protos import inference_pb2 as pb

MAX_ROWS = 8
RAW_ONLY = ("FP16", "BF16")

TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

PAIR = ModelSignature(
    "pair",
    "3",
    inputs=(TensorSpec("ids", "INT64", (None, None)), TensorSpec("weights", "FP32", (None, 2))),
    outputs=(TensorSpec("score", "FP32", (None,)), TensorSpec("sign", "BYTES", (None,))),
    batched=True,
)


def identity(datatype, *, shape=(None, None), batched=True):
    """The signature of a model that gives back its only tensor."""
    return ModelSignature(
        "identity", "1", (TensorSpec("x", datatype, shape),), (TensorSpec("x", datatype, shape),), batched
    )


def decode(asked, signature):
    """As a server does it."""
    return Codec(signature, MAX_ROWS).decode(parse(asked.SerializeToString(), 1 << 20))


def encode(outputs, decoded, signature, *rest):
    """As a client reads it."""
    return pb.ModelInferResponse.FromString(Codec(signature, MAX_ROWS).encode(outputs, decoded, *rest))


def tensor(name, datatype, shape, **contents):
    return pb.ModelInferRequest.InferInputTensor(
        name=name,
        datatype=datatype,
        shape=shape,
        contents=pb.InferTensorContents(**contents) if contents else None,
    )


def request(*tensors, raw=(), outputs=()):
    return pb.ModelInferRequest(
        inputs=tensors,
        raw_input_contents=raw,
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
    )


def pair(rows=2, **changes):
    """A valid raw request to PAIR."""
    fields = {
        "raw": [np.arange(rows * 3).tobytes(), np.ones((rows, 2), np.float32).tobytes()],
        "outputs": (),
        **changes,
    }
    return request(tensor("ids", "INT64", [rows, 3]), tensor("weights", "FP32", [rows, 2]), **fields)


def elements(datatype):
    """Non-empty arrays of two dimensions."""
    shapes = arrays.array_shapes(min_dims=2, max_dims=2, max_side=4)
    if datatype == "BYTES":
        return arrays.arrays(object, shapes, elements=st.text(max_size=5))
    return arrays.arrays(TensorSpec("x", datatype, ()).dtype, shapes)


def as_request(response):
    """An answer, asked again."""
    return request(
        *(
            pb.ModelInferRequest.InferInputTensor(
                name=output.name,
                datatype=output.datatype,
                shape=output.shape,
                contents=output.contents if output.HasField("contents") else None,
            )
            for output in response.outputs
        ),
        raw=response.raw_output_contents,
    )


class TestRoundTrip:
    @pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
    @pytest.mark.parametrize("datatype", [*TYPED, *RAW_ONLY])
    @settings(max_examples=30)
    @given(data=st.data())
    def test_what_is_encoded_decodes_to_the_same(self, datatype, raw, data):
        signature = identity(datatype)
        array = data.draw(elements(datatype))
        asked = replace(decode(pair(), PAIR), raw=raw, outputs=("x",))
        response = encode({"x": array}, asked, signature)
        assert bool(response.raw_output_contents) == (raw or datatype in RAW_ONLY)
        decoded = decode(as_request(response), signature)
        assert decoded.raw == bool(response.raw_output_contents)
        assert decoded.rows == len(array)
        assert decoded.inputs["x"].dtype == array.dtype
        np.testing.assert_array_equal(decoded.inputs["x"], array)

    @pytest.mark.parametrize("datatype", ["FP32", "FP64", "BOOL"])
    @settings(max_examples=30)
    @given(data=st.data())
    def test_packed_fields_hold_what_element_by_element_would(self, datatype, data):
        array = data.draw(elements(datatype))
        asked = replace(decode(pair(), PAIR), raw=False, outputs=("x",))
        contents = encode({"x": array}, asked, identity(datatype)).outputs[0].contents
        plain = pb.InferTensorContents(**{TYPED[datatype]: array.ravel().tolist()})
        assert contents.SerializeToString() == plain.SerializeToString()

    @pytest.mark.parametrize("shape", [(), (3,), (2, 1, 2)])
    def test_any_rank(self, shape):
        array = np.ones(shape, np.float32)
        decoded = decode(
            request(tensor("x", "FP32", shape), raw=[array.tobytes()]),
            identity("FP32", shape=shape, batched=False),
        )
        assert decoded.inputs["x"].shape == shape


class TestDecode:
    def test_raw_is_viewed(self):
        decoded = decode(pair(), PAIR)
        assert not decoded.inputs["ids"].flags.owndata
        assert decoded.inputs["ids"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert (decoded.rows, decoded.raw, decoded.outputs) == (2, True, ("score", "sign"))

    def test_raw_entries_follow_the_requests_order(self):
        swapped = request(
            tensor("weights", "FP32", [1, 2]),
            tensor("ids", "INT64", [1, 1]),
            raw=[np.float32([5, 6]).tobytes(), np.int64([7]).tobytes()],
        )
        decoded = decode(swapped, PAIR)
        assert list(decoded.inputs) == ["ids", "weights"]
        assert decoded.inputs["ids"].tolist() == [[7]]
        assert decoded.inputs["weights"].tolist() == [[5, 6]]

    def test_shape_key_leaves_rows_out(self):
        def key(rows, length):
            ids = np.zeros((rows, length), np.int64)
            weights = np.zeros((rows, 2), np.float32)
            raw = [ids.tobytes(), weights.tobytes()]
            tensors = tensor("ids", "INT64", ids.shape), tensor("weights", "FP32", weights.shape)
            return decode(request(*tensors, raw=raw), PAIR).shape_key

        assert key(1, 3) == key(2, 3)
        assert key(1, 3) != key(1, 4)
        assert hash(key(1, 3)) == hash(key(2, 3))

    def test_without_a_batch_dimension_a_request_is_one_row(self):
        decoded = decode(
            request(tensor("x", "FP32", [3, 1], fp32_contents=[1, 2, 3])), identity("FP32", batched=False)
        )
        assert decoded.rows == 1
        assert not decoded.raw

    def test_requested_outputs_in_their_order(self):
        assert decode(pair(outputs=["sign", "score"]), PAIR).outputs == ("sign", "score")
        assert decode(pair(outputs=["sign"]), PAIR).outputs == ("sign",)

    def test_typed_floats_beside_fields_unknown_to_us(self):
        contents = pb.InferTensorContents(fp32_contents=[1, 2])
        contents.MergeFromString(b"\x7a\x03abc")  # field 15
        x = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2], contents=contents)
        assert decode(request(x), identity("FP32")).inputs["x"].tolist() == [[1, 2]]


def shared_memory():
    x = tensor("x", "FP32", [1, 1])
    x.parameters["shared_memory_region"].string_param = "region"
    return request(x, raw=[b"\0\0\0\0"])


def classification():
    asked = request(tensor("x", "FP32", [1, 1]), raw=[b"\0\0\0\0"], outputs=["x"])
    asked.outputs[0].parameters["classification"].int64_param = 3
    return asked


ONE = {"fp32_contents": [1.0]}


class TestInvalid:
    @pytest.mark.parametrize(
        ("asked", "text"),
        [
            (request(), "inputs: expected ids, weights; missing ids, weights"),
            (request(tensor("ids", "INT64", [1, 1], int64_contents=[1])), "missing weights"),
            (request(tensor("Ids", "INT64", [1, 1])), "inputs: expected ids, weights; found 'Ids'"),
            (request(tensor("ids", "INT64", [1, 1]), tensor("ids", "INT64", [1, 1])), "expected ids once"),
            (pair(raw=[b""]), "raw_input_contents: expected one entry for each of 2 inputs, found 1"),
            (pair(raw=[b""] * 3), "raw_input_contents: expected one entry for each of 2 inputs, found 3"),
            (pair(raw=[b"\0" * 47, b""]), "raw_input_contents of ids: expected 48 bytes .* found 47"),
            (pair(outputs=["label"]), "outputs: expected some of score, sign; found 'label'"),
            (pair(outputs=["sign", "sign"]), "outputs: expected sign once"),
            (
                request(
                    tensor("ids", "INT64", [1, 1], int64_contents=[1]),
                    tensor("weights", "FP32", [2, 2], fp32_contents=[1] * 4),
                ),
                "inputs: expected as many rows in each of them; ids has 1, weights has 2",
            ),
        ],
    )
    def test_of_a_model_with_two_inputs(self, asked, text):
        with pytest.raises(InvalidRequest, match=text):
            decode(asked, PAIR)

    @pytest.mark.parametrize(
        ("asked", "text"),
        [
            (
                request(tensor("x", "FP64", [1, 1], **ONE)),
                r"inputs\[x\]\.datatype: expected FP32, found 'FP64'",
            ),
            (request(tensor("x", "BF16", [1, 1]), raw=[b"\0\0"]), "expected FP32, found 'BF16'"),
            (request(tensor("x", "", [1, 1], **ONE)), "expected FP32, found ''"),
            (
                request(tensor("x", "FP32", [1], **ONE)),
                r"inputs\[x\]\.shape: expected \[>=1, >=1\], found \[1\]",
            ),
            (request(tensor("x", "FP32", [-1, 1], **ONE)), r"found \[-1, 1\]"),
            (request(tensor("x", "FP32", [-1, -1], **ONE)), r"found \[-1, -1\]"),
            (request(tensor("x", "FP32", [0, 1])), r"found \[0, 1\]"),
            (request(tensor("x", "FP32", [1, 0])), r"found \[1, 0\]"),
            (request(tensor("x", "FP32", [2**62, 2**62], **ONE)), "at most 8 rows .* found 46116"),
            (request(tensor("x", "FP32", [1, 2**62], **ONE)), "expected 46116\\d+ elements .* found 1"),
            (request(tensor("x", "FP32", [2, 2**63 - 1], **ONE)), "expected 18446744073709551614 elements"),
            (request(tensor("x", "FP32", [4, 2**62]), raw=[b""]), "expected 7378\\d+ bytes .* found 0"),
            (
                request(tensor("x", "FP32", [9, 1], **ONE)),
                r"inputs: expected at most 8 rows \(engine\.max_batch\)",
            ),
            (request(tensor("x", "FP32", [1] * 20)), r"found \[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, \.\.\.\]"),
            (request(tensor("x", "FP32", [1] * 10)), r"found \[1, 1, 1, 1, 1, 1, 1, 1, 1, 1\]"),
            (
                request(tensor("x", "FP32", [1, 1])),
                r"contents\.fp32_contents: expected 1 elements .* found 0",
            ),
            (request(tensor("x", "FP32", [1, 2], **ONE)), "expected 2 elements for the shape, found 1"),
            (
                request(tensor("x", "FP32", [1, 1], **ONE), raw=[b"\0\0\0\0"]),
                r"inputs\[x\]\.contents: expected none beside raw_input_contents",
            ),
            (
                request(tensor("x", "FP32", [1, 1], fp64_contents=[1])),
                r"inputs\[x\]\.contents: expected FP32 in fp32_contents, found fp64_contents",
            ),
            (request(tensor("x", "FP32", [1, 1], **ONE, int_contents=[1])), "found int_contents"),
            (shared_memory(), r"inputs\[x\]\.parameters: expected no shared_memory_region"),
            (classification(), r"outputs\[x\]\.parameters: expected no classification"),
        ],
    )
    def test_of_a_model_with_one_input(self, asked, text):
        with pytest.raises(InvalidRequest, match=text):
            decode(asked, identity("FP32"))

    def test_a_fixed_dimension(self):
        with pytest.raises(InvalidRequest, match=r"expected \[>=1, 3\], found \[1, 4\]"):
            decode(request(tensor("x", "FP32", [1, 4])), identity("FP32", shape=(None, 3)))

    @pytest.mark.parametrize(
        ("datatype", "contents", "found"),
        [
            ("INT8", {"int_contents": [0, 128]}, "INT8, -128 to 127, found values from 0 to 128"),
            ("INT16", {"int_contents": [-32769, 0]}, "INT16, .* found values from -32769 to 0"),
            ("UINT8", {"uint_contents": [1, 256]}, "UINT8, 0 to 255"),
            ("UINT16", {"uint_contents": [1, 65536]}, "UINT16, 0 to 65535"),
        ],
    )
    def test_typed_values_out_of_range(self, datatype, contents, found):
        with pytest.raises(InvalidRequest, match=found):
            decode(request(tensor("x", datatype, [1, 2], **contents)), identity(datatype))

    @pytest.mark.parametrize("datatype", RAW_ONLY)
    def test_no_typed_form(self, datatype):
        with pytest.raises(InvalidRequest, match=f"expected {datatype} in raw_input_contents"):
            decode(request(tensor("x", datatype, [1, 1], **ONE)), identity(datatype))

    def test_without_a_batch_dimension_sizes_are_bound_by_contents(self):
        asked = request(tensor("x", "FP32", [2**62, 2**62], **ONE))
        with pytest.raises(InvalidRequest, match=r"expected 2126\d+ elements for the shape, found 1"):
            decode(asked, identity("FP32", batched=False))

    def test_rows_are_refused_before_contents_are_looked_at(self):
        asked = request(tensor("x", "BYTES", [9, 1]), raw=[b"no elements"])
        with pytest.raises(InvalidRequest, match="at most 8 rows"):
            decode(asked, identity("BYTES"))

    @pytest.mark.parametrize("count", [3, 1000])
    def test_more_inputs_than_the_model_has(self, count):
        asked = request(*[tensor("ids", "INT64", [1, 1])] * count)
        with pytest.raises(InvalidRequest, match="inputs: expected ids once, found it again"):
            decode(asked, PAIR)

    def test_bool_is_0_or_1(self):
        with pytest.raises(InvalidRequest, match="expected every byte of BOOL to be 0 or 1"):
            decode(request(tensor("x", "BOOL", [1, 2]), raw=[b"\1\2"]), identity("BOOL"))

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\1\0\0",
            b"\1\0\0\0a",
            b"\1\0\0\0a\5\0\0\0b",
            b"\1\0\0\0a\1\0\0\0b\0",
            b"\1\0\0\0a\1\0\0\0b\0\0\0\0",
            b"\xff\xff\xff\xffa",
        ],
    )
    def test_bytes_that_are_not_elements(self, data):
        with pytest.raises(InvalidRequest, match="raw_input_contents of x: expected 2 elements of BYTES"):
            decode(request(tensor("x", "BYTES", [1, 2]), raw=[data]), identity("BYTES"))

    def test_more_strings_than_there_is_time_for(self):
        asked = request(tensor("x", "BYTES", [1, 2**18 + 1]), raw=[bytes(4 * (2**18 + 1))])
        with pytest.raises(InvalidRequest, match="raw_input_contents of x: expected at most 262144 elements"):
            decode(asked, identity("BYTES"))

    @pytest.mark.parametrize("raw", [True, False])
    def test_bytes_that_are_not_utf8(self, raw):
        if raw:
            asked = request(tensor("x", "BYTES", [1, 1]), raw=[struct.pack("<I", 1) + b"\xff"])
        else:
            asked = request(tensor("x", "BYTES", [1, 1], bytes_contents=[b"\xff"]))
        with pytest.raises(InvalidRequest, match="expected UTF-8"):
            decode(asked, identity("BYTES"))

    @pytest.mark.parametrize(
        "asked",
        [
            request(tensor("y" * 10_000, "FP32", [1])),
            request(tensor("x", "é" * 10_000, [1])),
            request(tensor("x", "FP32", [2**63 - 1] * 10_000)),
            request(tensor("x", "FP32", [1, 1], **ONE), outputs=["y" * 10_000]),
        ],
        ids=["name", "datatype", "shape", "output"],
    )
    def test_texts_fit_a_header(self, asked):
        with pytest.raises(InvalidRequest) as caught:
            decode(asked, identity("FP32"))
        assert len(str(caught.value)) < 300

    def test_so_do_those_of_models_with_long_names(self):
        with pytest.raises(InvalidRequest) as caught:
            decode(
                request(), ModelSignature("m", "1", (TensorSpec("x" * 1000, "FP32", ()),), (), batched=False)
            )
        assert len(str(caught.value)) == 512


DIMENSIONS = st.lists(st.one_of(st.integers(-1, 3), st.integers(-(2**63), 2**63 - 1)), max_size=3)
CONTENTS = st.builds(
    pb.InferTensorContents,
    bool_contents=st.none() | st.lists(st.booleans(), max_size=3),
    int_contents=st.none() | st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    uint_contents=st.none() | st.lists(st.integers(0, 2**32 - 1), max_size=3),
    fp32_contents=st.none() | st.lists(st.floats(width=32), max_size=3),
    bytes_contents=st.none() | st.lists(st.binary(max_size=3), max_size=3),
)
TENSORS = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["x", "x", "x", "y", ""]),
    datatype=st.sampled_from([*TYPED, *RAW_ONLY, ""]),
    shape=st.sampled_from([[1, 1], [1, 2], [2, 1]]) | DIMENSIONS,
    contents=st.none() | CONTENTS,
)
REQUESTS = st.builds(
    pb.ModelInferRequest,
    inputs=st.lists(TENSORS, max_size=2),
    raw_input_contents=st.lists(st.binary(max_size=20), max_size=2),
)


@settings(max_examples=300)
@given(REQUESTS, st.sampled_from([*TYPED, *RAW_ONLY]), st.booleans())
def test_nothing_but_invalid_request_escapes(asked, datatype, batched):
    for tensor in asked.inputs:
        if tensor.datatype == "INT8":  # makes the likely case of a right datatype likelier
            tensor.datatype = datatype
    try:
        decoded = decode(asked, identity(datatype, batched=batched))
    except InvalidRequest:
        return
    assert decoded.inputs["x"].shape == tuple(asked.inputs[0].shape)


class TestEncode:
    def test_answer_of_a_raw_request(self):
        outputs = {"score": np.float32([1, 2]), "sign": np.array(["+", "é"], object)}
        response = encode(outputs, decode(pair(), PAIR), PAIR, "id-7", {"queue_us": 7, "remaining_us": -1})
        assert (response.model_name, response.model_version, response.id) == ("pair", "3", "id-7")
        assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
            ("score", "FP32", [2]),
            ("sign", "BYTES", [2]),
        ]
        assert not any(output.HasField("contents") for output in response.outputs)
        assert list(response.raw_output_contents) == [
            np.float32([1, 2]).tobytes(),
            b"\1\0\0\0+\2\0\0\0\xc3\xa9",
        ]
        assert {key: value.int64_param for key, value in response.parameters.items()} == {
            "queue_us": 7,
            "remaining_us": -1,
        }

    def test_only_what_was_asked_for(self):
        outputs = {"score": np.float32([1, 2]), "sign": np.array(["+", "-"], object)}
        response = encode(outputs, decode(pair(outputs=["sign"]), PAIR), PAIR)
        assert [output.name for output in response.outputs] == ["sign"]

    def test_an_output_without_a_typed_form_makes_the_answer_raw(self):
        outputs = (TensorSpec("a", "BF16", (None,)), TensorSpec("b", "FP32", (None,)))
        signature = ModelSignature("m", "1", (), outputs, batched=True)
        asked = replace(decode(pair(), PAIR), raw=False, outputs=("a", "b"))
        arrays = {"a": np.uint16([0x3F80]), "b": np.float32([1])}
        response = encode(arrays, asked, signature)
        assert list(response.raw_output_contents) == [b"\x80\x3f", np.float32([1]).tobytes()]
        response = encode(arrays, replace(asked, outputs=("b",)), signature)
        assert response.outputs[0].contents.fp32_contents == [1]

    @pytest.mark.parametrize("raw", [True, False])
    def test_is_what_protobuf_would_write(self, raw):
        arrays = {"score": np.float32([1, 2]), "sign": np.array(["+", "-" * 300], object)}
        asked = replace(decode(pair(), PAIR), raw=raw)
        encoded = Codec(PAIR, MAX_ROWS).encode(arrays, asked, "id")
        assert encoded == pb.ModelInferResponse.FromString(encoded).SerializeToString()

    @pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
    def test_scalars_and_empty_outputs(self, shape):
        asked = replace(decode(pair(), PAIR), outputs=("x",))
        for raw in (True, False):
            response = encode({"x": np.ones(shape, np.float32)}, replace(asked, raw=raw), identity("FP32"))
            assert tuple(response.outputs[0].shape) == shape
            contents = response.outputs[0].contents.fp32_contents
            data = response.raw_output_contents[0] if raw else np.float32(contents).tobytes()
            assert data == np.ones(shape, np.float32).tobytes()

    def test_views_with_strides(self):
        asked = replace(decode(pair(), PAIR), outputs=("x",))
        array = np.arange(6, dtype=np.float32).reshape(2, 3).T
        for raw in (True, False):
            response = encode({"x": array}, replace(asked, raw=raw), identity("FP32"))
            np.testing.assert_array_equal(decode(as_request(response), identity("FP32")).inputs["x"], array)
