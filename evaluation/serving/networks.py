"""The models that servers are compared on besides ResNet-50; real architectures and work, random weights."""

import itertools
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

Floats = npt.NDArray[np.float32]

MLP_SIZES = (256, 1024, 1024, 1024, 10)
BULK_BYTES = 600_000
TOKENS, VOCABULARY, HIDDEN = 32, 30_522, 384
_LAYERS, _HEADS, _INNER, _POSITIONS = 6, 12, 1536, 512
_EPSILON = 1e-12


def mlp() -> onnx.ModelProto:
    """Give a small perceptron, 9.5 MB: "features" float32 [N, 256] → "scores" float32 [N, 10]."""
    graph = _Graph(seed=1)
    tensor = "features"
    for index, (inner, outer) in enumerate(itertools.pairwise(MLP_SIZES)):
        tensor = graph.dense(tensor, inner, outer)
        if index < len(MLP_SIZES) - 2:
            tensor = graph.add("Relu", tensor)
    return graph.model("features", TensorProto.FLOAT, [MLP_SIZES[0]], tensor, "scores", [MLP_SIZES[-1]])


def bulk() -> onnx.ModelProto:
    """Give a model that does next to nothing: "bytes" uint8 [N, 600000] → "first" float32 [N, 8]."""
    graph = _Graph(seed=2)
    first = graph.add("Slice", "bytes", graph.integers(0), graph.integers(8), graph.integers(1))
    tensor = graph.add("Cast", first, to=TensorProto.FLOAT)
    return graph.model("bytes", TensorProto.UINT8, [BULK_BYTES], tensor, "first", [8])


def minilm() -> onnx.ModelProto:
    """Give all-MiniLM-L6, dynamically quantised to int8: "tokens" int64 [N, T] → "embedding" float32 [N, 384].

    Six layers of BERT with 12 heads, then the mean over tokens that are not 0, of length 1. Quantised as published
    models are: all weights of matrix products and the table of words. An answer depends a little on the batch,
    which is scaled as a whole.
    """
    with tempfile.TemporaryDirectory(prefix="sponge-minilm-") as folder:
        quantised = Path(folder) / "int8.onnx"
        real = onnx.shape_inference.infer_shapes(_minilm())
        # Says that shapes are inferred, which is advised; fusing is left to the session.
        helper.set_model_props(real, {"onnx.quant.pre_process": "onnxruntime.quant"})
        quantize_dynamic(real, quantised, weight_type=QuantType.QInt8)
        return onnx.load(quantised)


def _minilm() -> onnx.ModelProto:
    """As sentence-transformers exports it, but for the mask, which is an input there."""
    graph = _Graph(seed=3)
    is_token = graph.add("Not", graph.add("Equal", "tokens", graph.integers(0)))
    mask = graph.add("Cast", is_token, to=TensorProto.FLOAT)
    # Added to scores: nothing where there is a token, much below all others where there is none.
    away = graph.add("Mul", graph.add("Sub", mask, graph.real(1)), graph.real(1e4))
    away = graph.add("Unsqueeze", away, graph.integers(1, 2))
    length = graph.add("Slice", graph.add("Shape", "tokens"), graph.integers(1), graph.integers(2))
    positions = graph.add("Slice", graph.table(_POSITIONS, 0.2), graph.integers(0), length, graph.integers(0))
    words = graph.add("Gather", graph.table(VOCABULARY, 1.0), "tokens")
    state = graph.normalised(graph.add("Add", words, positions))
    for _ in range(_LAYERS):
        state = graph.normalised(graph.add("Add", graph.attention(state, away), state))
        inner = graph.gelu(graph.dense(state, HIDDEN, _INNER))
        state = graph.normalised(graph.add("Add", graph.dense(inner, _INNER, HIDDEN), state))
    column = graph.add("Unsqueeze", mask, graph.integers(2))
    total = graph.add("ReduceSum", graph.add("Mul", state, column), graph.integers(1), keepdims=0)
    mean = graph.add("Div", total, graph.add("ReduceSum", column, graph.integers(1), keepdims=0))
    embedding = graph.add("LpNormalization", mean, axis=1, p=2)
    return graph.model("tokens", TensorProto.INT64, ["tokens_of_row"], embedding, "embedding", [HIDDEN])


class _Graph:
    """Nodes and constants as they are added; tensors are named by number."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        """Give the name of its one output."""
        output = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def weight(self, inner: int, outer: int) -> str:
        """Random, of the size that keeps activations of order 1 (He et al., ICCV 2015)."""
        values = self._rng.standard_normal((inner, outer), np.float32)
        return self._constant(values * np.float32(np.sqrt(2 / inner)))

    def table(self, rows: int, deviation: float) -> str:
        """A random vector for each row."""
        return self._constant(self._rng.standard_normal((rows, HIDDEN), np.float32) * np.float32(deviation))

    def integers(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def real(self, value: float) -> str:
        return self._constant(np.array(value, np.float32))

    def dense(self, tensor: str, inner: int, outer: int) -> str:
        product = self.add("MatMul", tensor, self.weight(inner, outer))
        return self.add("Add", product, self._constant(np.zeros(outer, np.float32)))

    def normalised(self, tensor: str) -> str:
        scale, bias = (
            self._constant(np.ones(HIDDEN, np.float32)),
            self._constant(np.zeros(HIDDEN, np.float32)),
        )
        return self.add("LayerNormalization", tensor, scale, bias, axis=-1, epsilon=_EPSILON)

    def gelu(self, tensor: str) -> str:
        """In the five operators that exporters write and ONNX Runtime fuses."""
        bell = self.add("Erf", self.add("Div", tensor, self.real(np.sqrt(2))))
        return self.add("Mul", self.add("Mul", tensor, self.add("Add", bell, self.real(1))), self.real(0.5))

    def attention(self, state: str, away: str) -> str:
        width = HIDDEN // _HEADS
        split, joined = self.integers(0, 0, _HEADS, width), self.integers(0, 0, HIDDEN)

        def heads(order: Sequence[int]) -> str:
            return self.add(
                "Transpose", self.add("Reshape", self.dense(state, HIDDEN, HIDDEN), split), perm=order
            )

        query, key, value = heads([0, 2, 1, 3]), heads([0, 2, 3, 1]), heads([0, 2, 1, 3])
        scores = self.add("Div", self.add("MatMul", query, key), self.real(np.sqrt(width)))
        shares = self.add("Softmax", self.add("Add", scores, away), axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", shares, value), perm=[0, 2, 1, 3])
        return self.dense(self.add("Reshape", mixed, joined), HIDDEN, HIDDEN)

    def model(
        self,
        source: str,
        kind: int,
        row: Iterable[int | str],
        tensor: str,
        output: str,
        answer: Iterable[int],
    ) -> onnx.ModelProto:
        """Give the whole, checked, whose input is `source` and whose output the tensor of that name."""
        self._nodes.append(helper.make_node("Identity", [tensor], [output]))
        graph = helper.make_graph(
            self._nodes,
            output,
            [helper.make_tensor_value_info(source, kind, ["batch", *row])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *answer])],
            self._constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made, full_check=True)
        return made

    def _constant(self, values: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(values, name))
        return name
