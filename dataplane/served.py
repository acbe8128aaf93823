"""What a worker serves just now."""

import enum
from dataclasses import dataclass, field
from typing import Self

from dataplane.codec import Codec
from dataplane.execution import Runs
from dataplane.tensors import ModelSignature


class UnknownModel(Exception):
    """A model name or version that is not the one served; the text is for the client."""


class State(enum.Enum):
    """Whether requests are taken."""

    LOADING = "the model is still loading"
    SERVING = "serving"
    UNLOADED = "the model is unloaded"
    DRAINING = "the server is draining"


@dataclass(frozen=True, slots=True)
class Model:
    """A model that was loaded.

    `generation` numbers the loads of this process: requests are executed by the one that they were checked
    against. `digest` is the file's SHA-256; `max_rows` are the most of a request, and of a batch.
    """

    generation: int
    signature: ModelSignature
    digest: str
    max_rows: int
    codec: Codec = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "codec", Codec(self.signature, self.max_rows))

    @classmethod
    def of(cls, engine: Runs, generation: int, max_batch: int) -> Self:
        """What `engine` has loaded; batches have `max_batch` rows at most, where it knows any."""
        return cls(generation, engine.signature, engine.digest, max_batch if engine.signature.batched else 1)

    def check(self, name: str, version: str) -> None:
        """Raises UnknownModel unless this is what a client means; an empty version is any."""
        if name != self.signature.name:
            raise UnknownModel(f"model_name: expected {self.signature.name!r}, got {name[:100]!r}")
        if version not in ("", self.signature.version):
            raise UnknownModel(f"model_version: expected {self.signature.version!r}, got {version[:100]!r}")


@dataclass(slots=True)
class Served:
    """What is served, read anew by each request; `model` is the last one while none is loaded."""

    model: Model
    state: State = State.LOADING
