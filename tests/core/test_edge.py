"""What a client hears of a handler that fails."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from prometheus_client import CollectorRegistry

from core.edge import Edge

SECRET = "the password is swordfish"


async def fails(_request, _context):
    raise RuntimeError(SECRET)


async def aborts(_request, context):
    await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


async def fails_after_one(requests, _context):
    yield await anext(requests)
    raise RuntimeError(SECRET)


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
async def calling(**handlers):
    """A channel to an edge with these methods."""
    edge = Edge(["test.Service"])
    edge.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    addresses = await edge.listen("127.0.0.1:0", "", CollectorRegistry())
    try:
        async with grpc.aio.insecure_channel(addresses["listen"]) as channel:
            yield channel
    finally:
        await edge.stop()


async def error_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_an_exception_is_an_internal_error_and_no_more():
    async with calling(Call=grpc.unary_unary_rpc_method_handler(fails)) as channel:
        call = channel.unary_unary("/test.Service/Call")(b"")
        assert await error_of(call) == (grpc.StatusCode.INTERNAL, "internal error")


async def test_in_a_stream_as_well():
    async with calling(Call=grpc.stream_stream_rpc_method_handler(fails_after_one)) as channel:
        call = channel.stream_stream("/test.Service/Call")(iter([b"one"]))
        assert await call.read() == b"one"
        assert await error_of(call.read()) == (grpc.StatusCode.INTERNAL, "internal error")


async def test_what_a_handler_says_itself_is_said():
    async with calling(Call=grpc.unary_unary_rpc_method_handler(aborts)) as channel:
        call = channel.unary_unary("/test.Service/Call")(b"")
        assert await error_of(call) == (grpc.StatusCode.NOT_FOUND, "no such thing")


async def test_a_client_that_leaves_ends_the_handler():
    waits = Waits()
    async with calling(Call=grpc.stream_stream_rpc_method_handler(waits.answer)) as channel:
        call = channel.stream_stream("/test.Service/Call")()
        await call.write(b"one")
        assert await call.read() == b"one"
        call.cancel()
        await waits.over.wait()
