"""Inputs to warm a model up with."""

from collections.abc import Mapping, Sequence

import numpy as np

from dataplane.execution import ModelError
from dataplane.tensors import Array, TensorSpec

UNFIT = "its inputs are not those of model.warmup_shapes"

Shapes = Mapping[str, Sequence[int]]
_FIELD = "model.warmup_shapes"


class Warmup:
    """Zeros in the shapes of a model's inputs, of which there are `buckets`.

    `shapes`, the setting model.warmup_shapes, gives the sizes of one row of inputs with free dimensions: of
    all dimensions but a free first one; or a list of such, one for each bucket. Free sizes of other inputs count
    as 1. Raises ModelError for shapes that are not the model's.
    """

    def __init__(self, inputs: Sequence[TensorSpec], shapes: Shapes | Sequence[Shapes]) -> None:
        self._inputs = inputs
        if isinstance(shapes, Mapping):
            buckets = {_FIELD: shapes}
        else:
            buckets = {f"{_FIELD}[{index}]": bucket for index, bucket in enumerate(shapes)} or {_FIELD: {}}
        self._given = frozenset.intersection(*(frozenset(bucket) for bucket in buckets.values()))
        self._rows = [_rows(inputs, bucket, field) for field, bucket in buckets.items()]

    @property
    def guessed(self) -> list[str]:
        """Inputs with sizes that nobody gave."""
        return [spec.name for spec in self._inputs if None in _row_of(spec) and spec.name not in self._given]

    @property
    def buckets(self) -> int:
        """How many shapes there are to warm up with; one at least."""
        return len(self._rows)

    def zeros(self, rows: int, bucket: int = 0) -> dict[str, Array]:
        """Inputs of so many rows; strings are empty. A fixed first dimension stays as it is."""
        feed: dict[str, Array] = {}
        for spec in self._inputs:
            row = self._rows[bucket][spec.name]
            shape = (rows, *row) if _has_free_lead(spec) else row
            feed[spec.name] = np.full(shape, "" if spec.datatype == "BYTES" else 0, spec.dtype)
        return feed


def _has_free_lead(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape[0] is None


def _row_of(spec: TensorSpec) -> tuple[int | None, ...]:
    return spec.shape[1:] if _has_free_lead(spec) else spec.shape


def _rows(inputs: Sequence[TensorSpec], given: Shapes, field: str) -> dict[str, tuple[int, ...]]:
    """The size of one row of each input."""
    if unknown := given.keys() - {spec.name for spec in inputs}:
        expected = ", ".join(spec.name for spec in inputs)
        raise ModelError(f"{field}.{min(unknown)}: expected an input of the model: {expected}", UNFIT)
    return {spec.name: _row(spec, given.get(spec.name), field) for spec in inputs}


def _row(spec: TensorSpec, given: Sequence[int] | None, field: str) -> tuple[int, ...]:
    declared = _row_of(spec)
    row = tuple(given) if given is not None else tuple(1 if size is None else size for size in declared)
    if len(row) != len(declared) or any(
        size not in (None, chosen) for size, chosen in zip(declared, row, strict=True)
    ):
        expected = ", ".join("any" if size is None else str(size) for size in declared)
        raise ModelError(f"{field}.{spec.name}: expected [{expected}], found {list(row)}", UNFIT)
    return row
