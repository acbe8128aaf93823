"""Attacks on gRPC and the protocol above it: one call each, on its own stream of a sound connection."""

import gzip
import random
from collections.abc import Callable

from tests.fuzz.bodies import Bodies, identity
from tests.fuzz.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Encoder,
    Header,
    frame,
    grpc_headers,
    grpc_message,
)

SERVICE = "/inference.GRPCInferenceService/"
INFER = SERVICE + "ModelInfer"
OTHERS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
STREAM = SERVICE + "ModelStreamInfer"
_FOREIGN = (
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
_UNKNOWN = (
    "/",
    "",
    "ModelInfer",
    SERVICE,
    SERVICE + "Other",
    "/other/ModelInfer",
    "//",
    SERVICE + "../x",
    "/\xff",
    "/" + "x" * 5000,
)

# What a client may say of itself. A dozen of each will do.
_TIMEOUTS = ("x", "", "1", "S", "-1S", "0n", "1n", "99999999H", "999999999999H", "1.5S", "1 S", "\x00", "1u")
_SENT_S = ("nan", "inf", "-inf", "1e400", "1e308", "-1e308", "0", "x", "", "0x10", "1_0", "٣", "1" * 400)
_ENCODINGS = ("gzip", "deflate", "identity", "snappy", "", "gzip,gzip", "\x7f", "x" * 300)


class Calls:
    """An endless supply for a worker that gives FP32 x [N, T] back, named m; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._bodies = Bodies(seed, (identity("FP32"),))

    def next(self, stream: int, encoder: Encoder) -> tuple[bytes, bool]:
        """All frames of a call, which ends on this side or by its deadline; and whether it is to be answered."""
        kind = self._random.choice(_KINDS)
        return kind(self, stream, encoder), kind is not Calls.abandoned

    def good_or_bad_body(self, stream: int, encoder: Encoder) -> bytes:
        """Framed as it should be."""
        return _call(stream, encoder, INFER, grpc_message(self._body()))

    def wrong_prefix(self, stream: int, encoder: Encoder) -> bytes:
        """Longer or shorter than it says."""
        body = self._body()
        length = self._random.choice((0, 1, len(body) - 1, len(body) + 1, 2**20, 2**31, 2**32 - 1))
        return _call(stream, encoder, INFER, grpc_message(body, length=max(0, length)))

    def part_of_a_prefix(self, stream: int, encoder: Encoder) -> bytes:
        """Less than five bytes, or nothing."""
        return _call(stream, encoder, INFER, grpc_message(b"")[: self._random.randrange(5)])

    def falsely_compressed(self, stream: int, encoder: Encoder) -> bytes:
        """A flag that is not so, or that does not exist, with an encoding or without."""
        dice = self._random
        more = (("grpc-encoding", dice.choice(_ENCODINGS)),) if dice.random() < 0.7 else ()
        message = grpc_message(self._body(), compressed=dice.choice((1, 1, 2, 255)))
        return _call(stream, encoder, INFER, message, *more)

    def compressed(self, stream: int, encoder: Encoder) -> bytes:
        """Truly, but perhaps cut off."""
        dice = self._random
        body = gzip.compress(self._body(), 1, mtime=0)
        if dice.random() < 0.5:
            body = body[: dice.randrange(len(body))]
        return _call(stream, encoder, INFER, grpc_message(body, compressed=1), ("grpc-encoding", "gzip"))

    def several_messages(self, stream: int, encoder: Encoder) -> bytes:
        """In a call that has one; or bytes behind it."""
        dice = self._random
        body = grpc_message(self._body())
        return _call(
            stream, encoder, INFER, body + dice.choice((body, grpc_message(b""), b"\0", b"trailing"))
        )

    def no_message(self, stream: int, encoder: Encoder) -> bytes:
        """A header that is all."""
        path = self._random.choice((INFER, STREAM, *(SERVICE + name for name in OTHERS)))
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, encoder.block(grpc_headers(path)))

    def odd_metadata(self, stream: int, encoder: Encoder) -> bytes:
        """Deadlines and clocks that are none."""
        dice = self._random
        more = dice.choice(
            (
                ("grpc-timeout", dice.choice(_TIMEOUTS)),
                ("sent-s", dice.choice(_SENT_S)),
                ("grpc-encoding", dice.choice(_ENCODINGS)),
                ("grpc-accept-encoding", dice.choice(_ENCODINGS)),
                ("x-bin", "not base64!"),
                ("x", "y" * dice.randrange(4000)),
                ("content-type", "text/html"),
                ("grpc-status", "0"),
                ("grpc-message", "%"),
                ("", "nameless"),
            )
        )
        return _call(stream, encoder, INFER, grpc_message(self._body()), more)

    def no_grpc(self, stream: int, encoder: Encoder) -> bytes:
        """Headers of something else."""
        dice = self._random
        headers = grpc_headers(INFER)
        at = dice.randrange(len(headers))
        if dice.random() < 0.5:
            del headers[at]
        else:
            headers[at] = (headers[at][0], dice.choice(("", "GET", "x", "\xff")))
        return frame(HEADERS, END_HEADERS, stream, encoder.block(headers)) + frame(
            DATA, END_STREAM, stream, grpc_message(self._body())
        )

    def other_method(self, stream: int, encoder: Encoder) -> bytes:
        """Any body to any method."""
        dice = self._random
        path = dice.choice((*(SERVICE + name for name in OTHERS), *_FOREIGN, *_UNKNOWN))
        body = self._body() if dice.random() < 0.5 else dice.randbytes(dice.randrange(40))
        return _call(stream, encoder, path, grpc_message(body))

    def stream_of_requests(self, stream: int, encoder: Encoder) -> bytes:
        """Good and bad ones on one call."""
        bodies = [grpc_message(self._body()) for _ in range(self._random.randrange(1, 6))]
        return _call(stream, encoder, STREAM, b"".join(bodies))

    def body_that_stops(self, stream: int, encoder: Encoder) -> bytes:
        """Until its deadline has passed."""
        message = grpc_message(self._body())
        part = message[: self._random.randrange(len(message))]
        headers = grpc_headers(INFER, ("grpc-timeout", f"{self._random.randrange(1, 50)}m"))
        return frame(HEADERS, END_HEADERS, stream, encoder.block(headers)) + frame(DATA, 0, stream, part)

    def abandoned(self, stream: int, encoder: Encoder) -> bytes:
        """Reset behind a body that is good, or in the middle."""
        call = _call(stream, encoder, INFER, grpc_message(self._body()))
        reset = frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
        return call + reset

    def frames_of_one_byte(self, stream: int, encoder: Encoder) -> bytes:
        """A body in the smallest of portions."""
        message = grpc_message(self._body()[:300])
        headers = frame(HEADERS, END_HEADERS, stream, encoder.block(grpc_headers(INFER)))
        parts = b"".join(frame(DATA, 0, stream, message[at : at + 1]) for at in range(len(message)))
        return headers + parts + frame(DATA, END_STREAM, stream)

    def _body(self) -> bytes:
        body, _ = self._bodies.next()
        return body


def _call(stream: int, encoder: Encoder, path: str, data: bytes, *more: Header) -> bytes:
    """A header with everything behind it, in frames of the usual size."""
    parts = [data[at : at + 16_384] for at in range(0, len(data), 16_384)] or [b""]
    frames = [frame(DATA, 0, stream, part) for part in parts[:-1]]
    return b"".join(
        (
            frame(HEADERS, END_HEADERS, stream, encoder.block(grpc_headers(path, *more))),
            *frames,
            frame(DATA, END_STREAM, stream, parts[-1]),
        )
    )


# Bodies are what is most worth varying.
_KINDS: tuple[Callable[[Calls, int, Encoder], bytes], ...] = (
    *(Calls.good_or_bad_body,) * 6,
    Calls.wrong_prefix,
    Calls.part_of_a_prefix,
    Calls.falsely_compressed,
    Calls.compressed,
    Calls.several_messages,
    Calls.no_message,
    Calls.odd_metadata,
    Calls.no_grpc,
    Calls.other_method,
    Calls.stream_of_requests,
    Calls.body_that_stops,
    Calls.abandoned,
    Calls.frames_of_one_byte,
)
