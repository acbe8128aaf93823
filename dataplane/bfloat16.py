"""Sessions of models with bfloat16 tensors, which numpy has no dtype for: their elements are passed as uint16."""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from dataplane.datatypes import Array

NAME = "tensor(bfloat16)"
_STRING = "tensor(string)"
# TensorProto.BFLOAT16 of the ONNX format.
_ELEMENT_TYPE = 16


class Bfloat16Session:
    """A session whose bfloat16 inputs and outputs are arrays of uint16, the same bits.

    ONNX Runtime takes and gives them as OrtValues only, and takes all inputs of a run so or none; strings it
    does not take so. Raises ValueError for a model with a string among its inputs.
    """

    def __init__(self, session: ort.InferenceSession) -> None:
        types = {argument.name: argument.type for argument in session.get_inputs()}
        if _STRING in types.values():
            raise ValueError(f"{_STRING} among the inputs of a model with {NAME}")
        self._session = session
        self._inputs = frozenset(name for name, type_ in types.items() if type_ == NAME)
        self.get_inputs = session.get_inputs
        self.get_outputs = session.get_outputs

    def run(self, names: Sequence[str] | None, feed: Mapping[str, Array]) -> list[Array]:
        """As InferenceSession.run."""
        values = {name: self._value(name, array) for name, array in feed.items()}
        return [_array(value) for value in self._session.run_with_ort_values(names, values)]

    def _value(self, name: str, array: Array) -> ort.OrtValue:
        # Strides would be ignored, silently.
        array = np.asarray(array, order="C")
        if name not in self._inputs:
            return ort.OrtValue.ortvalue_from_numpy(array)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ELEMENT_TYPE)


def is_needed(session: ort.InferenceSession) -> bool:
    """Whether any tensor of the model is bfloat16."""
    return any(argument.type == NAME for argument in (*session.get_inputs(), *session.get_outputs()))


def _array(value: ort.OrtValue) -> Array:
    if value.data_type() != NAME:
        array: Array = value.numpy()
        return array
    # Copied: the memory is the value's.
    data: Any = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, "<u2").reshape(value.shape())
