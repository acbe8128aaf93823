"""The listening side of a plane: its services, health and reflection on one port, metrics on another."""

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

_STOP_GRACE_S = 1.0  # for streams that clients keep open, such as a health Watch

log = structlog.get_logger()


class ListenError(Exception):
    """An address that cannot be listened on; the text is one line with the setting's key."""


class Edge:
    """Owns the sockets, and says of `services` and `health_names` whether they serve.

    Servicers are added to `server` before `listen`. `max_message_bytes` bounds what is received.
    """

    def __init__(
        self, services: Sequence[str], health_names: Sequence[str] = (), max_message_bytes: int = 4 << 20
    ) -> None:
        self.server = grpc.aio.server(
            interceptors=[_Faults()],
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Two servers on one port would share its connections silently.
                ("grpc.so_reuseport", 0),
                # Peers may ping a stream that is quiet while its request waits.
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ],
        )
        self._health = health.aio.HealthServicer()
        self._names = ("", *services, *health_names)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        reflection.enable_server_reflection(
            (*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self.server
        )

    async def listen(self, listen: str, metrics_listen: str, registry: CollectorRegistry) -> dict[str, str]:
        """Start to answer, not yet to serve; returns the addresses in use by setting.

        Addresses are host:port, port 0 for any that is free; an empty `metrics_listen` is for no metrics.
        Raises ListenError.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            port = self.server.add_insecure_port(listen)
        except RuntimeError as error:
            raise ListenError(_expectation("listen", listen)) from error
        addresses = {"listen": _with_port(listen, port)}
        if metrics_listen:
            host, _, number = metrics_listen.rpartition(":")
            try:
                http, _ = start_http_server(int(number), host.strip("[]"), registry)
            except (OSError, ValueError, OverflowError) as error:
                raise ListenError(_expectation("metrics_listen", metrics_listen)) from error
            addresses["metrics_listen"] = _with_port(metrics_listen, http.server_port)
        await self.server.start()
        return addresses

    async def serve(self) -> None:
        """Say that everything serves."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def refuse(self) -> None:
        """Say that nothing serves any more, for good."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Close the port; calls under way have a moment to end."""
        await self.server.stop(_STOP_GRACE_S)

    async def _set_health(self, status: int) -> None:
        for name in self._names:
            await self._health.set(name, status)


class _Faults(grpc.aio.ServerInterceptor):
    """Answers for whatever a handler did not foresee, with texts that tell strangers nothing of the code.

    Decodes requests in the handler's place: gRPC itself would send the exception's text.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        kind = "_".join(
            "stream" if streaming else "unary"
            for streaming in (handler.request_streaming, handler.response_streaming)
        )
        behaviour = getattr(handler, kind)
        decode = handler.request_deserializer or (lambda message: message)
        decoded = (lambda messages: _each(decode, messages)) if handler.request_streaming else decode
        method = handler_call_details.method

        async def answer(request: Any, context: Any) -> Any:
            async with _contained(context, method):
                return await behaviour(decoded(request), context)

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            async with (
                _contained(context, method),
                contextlib.aclosing(behaviour(decoded(request), context)) as all_,
            ):
                async for each in all_:
                    yield each

        contained = answers if inspect.isasyncgenfunction(behaviour) else answer
        return handler._replace(request_deserializer=None, **{kind: contained})


async def _each(decode: Callable[[bytes], Any], messages: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for message in messages:
        yield decode(message)


@contextlib.asynccontextmanager
async def _contained(context: Any, method: str) -> AsyncIterator[None]:
    """Ends the call where the block fails, unless it has ended already."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except DecodeError:
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "request: expected a message of this method's type"
        )
    except Exception:
        if context.done():
            raise
        log.exception("call failed", method=method)
        await context.abort(grpc.StatusCode.INTERNAL, "internal error")


def _expectation(key: str, address: str) -> str:
    return f"server.{key}: expected host:port, free to listen on, got {address!r}"


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
