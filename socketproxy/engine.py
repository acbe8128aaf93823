"""The engine's side: one request, one connection, one answer of a bounded size."""

import asyncio
import contextlib
import re
from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from typing import TypeVar

import msgspec

T = TypeVar("T")

_MAX_ANSWER_BYTES = 4 << 20  # an inspection has some 10 KiB
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")


class EngineError(Exception):
    """The engine cannot be reached, or says what nobody understands."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and JSON of an answer, be it the engine's or the proxy's own."""

    status: int
    body: bytes

    def encoded(self) -> bytes:
        """As it goes to the client, whose connection ends with it."""
        phrase = responses.get(self.status, "")
        return (
            f"HTTP/1.1 {self.status} {phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        ).encode() + self.body


# Head of an answer that ends when its connection does.
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"


class _Failure(msgspec.Struct):
    message: str


def failure(status: int, message: str) -> Answer:
    """An answer as Docker's errors are."""
    return Answer(status, msgspec.json.encode(_Failure(message)))


class Stream:
    """An answer without an end: a line for each thing that happens."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def line(self) -> bytes:
        """The next one, empty where the engine has ended it all. Raises EngineError."""
        try:
            return await self._reader.readline()
        except (OSError, ValueError) as error:  # one longer than any event is
            raise EngineError(f"engine: expected lines of events: {error}") from error

    def close(self) -> None:
        """Tell the engine that nobody listens any more."""
        self._writer.close()


class Engine:
    """The engine behind a local socket."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def ask(self, method: str, target: str, body: bytes = b"") -> Answer:
        """Send one request; of an error only the message comes back. Raises EngineError."""
        try:
            received = await self._exchange(method, target, body)
        except OSError as error:
            raise EngineError(f"engine unreachable: {error.strerror or error}") from error
        head, end, rest = received.partition(b"\r\n\r\n")
        status = _STATUS.match(head)
        if status is None or not end:
            raise EngineError("engine: expected an HTTP answer")
        answer = Answer(int(status[1]), rest)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            return failure(answer.status, decode(answer, _Failure).message)
        return answer

    async def listen(self, target: str) -> Stream:
        """Send a request whose answer has no end. Raises EngineError."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError as error:
            raise EngineError(f"engine unreachable: {error.strerror or error}") from error
        try:
            writer.write(f"GET {target} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            status = _STATUS.match(await reader.readuntil(b"\r\n\r\n"))
            if status is None or int(status[1]) != HTTPStatus.OK:
                raise EngineError("engine: expected a stream of events")
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            writer.close()
            raise EngineError(f"engine: expected an HTTP answer: {error}") from error
        except BaseException:  # also where it takes too long
            writer.close()
            raise
        return Stream(reader, writer)

    async def _exchange(self, method: str, target: str, body: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            # After an answer to HTTP/1.0 the engine closes, and never sends it in chunks.
            head = f"{method} {target} HTTP/1.0\r\nHost: docker\r\n"
            if body:
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}\r\n".encode() + body)
            received = bytearray()
            while data := await reader.read(65_536):
                received += data
                if len(received) > _MAX_ANSWER_BYTES:
                    raise EngineError(f"engine: expected an answer of at most {_MAX_ANSWER_BYTES} bytes")
            return bytes(received)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def decode(answer: Answer, kind: type[T]) -> T:
    """Take an answer's JSON as `kind`. Raises EngineError."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineError(f"engine: expected another answer: {error}") from error
