"""Attacks on HTTP/2 itself: what is sent on one connection."""

import random
from collections.abc import Callable

from tests.fuzz.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Encoder,
    frame,
    grpc_headers,
)

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_HELLO = PREFACE + frame(SETTINGS, 0, 0)
_MANY = 200


def _block(*more: tuple[str, str]) -> bytes:
    return Encoder().block(grpc_headers(_INFER, *more))


def _opened(stream: int, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, _block())


def no_http2(dice: random.Random) -> bytes:
    """Another protocol, or none."""
    return dice.choice(
        (
            b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + dice.randbytes(300),  # TLS
            b"\0" * 4096,
            PREFACE[: dice.randrange(len(PREFACE))],
            PREFACE[:-1] + b"X",
            PREFACE + PREFACE,
            dice.randbytes(dice.randrange(1, 2000)),
        )
    )


def truncated(dice: random.Random) -> bytes:
    """A frame that ends before its length."""
    whole = frame(dice.randrange(10), dice.randrange(256), dice.choice((0, 1)), dice.randbytes(100))
    return _HELLO + _opened(1) + whole[: dice.randrange(1, len(whole))]


def wrong_length(dice: random.Random) -> bytes:
    """A frame of a length that its type cannot have."""
    return _HELLO + dice.choice(
        (
            frame(SETTINGS, 0, 0, b"\0" * 5),
            frame(SETTINGS, ACK, 0, b"\0" * 6),
            frame(PING, 0, 0, b"\0" * 7),
            frame(WINDOW_UPDATE, 0, 0, b"\0" * 3),
            frame(RST_STREAM, 0, 1, b"\0" * 5),
            frame(PRIORITY, 0, 1, b"\0" * 4),
            frame(GOAWAY, 0, 0, b"\0" * 3),
            _opened(1) + frame(DATA, PADDED, 1, b"\xff" + b"\0" * 10),
            _opened(1) + frame(DATA, PADDED, 1),
            frame(HEADERS, PADDED | END_HEADERS, 1, b"\xff" + _block()),
            _opened(1) + frame(DATA, 0, 1, b"\0" * 100, length=(1 << 24) - 1),
            frame(HEADERS, END_HEADERS, 1, b"", length=(1 << 24) - 1) + b"\0" * 20_000,
        )
    )


def wrong_stream(dice: random.Random) -> bytes:
    """A frame on a stream that cannot have it."""
    return _HELLO + dice.choice(
        (
            frame(HEADERS, END_HEADERS, 0, _block()),
            frame(DATA, 0, 0, b"abc"),
            frame(DATA, END_STREAM, 7, b"abc"),
            frame(HEADERS, END_HEADERS, 2, _block()),
            frame(SETTINGS, 0, 1),
            frame(PING, 0, 1, b"\0" * 8),
            frame(RST_STREAM, 0, 0, b"\0" * 4),
            frame(RST_STREAM, 0, 99, b"\0" * 4),
            frame(WINDOW_UPDATE, 0, 99, b"\0\0\0\1"),
            _opened(5) + _opened(3),
            _opened(1, END_HEADERS | END_STREAM) + frame(DATA, 0, 1, b"after the end"),
            _opened(1) + _opened(1) + _opened(1),
            frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + _block()),
            frame(PRIORITY, 0, 1, b"\0\0\0\1\0"),  # depends on itself
            frame(CONTINUATION, END_HEADERS, 1, _block()),
            frame(HEADERS, 0, 1, _block()) + frame(DATA, 0, 1, b"between"),
            frame(HEADERS, 0, 1, _block()) + frame(CONTINUATION, END_HEADERS, 3, b""),
        )
    )


def bad_headers(dice: random.Random) -> bytes:
    """A header block that cannot be decoded, or should not be."""
    block = dice.choice(
        (
            dice.randbytes(dice.randrange(1, 300)),
            b"\x80",  # index 0
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x0f",  # an index of 70 bits
            b"\x3f\xff\xff\xff\xff\x0f",  # a table of 4 GiB
            b"\x00\x7f\xff\xff\xff\x7f" + b"a" * 100,  # a name longer than the block
            b"\x00\x81\xff\x01a",  # wrong Huffman
            _block()[:-3],
            _block((":path", _INFER)),
            _block(("Upper", "case")),
            _block(("x", "a\r\nb: c")),
            _block(("x\0", "y")),
            _block(("connection", "close"), ("transfer-encoding", "chunked")),
            _block(("content-length", "-1")),
            Encoder().block([(":method", "GET"), (":path", _INFER), (":scheme", "http")]),
            Encoder().block([(":method", "POST")]),
            Encoder().block([("te", "trailers"), *grpc_headers("")]),
            b"",
        )
    )
    return _HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, block)


