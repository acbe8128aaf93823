"""A model run directly, with nothing between: what answers and times are compared with."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Floats = npt.NDArray[np.float32]


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
