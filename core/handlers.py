"""What answers the calls of a port: handlers whose faults end their call and tell strangers nothing."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError

# Of a single request that is decoded here. Parsing takes up to 20 times the memory: 64 MiB, meant for tensors, of empty
# parameters to load a model with were 1.3 GiB, and stopped the process for 6 s.
_MAX_BYTES = 1 << 20

# gRPC cancels the handler of a call that is over at its next turn, which where hundreds end at once is not soon: after
# 10 ms one in a hundred had not been, and counted as a call without a message.
_CANCELLATION_S = 0.25

log = structlog.get_logger()

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for type checkers only


class Handlers(grpc.GenericRpcHandler):
    """Takes servicers as a server does, and finds the handler of a call; nothing is built per call.

    Handlers are coroutine functions or asynchronous generators. One that refuses a call aborts it.
    """

    def __init__(self) -> None:
        self._services: list[grpc.GenericRpcHandler] = []
        self._known: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """As of grpc.aio.Server."""
        self._services.extend(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Handler]
    ) -> None:
        """As of grpc.aio.Server; without effect, as generated code adds the same methods as generic handlers."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """The handler of a method, None for one that nobody has added."""
        method = handler_call_details.method
        if method in self._known:
            return self._known[method]
        for service in self._services:
            handler = service.service(handler_call_details)
            if handler is not None:
                return self._known.setdefault(method, _contained(handler, method))
        return None


def _contained(handler: Handler, method: str) -> Handler:
    """The handler, with an end for whatever it did not foresee.

    It decodes and encodes in gRPC's place, which would send an exception's text, and reads a single request in
    gRPC's place, which would leave a call that brings none without an end.
    """
    kind = "_".join(
        "stream" if streaming else "unary"
        for streaming in (handler.request_streaming, handler.response_streaming)
    )
    behaviour = getattr(handler, kind)
    generates = inspect.isasyncgenfunction(behaviour)
    # What a handler reads or writes itself passes through gRPC meanwhile, and what fails there fails in the handler.
    writes = handler.response_streaming and not generates
    decode = handler.request_deserializer or _as_it_is
    encode = (None if writes else handler.response_serializer) or _as_it_is

    async def requested(messages: Any, context: Any) -> Any:
        return messages if handler.request_streaming else decode(await _only(context))

    async def answer(messages: Any, context: Any) -> Any:
        try:
            return encode(await behaviour(await requested(messages, context), context))
        except Exception as error:
            await _abort(error, context, method)
            raise

    async def answers(messages: Any, context: Any) -> AsyncIterator[Any]:
        try:
            request = await requested(messages, context)
            async with contextlib.aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield encode(response)
        except Exception as error:
            await _abort(error, context, method)
            raise

    # On the wire that is the same as without a request stream.
    kind = "stream_stream" if handler.response_streaming else "stream_unary"
    contained: Handler = getattr(grpc, f"{kind}_rpc_method_handler")(
        answers if generates else answer,
        request_deserializer=handler.request_deserializer if handler.request_streaming else None,
        response_serializer=handler.response_serializer if writes else None,
    )
    return contained


async def body_of(context: Any) -> bytes | None:
    """The bytes of a call that has one message, None for one without."""
    # Iterating over the messages would leave a generator behind that the event loop has to close.
    body: Any = await context.read()
    if body is grpc.aio.EOF:
        # So ends a call that is over, too; its cancellation follows.
        await asyncio.sleep(_CANCELLATION_S)
        return None
    return cast("bytes", body)


def refusal(code: grpc.StatusCode, text: str) -> Handler:
    """What ends every call at once, whatever its kind."""

    async def refuse(_messages: Any, context: Any) -> None:
        await context.abort(code, text)

    # With a request stream a handler is called before there is a message, and this one reads none.
    return grpc.stream_unary_rpc_method_handler(refuse)


async def _only(context: Any) -> Any:
    """The message of a call that has one; ends the call if there is none, or too much of it."""
    message: Any = await body_of(context)
    if message is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "request: expected one message, got none")
    if len(message) > _MAX_BYTES:
        await context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"request: expected at most {_MAX_BYTES} bytes, found {len(message)}",
        )
    return message


def _as_it_is(message: Any) -> Any:
    return message


async def _abort(error: Exception, context: Any, method: str) -> None:
    """Abort the call that `error` came of, unless it has ended already."""
    if context.done():
        return
    if isinstance(error, DecodeError):
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "request: expected a message of this method's type"
        )
    log.error("call failed", method=method, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "internal error")
