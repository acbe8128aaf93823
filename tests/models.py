"""Tiny ONNX models, each written to the path it is given."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Opset and IR version that any ONNX Runtime from 1.22 on can read.
_OPSET, _IR_VERSION = 17, 9

_WIDTH = 256


def scale(path: Path, batch: str | int = "N", factor: float = 2) -> Path:
    """Double x, or multiply it by another factor: FP32 [N, 4]."""
    return _save(
        path,
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        inputs=[_value("x", TensorProto.FLOAT, [batch, 4])],
        outputs=[_value("y", TensorProto.FLOAT, [batch, 4])],
        constants={"factor": np.array(factor, np.float32)},
    )


def with_external_weights(path: Path, factor: float) -> Path:
    """As `scale`, with the factors of each column in a file beside this one, weights.bin."""
    _save(
        path,
        [helper.make_node("Mul", ["x", "factors"], ["y"])],
        inputs=[_value("x", TensorProto.FLOAT, ["N", 4])],
        outputs=[_value("y", TensorProto.FLOAT, ["N", 4])],
        constants={"factors": np.full(4, factor, np.float32)},
    )
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def heavy(path: Path, mebibytes: int) -> Path:
    """Multiply x by a matrix of so many MiB, of noise: FP32 [N, 1024]."""
    size = (1024, mebibytes * 256)
    return _save(
        path,
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        inputs=[_value("x", TensorProto.FLOAT, ["N", size[0]])],
        outputs=[_value("y", TensorProto.FLOAT, ["N", size[1]])],
        constants={"weights": np.random.default_rng(1).random(size, np.float32)},
    )


def fixed(path: Path) -> Path:
    """Double x without a batch dimension: FP32 [1, 4]."""
    return scale(path, batch=1)


def sum_image(path: Path) -> Path:
    """The sum of all of a picture's bytes; UINT8 image [N, H, W, 3] → FP32 total [N]."""
    return _save(
        path,
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["pixels", "axes"], ["total"], keepdims=0),
        ],
        inputs=[_value("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        outputs=[_value("total", TensorProto.FLOAT, ["N"])],
        constants={"axes": np.array([1, 2, 3], np.int64)},
    )


def two_inputs(path: Path) -> Path:
    """INT64 ids [N, T], FP32 weights [N, T] → FP32 score [N] = Σ ids·weights, BYTES sign [N]: "+" or "-"."""
    return _save(
        path,
        [
            helper.make_node("Cast", ["ids"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["floats", "weights"], ["products"]),
            helper.make_node("ReduceSum", ["products", "axes"], ["score"], keepdims=0),
            helper.make_node("Less", ["score", "zero"], ["negative"]),
            helper.make_node("Cast", ["negative"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["signs", "index"], ["sign"]),
        ],
        inputs=[
            _value("ids", TensorProto.INT64, ["N", "T"]),
            _value("weights", TensorProto.FLOAT, ["N", "T"]),
        ],
        outputs=[_value("score", TensorProto.FLOAT, ["N"]), _value("sign", TensorProto.STRING, ["N"])],
        constants={
            "axes": np.array([1], np.int64),
            "zero": np.array(0, np.float32),
            "signs": np.array(["+", "-"], object),
        },
    )


def echo(path: Path, datatype: int) -> Path:
    """Give x back as y; [N, T] of an element type of TensorProto."""
    return _save(
        path,
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs=[_value("x", datatype, ["N", "T"])],
        outputs=[_value("y", datatype, ["N", "T"])],
    )


def sequence(path: Path) -> Path:
    """The first of the tensors that x, a sequence, is made of."""
    return _save(
        path,
        [helper.make_node("SequenceAt", ["x", "first"], ["y"])],
        inputs=[helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)],
        outputs=[_value("y", TensorProto.FLOAT, ["N"])],
        constants={"first": np.array(0, np.int64)},
    )


def bfloat16(path: Path) -> Path:
    """BF16 x [N, T], FP32 w [N, T] → BF16 y [N, T] = x·w, FP32 total [N] = Σ y."""
    return _save(
        path,
        [
            helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["floats", "w"], ["products"]),
            helper.make_node("Cast", ["products"], ["y"], to=TensorProto.BFLOAT16),
            helper.make_node("ReduceSum", ["products", "axes"], ["total"], keepdims=0),
        ],
        inputs=[_value("x", TensorProto.BFLOAT16, ["N", "T"]), _value("w", TensorProto.FLOAT, ["N", "T"])],
        outputs=[_value("y", TensorProto.BFLOAT16, ["N", "T"]), _value("total", TensorProto.FLOAT, ["N"])],
        constants={"axes": np.array([1], np.int64)},
    )


def echoes(path: Path, datatypes: Mapping[str, int]) -> Path:
    """Give every input back as an output named out_…; [N, T], of element types of TensorProto by name."""
    return _save(
        path,
        [helper.make_node("Identity", [name], [f"out_{name}"]) for name in datatypes],
        inputs=[_value(name, datatype, ["N", "T"]) for name, datatype in datatypes.items()],
        outputs=[_value(f"out_{name}", datatype, ["N", "T"]) for name, datatype in datatypes.items()],
    )


def slow(path: Path, work: int) -> Path:
    """Give x back as y, FP32 [N, 256], after `work` products with a 256 × 256 matrix: 131 kFLOP a row each."""
    names = ["x", *(f"x{step}" for step in range(1, work)), "y"]
    return _save(
        path,
        [helper.make_node("MatMul", [before, "one"], [after]) for before, after in pairwise(names)],
        inputs=[_value("x", TensorProto.FLOAT, ["N", _WIDTH])],
        outputs=[_value("y", TensorProto.FLOAT, ["N", _WIDTH])],
        constants={"one": np.eye(_WIDTH, dtype=np.float32)},
    )


def weighty(path: Path, mib: int) -> Path:
    """FP32 [N, 256] → [N, 1024·mib], by a matrix of so many MiB."""
    width = mib * 1024
    return _save(
        path,
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        inputs=[_value("x", TensorProto.FLOAT, ["N", _WIDTH])],
        outputs=[_value("y", TensorProto.FLOAT, ["N", width])],
        constants={"weights": np.ones((_WIDTH, width), np.float32)},
    )


def similarity(path: Path, *, symbols: tuple[str, str]) -> Path:
    """Compare rows: FP32 q [Q, 4], d [D, 4] → y = q·dᵀ [Q, D], the sizes Q and D named by `symbols`."""
    return _save(
        path,
        [
            helper.make_node("Transpose", ["d"], ["columns"]),
            helper.make_node("MatMul", ["q", "columns"], ["y"]),
        ],
        inputs=[
            _value("q", TensorProto.FLOAT, [symbols[0], 4]),
            _value("d", TensorProto.FLOAT, [symbols[1], 4]),
        ],
        outputs=[_value("y", TensorProto.FLOAT, list(symbols))],
    )


def reshaped(path: Path, shape: list[int], declared: list[str | int]) -> Path:
    """Give FP32 x [N, T] back as y in another shape, which the file declares to be `declared`."""
    return _save(
        path,
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        inputs=[_value("x", TensorProto.FLOAT, ["N", "T"])],
        outputs=[_value("y", TensorProto.FLOAT, declared)],
        constants={"shape": np.array(shape, np.int64)},
    )


def _value(name: str, datatype: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, datatype, shape)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray] | None = None,
) -> Path:
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION),
        path,
    )
    return path
