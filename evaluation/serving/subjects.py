"""The models that servers are compared on, with requests to send and the right answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from evaluation import direct, models
from evaluation.serving import networks
from protos import inference_pb2

Array = npt.NDArray[Any]

NAMES = RESNET50, MINILM, MLP, BULK = ("resnet50", "minilm", "mlp", "bulk")
PARAGRAPHS = "paragraphs"  # minilm on rows four times as long

_DATATYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
_PAYLOADS = 16
_SIDE = 224


@dataclass(frozen=True, slots=True)
class Payload:
    """One row to send: as an array, its bytes, a serialised ModelInferRequest; and the answer of a direct run."""

    rows: Array  # [1, …]
    body: bytes  # of the rows
    request: bytes
    expected: Array  # [1, …]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model of one input and one output, both with a leading batch dimension."""

    name: str
    path: Path
    input: str
    dtype: str
    row: tuple[int, ...]
    output: str
    answer: tuple[int, ...]  # of one row; always float32
    max_batch: int  # beyond which no server gains
    payloads: Sequence[Payload]
    agrees: Callable[[Array, Array], bool]  # (expected, answer)


@dataclass(frozen=True, slots=True)
class _Made:
    network: Callable[[], onnx.ModelProto]
    rows: Callable[[np.random.Generator], Array]  # one row
    max_batch: int
    agrees: Callable[[Array, Array], bool]


def build(name: str, directory: Path) -> Subject:
    """Write the model of that name into `directory` and give it; takes seconds."""
    made = _MADE[name]
    path = directory / f"{name}.onnx"
    onnx.save(made.network(), path)
    session = direct.session(path)
    source, output = session.get_inputs()[0], session.get_outputs()[0]
    rng = np.random.default_rng(7)
    inputs = [made.rows(rng)[None] for _ in range(_PAYLOADS)]
    payloads = [
        Payload(rows, rows.tobytes(), _request(name, source.name, rows), direct.run(session, rows))
        for rows in inputs
    ]
    first = payloads[0]
    return Subject(
        name=name,
        path=path,
        input=source.name,
        dtype=first.rows.dtype.name,
        row=first.rows.shape[1:],
        output=output.name,
        answer=first.expected.shape[1:],
        max_batch=made.max_batch,
        payloads=payloads,
        agrees=made.agrees,
    )


def _request(model: str, tensor: str, rows: Array) -> bytes:
    request = inference_pb2.ModelInferRequest(model_name=model, raw_input_contents=[rows.tobytes()])
    request.inputs.add(name=tensor, datatype=_DATATYPES[rows.dtype.name], shape=rows.shape)
    return request.SerializeToString()


def close(expected: Array, answer: Array) -> bool:
    return bool(np.allclose(answer, expected, rtol=1e-3, atol=1e-4))


def alike(expected: Array, answer: Array) -> bool:
    """Of unit vectors, which int8 moves a little with the batch that they were computed in."""
    return float(np.vdot(expected, answer)) >= 0.98


def _picture(rng: np.random.Generator) -> Array:
    pictures = (picture for picture in models.pictures(int(rng.integers(1 << 32))))
    return next(picture[:_SIDE, :_SIDE] for picture in pictures if len(picture) >= _SIDE).copy()


_MADE = {
    MLP: _Made(networks.mlp, lambda rng: rng.standard_normal(networks.MLP_SIZES[0], np.float32), 32, close),
    MINILM: _Made(
        networks.minilm, lambda rng: rng.integers(1, networks.VOCABULARY, networks.TOKENS), 32, alike
    ),
    PARAGRAPHS: _Made(
        networks.minilm, lambda rng: rng.integers(1, networks.VOCABULARY, 4 * networks.TOKENS), 8, alike
    ),
    RESNET50: _Made(partial(models.network, models.Vision.RESNET50), _picture, 1, models.same_probabilities),
    BULK: _Made(networks.bulk, lambda rng: rng.integers(0, 256, networks.BULK_BYTES, np.uint8), 1, close),
}
