"""The models that are run under quotas."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from evaluation import models
from evaluation.models import Vision
from evaluation.serving import networks
from evaluation.slices import Sizes

NAMES = RESNET50, SQUEEZENET, MINILM, SILERO = ("resnet50", "squeezenet", "minilm", "silero-vad")

_PICTURE = {"image": (224, 224, 3)}
_SILERO_FILE = "data/silero_vad_16k_op15.onnx"
_SAMPLES, _STATE = 576, (2, 128)  # of a step: 64 from the one before, and 512


def build(name: str, directory: Path) -> tuple[Path, Sizes]:
    """Write a model, and give it with the sizes of a row. Raises ModuleNotFoundError where its package is missing."""
    path = directory / f"{name}.onnx"
    match name:
        case "minilm":
            onnx.save(networks.minilm(), path)
            return path, {"tokens": (networks.TOKENS,)}
        case "silero-vad":
            onnx.save(_silero(), path)
            return path, {}
        case _:
            onnx.save(models.network(Vision(name)), path)
            return path, _PICTURE


def _silero() -> onnx.ModelProto:
    """Give it as "input" [N, 576], "state" [N, 2, 128] → the probability of speech [N, 1], and the state."""
    spec = importlib.util.find_spec("silero_vad")  # not imported: that takes torch
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "silero_vad: expected to be installed; pip install --no-deps silero-vad is enough"
        )
    model = onnx.load(Path(spec.origin).parent / _SILERO_FILE)
    graph = model.graph
    probability, after = (output.name for output in graph.output)
    _, before, rate = (tensor.name for tensor in graph.input)
    graph.initializer.append(numpy_helper.from_array(np.array(16_000, np.int64), rate))
    graph.node.insert(0, helper.make_node("Transpose", ["rows_before"], [before], perm=[1, 0, 2]))
    graph.node.append(helper.make_node("Transpose", [after], ["rows_after"], perm=[1, 0, 2]))
    del graph.input[1:]
    del graph.output[:]
    graph.input[0].CopyFrom(
        helper.make_tensor_value_info(graph.input[0].name, TensorProto.FLOAT, ["N", _SAMPLES])
    )
    graph.input.append(helper.make_tensor_value_info("rows_before", TensorProto.FLOAT, ["N", *_STATE]))
    graph.output.append(helper.make_tensor_value_info(probability, TensorProto.FLOAT, ["N", 1]))
    graph.output.append(helper.make_tensor_value_info("rows_after", TensorProto.FLOAT, ["N", *_STATE]))
    return model