def huge_headers(dice: random.Random) -> bytes:
    """More headers than anybody needs, in frames as large as they may be."""
    size = dice.choice((9_000, 17_000, 70_000, 1_000_000))
    block = _block(("x", "y" * size)) if dice.random() < 0.5 else _block() + b"\x00\x01x\x01y" * (size // 5)
    parts = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    frames = [frame(HEADERS if at == 0 else CONTINUATION, 0, 1, part) for at, part in enumerate(parts)]
    return _HELLO + b"".join(frames) + frame(CONTINUATION, END_HEADERS, 1)


def table_bomb(dice: random.Random) -> bytes:
    """A large header in the table, and a thousand references to it."""
    entry = b"\x40\x01x" + b"\x7f\x81\x1e" + b"y" * 4000
    return _HELLO + frame(
        HEADERS, END_HEADERS | END_STREAM, 1, _block() + entry + b"\xbe" * dice.choice((4, 400, 4000))
    )


def continuation_flood(dice: random.Random) -> bytes:
    """Headers that never end."""
    payload = dice.choice((b"", b"\x00\x01x\x01y", b"\x00\x01x\x7f\x81\x06" + b"y" * 1000))
    return _HELLO + frame(HEADERS, 0, 1, _block()) + frame(CONTINUATION, 0, 1, payload) * _MANY


def reset_flood(dice: random.Random) -> bytes:
    """Streams that are reset as soon as they are open: «rapid reset»."""
    block = _block()
    code = dice.choice((0, 7, 8, 2**32 - 1)).to_bytes(4, "big")
    flags = dice.choice((END_HEADERS, END_HEADERS | END_STREAM))
    return _HELLO + b"".join(
        frame(HEADERS, flags, stream, block) + frame(RST_STREAM, 0, stream, code)
        for stream in range(1, 2 * _MANY, 2)
    )


def window_overflow(dice: random.Random) -> bytes:
    """More room than a window can have, or none at all."""
    increment = dice.choice((0, 1, 2**31 - 1, 2**32 - 1)).to_bytes(4, "big")
    return (
        _HELLO
        + _opened(1)
        + frame(WINDOW_UPDATE, 0, dice.choice((0, 1)), increment) * dice.choice((1, 2, _MANY))
    )


def settings_flood(dice: random.Random) -> bytes:
    """Many settings, or such as are not allowed."""
    setting = dice.randrange(0, 8).to_bytes(2, "big") + dice.choice(
        (0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1)
    ).to_bytes(4, "big")
    return _HELLO + frame(SETTINGS, 0, 0, setting * dice.choice((1, 100))) * dice.choice((1, _MANY))


def ping_flood(dice: random.Random) -> bytes:
    """Pings, all of which want an answer."""
    return _HELLO + frame(PING, dice.choice((0, ACK)), 0, dice.randbytes(8)) * _MANY


def empty_data_flood(dice: random.Random) -> bytes:
    """Frames that carry nothing, of a body that never comes."""
    return _HELLO + _opened(1) + frame(DATA, 0, 1) * _MANY * dice.choice((1, 10))


def goodbye(dice: random.Random) -> bytes:
    """A client that goes away in the middle, and then does not."""
    last = dice.choice((0, 1, 2**31 - 1)).to_bytes(4, "big")
    return _HELLO + _opened(1) + frame(GOAWAY, 0, 0, last + b"\0\0\0\2" + b"bye") + _opened(3)


def noise(dice: random.Random) -> bytes:
    """Frames of any type, flags, stream and payload."""
    return _HELLO + b"".join(
        frame(
            dice.choice((*range(10), 255)),
            dice.randrange(256),
            dice.choice((0, 1, 1, 3, 2**31 - 1, 2**32 - 1)),
            dice.randbytes(dice.randrange(40)),
        )
        for _ in range(dice.randrange(1, 30))
    )


ATTACKS: tuple[Callable[[random.Random], bytes], ...] = (
    no_http2,
    truncated,
    wrong_length,
    wrong_stream,
    bad_headers,
    huge_headers,
    table_bomb,
    continuation_flood,
    reset_flood,
    window_overflow,
    settings_flood,
    ping_flood,
    empty_data_flood,
    goodbye,
    noise,
)
