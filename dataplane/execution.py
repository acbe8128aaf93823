"""What the worker's loop needs of an engine, without ONNX Runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dataplane.tensors import Array, ModelSignature


class EngineError(Exception):
    """An execution failed, or could not be prepared; the text is for logs, never for clients."""


class ModelError(Exception):
    """A model that cannot be served as configured; the text is one line for the user.

    `reason` says as much as clients may know: neither paths nor the texts of others.
    """

    def __init__(self, text: str, reason: str = "it cannot be served as configured") -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Timing:
    """What one execution of `rows` rows of `elements` elements each took on `threads` intra-op threads.

    Seconds; `cpu_s` is the calling thread's alone, the whole work where threads = 1.
    """

    rows: int
    threads: int
    wall_s: float
    cpu_s: float
    elements: int = 1


@dataclass(frozen=True, slots=True)
class Executed:
    """One execution: the outputs of each request of the batch, in its order, and its times as in Timing."""

    outputs: list[dict[str, Array]]
    wall_s: float
    cpu_s: float


class Runs(Protocol):
    """A model that can be run on any number of threads, from several threads at once.

    Everything that takes time is blocking, and meant to be called off the event loop.
    """

    @property
    def signature(self) -> ModelSignature:
        """What the model takes and gives."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the model file, in hexadecimal."""
        ...

    def has(self, threads: int) -> bool:
        """Whether executions on this many threads can start at once."""
        ...

    def rung_bytes(self) -> Mapping[int, int]:
        """What the process has grown by for each number of threads while that was prepared.

        The runtime tells nothing closer: executions that ran meanwhile are in it.
        """
        ...

    def prepare(self, threads: int, batches: Sequence[int]) -> list[Timing]:
        """Make executions on `threads` threads of these batch sizes fast, in each shape there is to warm up with.

        Gives the time of one of each.

        Raises EngineError.
        """
        ...

    def run(self, threads: int, batch: Sequence[Mapping[str, Array]]) -> Executed:
        """Execute requests of equal shape_key as one batch; one request where the model is not batched.

        Raises EngineError.
        """
        ...

    def close(self) -> None:
        """Let go of memory and files; what runs is finished first, and nothing runs after that."""
        ...
