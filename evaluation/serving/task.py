"""What a server is told, as a JSON file that peers read without this package: a model, and where to listen."""

from pathlib import Path
from typing import Self

import msgspec

from evaluation.serving.subjects import Subject


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One model of one input and one output, to be served on a port of the loopback."""

    host: str
    port: int
    model: str
    path: str
    input: str
    dtype: str  # numpy's name
    row: tuple[int, ...]
    output: str
    answer: tuple[int, ...]  # of one row, float32
    max_batch: int

    @classmethod
    def of(cls, subject: Subject, host: str, port: int) -> Self:
        """Serve `subject` there."""
        return cls(
            host=host,
            port=port,
            model=subject.name,
            path=str(subject.path),
            input=subject.input,
            dtype=subject.dtype,
            row=subject.row,
            output=subject.output,
            answer=subject.answer,
            max_batch=subject.max_batch,
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def write(self, path: Path) -> None:
        """As JSON, an object of these names."""
        path.write_bytes(msgspec.json.encode(self))

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"
