"""HTTP/2 by hand, so that it can be wrong."""

import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8

# Names the ping that follows an attack: what was sent before has been looked at when it is answered.
_MARK = b"sponge\0\0"

Header = tuple[str, str]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """One frame, of another length than its payload's if that is given."""
    stated = len(payload) if length is None else length
    return stated.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def grpc_message(data: bytes, compressed: int = 0, length: int | None = None) -> bytes:
    """A message as gRPC frames it, of another length than its own if that is given."""
    stated = len(data) if length is None else length
    return bytes([compressed]) + stated.to_bytes(4, "big") + data


def grpc_headers(path: str, *more: Header) -> list[Header]:
    """What a client sends first."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "worker"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    ]


class Encoder:
    """Encodes headers without a table, so that blocks can be sent in any order, or not at all."""

    def __init__(self) -> None:
        self._encoder = hpack.Encoder()
        self._encoder.header_table_size = 0

    def block(self, headers: Iterable[Header]) -> bytes:
        """A header block."""
        return self._encoder.encode(list(headers), huffman=False)


@dataclass(slots=True)
class Ended:
    """How a stream ended: with headers, or reset."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    reset: int | None = None

    @property
    def status(self) -> int | None:
        """grpc-status, None where there is none."""
        status = self.headers.get("grpc-status")
        return None if status is None else int(status)

    @property
    def message(self) -> str:
        """grpc-message, as text."""
        return unquote(self.headers.get("grpc-message", ""))


class Connection:
    """One TCP connection; reads what comes, and never minds how it ends."""

    def __init__(self, address: str, timeout_s: float = 30.0) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout_s)
        self.closed = False
        self.pinged = False
        self.streams: dict[int, Ended] = {}
        self.ended: set[int] = set()
        self.farewell = b""  # what a GOAWAY said
        self._decoder = hpack.Decoder()
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send as much as the peer takes."""
        try:
            self.socket.sendall(data)
        except OSError:
            self.closed = True

    def greet(self) -> None:
        """Preface and settings."""
        self.send(PREFACE + frame(SETTINGS, 0, 0))

    def settle(self, seconds: float) -> None:
        """Wait until the peer has looked at all that was sent, or has closed, for so long at most."""
        self.send(frame(PING, 0, 0, _MARK))
        self._read(seconds, lambda: self.pinged)

    def wait(self, streams: set[int], seconds: float) -> set[int]:
        """Wait for streams to end; those that have not, though the connection is there."""
        self._read(seconds, lambda: streams <= self.ended)
        return set() if self.closed else streams - self.ended

    def _read(self, seconds: float, done) -> None:
        give_up_at = time.monotonic() + seconds
        while not self.closed and not done():
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                return
            self.socket.settimeout(left_s)
            try:
                data = self.socket.recv(1 << 16)
            except TimeoutError:
                return
            except OSError:
                data = b""
            if not data:
                self.closed = True
            self._buffer += data
            self._take_frames()

    def _take_frames(self) -> None:
        while len(self._buffer) >= 9:
            length = int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < 9 + length:
                return
            kind, flags = self._buffer[3], self._buffer[4]
            stream = int.from_bytes(self._buffer[5:9], "big")
            payload, self._buffer = self._buffer[9 : 9 + length], self._buffer[9 + length :]
            self._take(kind, flags, stream, payload)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        told = self.streams.setdefault(stream, Ended())
        if kind == PING and flags & ACK:
            self.pinged = payload == _MARK
        elif kind in (PING, SETTINGS) and not flags & ACK:
            self.send(frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == GOAWAY:
            self.farewell = payload[8:]
        elif kind == HEADERS:
            for name, value in self._decoder.decode(payload, raw=True):
                told.headers[name.decode()] = value.decode(errors="replace")
        elif kind == DATA:
            told.data += payload
        elif kind == RST_STREAM:
            told.reset = int.from_bytes(payload, "big")
            self.ended.add(stream)
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            self.ended.add(stream)
