"""What a client hears of a handler that fails."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry

from core.edge import Edge
from tests.fuzz.http2 import END_HEADERS, HEADERS, PREFACE, SETTINGS, Encoder, frame, grpc_headers

SECRET = "the password is swordfish"


async def fails(_request, _context):
    raise RuntimeError(SECRET)


async def aborts(_request, context):
    await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


async def fails_after_one(requests, _context):
    yield await anext(requests)
    raise RuntimeError(SECRET)


async def fails_after_writing(requests, context):
    await context.write(await anext(aiter(requests)))
    raise RuntimeError(SECRET)


async def echoes(request, _context):
    return request


async def joins(requests, _context):
    return b"".join([request async for request in requests])


async def repeats(request, _context):
    yield request


async def relays(requests, _context):
    async for request in requests:
        yield request


def cannot_decode(_message):
    raise DecodeError(SECRET)


def cannot_encode(_message):
    raise ValueError(SECRET)


class Waits:
    """A stream that ends only when its client does."""

    def __init__(self):
        self.over = asyncio.Event()

    async def answer(self, requests, _context):
        try:
            async for request in requests:
                yield request
        finally:
            self.over.set()


@asynccontextmanager
async def listening(handlers, **options):
    """The address of an edge with these methods."""
    edge = Edge(["test.Service"], **options)
    edge.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    addresses = await edge.listen("127.0.0.1:0", "", CollectorRegistry())
    try:
        yield addresses["listen"]
    finally:
        await edge.stop()


@asynccontextmanager
async def calling(**handlers):
    """A channel to an edge with these methods."""
    async with listening(handlers) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


async def error_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_an_exception_is_an_internal_error_and_no_more():
    async with calling(Call=grpc.unary_unary_rpc_method_handler(fails)) as channel:
        call = channel.unary_unary("/test.Service/Call")(b"")
        assert await error_of(call) == (grpc.StatusCode.INTERNAL, "internal error")


@pytest.mark.parametrize("handler", [fails_after_one, fails_after_writing])
async def test_in_a_stream_as_well(handler):
    async with calling(Call=grpc.stream_stream_rpc_method_handler(handler)) as channel:
        call = channel.stream_stream("/test.Service/Call")(iter([b"one"]))
        assert await call.read() == b"one"
        assert await error_of(call.read()) == (grpc.StatusCode.INTERNAL, "internal error")


KINDS = pytest.mark.parametrize(
    ("kind", "handler"),
    [("unary_unary", echoes), ("unary_stream", repeats), ("stream_unary", joins), ("stream_stream", relays)],
)


async def answer_to(channel, kind, method="/test.Service/Call", message=b"one"):
    """The first answer to one message."""
    call = getattr(channel, kind)(method)(iter([message]) if kind.startswith("stream") else message)
    return await call.read() if kind.endswith("stream") else await call


@KINDS
async def test_every_kind_of_call_is_answered(kind, handler):
    method = getattr(grpc, f"{kind}_rpc_method_handler")(handler, bytes.upper, bytes.title)
    async with calling(Call=method) as channel:
        assert await answer_to(channel, kind) == b"One"


@KINDS
async def test_a_request_that_cannot_be_decoded_is_invalid_in_every_kind_of_call(kind, handler):
    method = getattr(grpc, f"{kind}_rpc_method_handler")(handler, cannot_decode)
    async with calling(Call=method) as channel:
        code, text = await error_of(answer_to(channel, kind))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text == "request: expected a message of this method's type"


@KINDS
async def test_an_answer_that_cannot_be_encoded_is_an_internal_error(kind, handler):
    method = getattr(grpc, f"{kind}_rpc_method_handler")(handler, None, cannot_encode)
    async with calling(Call=method) as channel:
        assert await error_of(answer_to(channel, kind)) == (grpc.StatusCode.INTERNAL, "internal error")


async def test_methods_that_nobody_has_added_are_unimplemented():
    async with calling(Call=grpc.unary_unary_rpc_method_handler(echoes)) as channel:
        for method in ("/test.Service/Other", "/other.Service/Call"):
            code, _ = await error_of(channel.unary_unary(method)(b""))
            assert code is grpc.StatusCode.UNIMPLEMENTED
        assert await channel.unary_unary("/test.Service/Call")(b"one") == b"one"


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("unary_unary", "/grpc.health.v1.Health/Check"),
        ("unary_stream", "/grpc.health.v1.Health/Watch"),
        ("stream_stream", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
    ],
)
async def test_health_and_reflection_are_no_exception(kind, method):
    async with calling() as channel:
        code, text = await error_of(answer_to(channel, kind, method, b"\xff"))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text == "request: expected a message of this method's type"


async def test_what_a_handler_says_itself_is_said():
    async with calling(Call=grpc.unary_unary_rpc_method_handler(aborts)) as channel:
        call = channel.unary_unary("/test.Service/Call")(b"")
        assert await error_of(call) == (grpc.StatusCode.NOT_FOUND, "no such thing")


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_a_call_without_a_message_ends(kind):
    handler = getattr(grpc, f"{kind}_rpc_method_handler")(fails if kind == "unary_unary" else fails_after_one)
    async with calling(Call=handler) as channel:
        call = channel.stream_stream("/test.Service/Call")()
        await call.done_writing()
        assert await error_of(call.read()) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "request: expected one message, got none",
        )


async def test_a_message_too_large_to_be_decoded_here():
    async with calling(Call=grpc.unary_unary_rpc_method_handler(echoes)) as channel:
        call = channel.unary_unary("/test.Service/Call")
        assert len(await call(bytes(1 << 20))) == 1 << 20
        assert await error_of(call(bytes((1 << 20) + 1))) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "request: expected at most 1048576 bytes, found 1048577",
        )


async def test_a_client_that_leaves_ends_the_handler():
    waits = Waits()
    async with calling(Call=grpc.stream_stream_rpc_method_handler(waits.answer)) as channel:
        call = channel.stream_stream("/test.Service/Call")()
        await call.write(b"one")
        assert await call.read() == b"one"
        call.cancel()
        await waits.over.wait()


class TestPeersThatAreGone:
    """Their machines answer nothing any more, nor say that they have closed."""

    @asynccontextmanager
    async def connected(self, address, said):
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said)
        try:
            yield reader
        finally:
            writer.close()

    async def test_calls_of_theirs_end(self):
        waits = Waits()
        handlers = {"Call": grpc.stream_stream_rpc_method_handler(waits.answer)}
        header = Encoder().block(grpc_headers("/test.Service/Call"))
        said = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, header)
        async with listening(handlers, patience_s=0.3) as address, self.connected(address, said):
            await waits.over.wait()

    @pytest.mark.parametrize(
        "said", [b"", PREFACE, PREFACE + frame(SETTINGS, 0, 0)], ids=["nothing", "half", "idle"]
    )
    async def test_connections_that_are_no_use_are_closed(self, said):
        async with listening({}, patience_s=0.3) as address, self.connected(address, said) as reader:
            await reader.read()
