"""Clients that cost little: bytes that were made before go out, bytes that are looked at later come in."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import numpy as np

from evaluation.serving.recipes import Dialect
from evaluation.serving.subjects import Array, Payload
from protos import inference_pb2

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # else all channels of the process share one connection
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Unanswered(Exception):
    """A request that got no answer; `status` is gRPC's name for it, or HTTP's number."""

    def __init__(self, status: str, detail: str = "") -> None:
        super().__init__(f"{status} {detail}".strip())
        self.status = status


class Client(Protocol):
    """A way to one server, over one connection with gRPC, one for each open request with HTTP."""

    @property
    def gives_up(self) -> bool:
        """Whether a request whose deadline has passed is given up at once; over HTTP it costs its connection."""

    async def infer(self, payload: Payload, timeout_s: float) -> bytes:
        """Give the answer as it came. Raises Unanswered."""

    def decode(self, answer: bytes) -> Array:
        """Give the numbers in it, float32 [·]; of none if there are none."""


@asynccontextmanager
async def connect(dialect: Dialect, address: str) -> AsyncIterator[Client]:
    """Speak to the server at `address` (HOST:PORT) while the block runs."""
    if dialect is Dialect.GRPC:
        async with grpc.aio.insecure_channel(f"ipv4:{address}", _OPTIONS) as channel:
            yield _Grpc(channel.unary_unary(_METHOD))
    elif dialect is Dialect.HTTP:
        # What it is made of comes with the development environment only.
        from evaluation.serving import over_http

        async with over_http.connect(address) as way:
            yield way
    else:
        raise ValueError(f"{dialect}: expected a server that takes requests")


@dataclass(frozen=True, slots=True)
class _Grpc:
    call: "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"

    @property
    def gives_up(self) -> bool:
        return True

    async def infer(self, payload: Payload, timeout_s: float) -> bytes:
        try:
            return await self.call(payload.request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise Unanswered(error.code().name, error.details() or "") from error

    def decode(self, answer: bytes) -> Array:
        response = inference_pb2.ModelInferResponse.FromString(answer)
        if response.raw_output_contents:
            return np.frombuffer(response.raw_output_contents[0], np.float32)
        typed = [value for output in response.outputs for value in output.contents.fp32_contents]
        return np.array(typed, np.float32)


async def loop(address: str, rows: Array, seconds: float, folder: Path) -> tuple[list[float], Array]:
    """Let the bare loop at `address` run the batch `rows` for so long: seconds of each execution, the last answer."""
    source, answer = folder / "rows.npy", folder / "answer.npy"
    np.save(source, rows)
    host, _, port = address.rpartition(":")
    # A line of a minute's executions is longer than the default limit.
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 26)
    try:
        writer.write(json.dumps([str(source), seconds, str(answer)]).encode() + b"\n")
        took: list[float] = json.loads(await reader.readline())
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return took, np.load(answer)
