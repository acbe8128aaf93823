"""Two models from installed packages, no download: ResNet-50 on pictures, magika on files; and input for both."""

import importlib.util
import itertools
import json
import shutil
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

VISION, MAGIKA = "vision.onnx", "magika.onnx"
# Sides of square RGB pictures: 100 to 500 KB, 286 KB in the mean. A few fixed sizes, as cameras have them.
SIDES = (183, 240, 288, 320, 360, 408)
# Of ImageNet, for pixels in 0…255.
_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

# Folders with nothing for `files`: other packages differ between machines, and tests carry broken files.
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__"})


def build(directory: Path) -> None:
    """Write vision.onnx and magika.onnx into `directory`, which is made if need be; about 100 MB, seconds.

    vision.onnx: ResNet-50. "image" uint8 [N, H, W, 3] of any size → "probabilities" float32 [N, 1000]. The
    architecture, and with it the work, is the real one; the weights are random, and the same on every run.
    magika.onnx: Google's file-type model as published. "bytes" int32 [N, 2048] → "target_label" float32
    [N, 214]: see `features` and `file_label`.

    Raises ModuleNotFoundError if the package that carries magika is not installed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / ".partial.onnx"  # a broken-off build must not look like a model
    shutil.copyfile(_magika_folder() / "model.onnx", partial)
    partial.replace(directory / MAGIKA)
    onnx.save(_vision(), partial)
    partial.replace(directory / VISION)


def session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Open a model for a direct run: one thread, which sleeps when idle."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: onnxruntime.InferenceSession, rows: npt.NDArray[Any]) -> Floats:
    """Give the first output for the only input, both with a leading batch dimension."""
    outputs: list[Floats] = model.run(None, {model.get_inputs()[0].name: rows})
    return outputs[0]


def pictures(seed: int) -> Iterator[Picture]:
    """Yield pictures [side, side, 3] without end: clouds of colour with detail at every scale, as in nature."""
    rng = np.random.default_rng(seed)
    while True:
        side = int(rng.choice(SIDES))
        planes = np.zeros((3, side, side), np.float32)
        for cells in (2, 4, 8, 16, 32, 64):  # amplitude ∝ 1/frequency, as in natural scenes
            spread = _interpolation(side, cells)
            planes += spread @ rng.standard_normal((3, cells, cells), np.float32) @ spread.T / cells
        planes = 128 + 55 * (planes - planes.mean()) / planes.std()
        yield np.ascontiguousarray(np.clip(planes, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _interpolation(side: int, cells: int) -> Floats:
    """Give the matrix [side, cells] of linear interpolation from a coarse row to a fine one."""
    position = np.linspace(0, cells - 1, side)
    weights: Floats = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))).astype(np.float32)
    return weights


def files(limit: int = 60) -> tuple[Path, ...]:
    """Give real files of many types that come with Python and the demo's packages, in an order that is stable.

    All are long enough for magika's model to be asked.
    """
    folders = [Path(sysconfig.get_path("stdlib"))]
    specs = [importlib.util.find_spec(name) for name in ("magika", "matplotlib", "numpy", "onnx", "rich")]
    folders += [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin]
    by_suffix: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.glob("**/*")):
            if not _LEFT_OUT.isdisjoint(path.relative_to(folder).parts):
                continue
            if path.is_file() and 64 <= path.stat().st_size <= 1 << 20:
                by_suffix.setdefault(path.suffix, []).append(path)
    # One of each type, then a second of each, and so on.
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*by_suffix.values()))
    usable = (path for path in rounds if path is not None and _is_for_model(path.read_bytes()))
    return tuple(itertools.islice(usable, limit))


def features(content: bytes) -> npt.NDArray[np.int32]:
    """Give what magika's model sees of a file, int32 [2048]: its first and last 1024 bytes.

    White space is stripped from the outer ends of the first and last 4096 bytes before; what is missing is
    256. Raises ValueError for a file too short for the model: magika answers those without it.
    """
    if not _is_for_model(content):
        raise ValueError("expected a file of at least 8 bytes besides leading white space")
    config = _magika_config()
    block, half, padding = config["block_size"], config["beg_size"], config["padding_token"]
    row = np.full(2 * half, padding, np.int32)
    first = np.frombuffer(content[:block].lstrip()[:half], np.uint8)
    last = np.frombuffer(content[-block:].rstrip()[-half:], np.uint8)
    row[: first.size] = first
    row[row.size - last.size :] = last
    return row


def _is_for_model(content: bytes) -> bool:
    config = _magika_config()
    return len(content[: config["block_size"]].lstrip()) >= int(config["min_file_size_for_dl"])


def labels() -> tuple[str, ...]:
    """Give the file types in the order of the model's 214 outputs."""
    return tuple(_magika_config()["target_labels_space"])


