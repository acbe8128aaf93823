"""Vision networks made of the onnx package's architectures, with random weights and any batch and picture size."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]
# Given a model, the name of an inner tensor, and its width: what sample pictures become there, [samples, width].
Embeddings = Callable[[onnx.ModelProto, str, int], Floats]

# Of ImageNet, for pixels in 0…255.
_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_CLASSES = 1000


def resnet50(embeddings: Embeddings) -> onnx.ModelProto:
    """Give ResNet-50: "image" uint8 [N, H, W, 3] → "probabilities" float32 [N, 1000]."""
    source = _source("resnet50")
    layers = []
    shapes = {}
    for node in source.node:
        if node.op_type == "Reshape":
            shapes[node.input[1]] = np.array([0, -1])  # 0 copies the batch dimension; the source has 1
        layers.append(node)
    model = _model(source, layers, shapes)
    classifier = next(node for node in layers if node.op_type == "Gemm")
    _calibrate(model, classifier, classifier.input[0], embeddings)
    return _checked(model)


def squeezenet(embeddings: Embeddings) -> onnx.ModelProto:
    """Give SqueezeNet with the names and shapes of `resnet50`.

    Without the last ReLU, which would cut the calibrated scores in half.
    """
    source = _source("squeezenet")
    *body, last, _, pooling, softmax = _without_dropout(source.node)
    pooling.input[:] = last.output
    flatten = helper.make_node("Flatten", pooling.output, ["scores"])
    softmax.input[:] = flatten.output
    # A mean over pixels commutes with the last convolution, of one by one: what is classified is the mean.
    mean = helper.make_node("GlobalAveragePool", [last.input[0]], ["embedding"])
    model = _model(source, [*body, last, pooling, flatten, softmax], {})
    model.graph.node.append(mean)
    _calibrate(model, last, "embedding", embeddings)
    model.graph.node.remove(mean)
    return _checked(model)


def _source(name: str) -> onnx.GraphProto:
    return onnx.load(Path(onnx.__file__).parent / f"backend/test/data/light/light_{name}.onnx").graph


def _without_dropout(layers: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """What dropout does in inference: nothing."""
    through: dict[str, str] = {}
    for node in layers:
        if node.op_type == "Dropout":
            through[node.output[0]] = node.input[0]
            continue
        node.input[:] = [through.get(name, name) for name in node.input]
        yield node


def _model(
    source: onnx.GraphProto, layers: Iterable[onnx.NodeProto], shapes: Mapping[str, npt.NDArray[Any]]
) -> onnx.ModelProto:
    """Put random weights in, and resizing and normalising in front; `shapes` replace constants of the source."""
    output = source.output[0].name
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in source.initializer}
    # In resnet50 the input comes first, in squeezenet among the constants.
    data = next(value.name for value in source.input if value.name not in constants)
    weights: dict[str, npt.NDArray[Any]] = dict(shapes)
    kept = []
    rng = np.random.default_rng(50)
    for node in layers:
        if node.op_type == "ConstantOfShape":  # the package's stand-in for weights
            weights[node.output[0]] = _weights(node.output[0], constants[node.input[0]], rng)
            continue
        for name in node.input:
            if name in constants and constants[name].dtype == np.float32:
                weights[name] = _weights(name, constants[name].shape, rng)
        node.output[:] = ["probabilities" if name == output else name for name in node.output]
        kept.append(node)
    weights |= {
        "mean": np.array(_MEAN, np.float32).reshape(3, 1, 1),
        "deviation": np.array(_DEVIATION, np.float32).reshape(3, 1, 1),
        "sizes": np.array([224, 224]),
    }
    front = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Resize", ["planes", "", "", "sizes"], ["resized"], mode="linear", axes=[2, 3]),
        helper.make_node("Sub", ["resized", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], [data]),
    ]
    graph = helper.make_graph(
        [*front, *kept],
        "vision",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", _CLASSES])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    # The sources have opset 9; their operators mean the same in 18, whose Resize can leave axes alone.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _weights(name: str, shape: Any, rng: np.random.Generator) -> Floats:
    """Random weights that keep activations of order 1 through all layers (He et al., ICCV 2015)."""
    if name.endswith("_w_0"):
        fan_in = int(np.prod(shape[1:]))
        return rng.standard_normal(tuple(shape), np.float32) * np.float32(np.sqrt(2 / fan_in))
    # Batch normalisation: _s scale, _b bias, _rm running mean, _riv running variance. The last scale of a
    # residual branch is small, or the sums would double with each of 16 blocks.
    scale = 0.4 if name.endswith("branch2c_bn_s_0") else 1.0
    return np.full(tuple(shape), scale if name.endswith(("_s_0", "_riv_0")) else 0.0, np.float32)


def _calibrate(
    model: onnx.ModelProto, classifier: onnx.NodeProto, embedding: str, embeddings: Embeddings
) -> None:
    """Centre and scale the classifier on sample pictures, in place.

    Behind random layers all pictures look nearly alike; without this every answer would be the same, and
    comparing answers would prove nothing.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    _, weight, bias = classifier.input
    shape = tuple(initializers[weight].dims)
    seen = embeddings(model, embedding, shape[1])
    matrix = np.random.default_rng(1000).standard_normal(shape[:2]).astype(np.float32)
    logits = seen @ matrix.T
    # A spread of 2.5 makes the likeliest of 1000 classes stand out.
    matrix *= (2.5 / logits.std(axis=0))[:, None]
    offset = -(seen @ matrix.T).mean(axis=0)
    initializers[weight].CopyFrom(numpy_helper.from_array(matrix.reshape(shape), weight))
    initializers[bias].CopyFrom(numpy_helper.from_array(offset.astype(np.float32), bias))


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx.checker.check_model(model, full_check=True)
    return model