def file_label(scores: npt.NDArray[Any]) -> str:
    """Give magika's answer for one row of the model's output [214]; its default mode, "high confidence".

    The likeliest type if its score reaches that type's threshold, else "txt" or "unknown".
    """
    config = _magika_config()
    best = int(np.argmax(scores))
    guess = labels()[best]
    label: str = config["overwrite_map"].get(guess, guess)
    if scores[best] >= config["thresholds"].get(guess, config["medium_confidence_threshold"]):
        return label
    return "txt" if label in _text_types() else "unknown"


def same_probabilities(expected: npt.NDArray[Any], answer: npt.NDArray[Any]) -> bool:
    """Whether two rows of vision.onnx differ by rounding only, as they do between batches and machines."""
    return bool(np.allclose(answer, expected, rtol=1e-2, atol=1e-4))


def same_label(expected: npt.NDArray[Any], answer: npt.NDArray[Any]) -> bool:
    """Whether two rows of magika.onnx name the same file type."""
    return file_label(expected.ravel()) == file_label(answer.ravel())


def _magika_package() -> Path:
    """Give magika's folder without importing it, which would be slow."""
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("magika: expected to be installed, as sponge-serving[demo] does")
    return Path(spec.origin).parent


def _magika_folder() -> Path:
    return max((_magika_package() / "models").glob("standard_v*"))


@cache
def _magika_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((_magika_folder() / "config.min.json").read_text())
    return config


@cache
def _text_types() -> frozenset[str]:
    types = json.loads((_magika_package() / "config" / "content_types_kb.min.json").read_text())
    return frozenset(name for name, about in types.items() if about["is_text"])


def _vision() -> onnx.ModelProto:
    source = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
    resnet = onnx.load(source).graph
    data, output = resnet.input[0].name, resnet.output[0].name
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in resnet.initializer}
    layers = []
    weights = {}
    rng = np.random.default_rng(50)
    for node in resnet.node:
        if node.op_type == "ConstantOfShape":  # the package's stand-in for weights
            weights[node.output[0]] = _weights(node.output[0], constants[node.input[0]], rng)
            continue
        for name in node.input:
            if name in constants and constants[name].dtype == np.float32:
                weights[name] = _weights(name, constants[name].shape, rng)
        if node.op_type == "Reshape":
            weights[node.input[1]] = np.array([0, -1])  # 0 copies the batch dimension; the source has 1
        node.output[:] = ["probabilities" if name == output else name for name in node.output]
        layers.append(node)
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
    model = _model([*front, *layers], weights, "probabilities", 1000)
    classifier = next(node for node in layers if node.op_type == "Gemm")
    _calibrate(model, *classifier.input)
    onnx.checker.check_model(model, full_check=True)
    return model


def _weights(name: str, shape: Any, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Random weights that keep activations of order 1 through all layers (He et al., ICCV 2015)."""
    if name.endswith("_w_0"):
        fan_in = int(np.prod(shape[1:]))
        return rng.standard_normal(tuple(shape), np.float32) * np.float32(np.sqrt(2 / fan_in))
    # Batch normalisation: _s scale, _b bias, _rm running mean, _riv running variance. The last scale of a
    # residual branch is small, or the sums would double with each of 16 blocks.
    scale = 0.4 if name.endswith("branch2c_bn_s_0") else 1.0
    return np.full(tuple(shape), scale if name.endswith(("_s_0", "_riv_0")) else 0.0, np.float32)


def _model(
    nodes: list[onnx.NodeProto], weights: dict[str, npt.NDArray[Any]], output: str, width: int
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "vision",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    # The source has opset 9; its operators mean the same in 18, whose Resize can leave axes alone.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _calibrate(model: onnx.ModelProto, embedding: str, weight: str, bias: str) -> None:
    """Centre and scale the classifier on sample pictures, in place.

    Behind random layers all pictures look nearly alike; without this every answer would be the same, and
    comparing answers would prove nothing.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    width = initializers[weight].dims[1]
    model.graph.output.append(helper.make_tensor_value_info(embedding, TensorProto.FLOAT, ["batch", width]))
    network = session(model.SerializeToString())
    model.graph.output.pop()
    samples = [picture[None] for picture in itertools.islice(pictures(seed=0), 24)]
    seen = np.concatenate([network.run([embedding], {"image": sample})[0] for sample in samples])
    matrix = np.random.default_rng(1000).standard_normal(initializers[weight].dims).astype(np.float32)
    logits = seen @ matrix.T
    matrix *= (2.5 / logits.std(axis=0))[
        :, None
    ]  # a spread of 2.5 makes the likeliest of 1000 classes stand out
    offset = -(seen @ matrix.T).mean(axis=0)
    initializers[weight].CopyFrom(numpy_helper.from_array(matrix, weight))
    initializers[bias].CopyFrom(numpy_helper.from_array(offset.astype(np.float32), bias))
