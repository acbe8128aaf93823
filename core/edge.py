"""The listening side of a plane: its services, health and reflection on one port, metrics on another."""

import ipaddress
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from prometheus_client import CollectorRegistry, start_http_server

from core.files import FileError
from core.handlers import Handlers
from core.tls import Tls, credentials
from core.tokens import Guard, Tokens

_MAX_PENDING = 16_384  # calls that have begun, and whose handlers have not

_IDLE = 15  # so many times as patient with a connection that has no call

_STOP_GRACE_S = 1.0  # for streams that clients keep open, such as a health Watch

log = structlog.get_logger()


class ListenError(Exception):
    """An address that cannot be listened on; the text is one line with the setting's key."""


class Edge:
    """Owns the sockets, and says of `services` and `health_names` whether they serve.

    Servicers are added to `server` before `listen`. `max_message_bytes` bounds what is received, compressed and
    not. With `tls` the port speaks TLS. With `token_file` all calls but those of health need one of its tokens;
    `unauthenticated` hears of each that is refused for want of one. A `guard` goes by tokens of its own. A peer that
    is gone without a word is given up after `patience_s` and a third of that; one that says nothing is as well.
    Raises ListenError for files that cannot be used. `before` are asked for the handler of a call before all others,
    and guards before them.
    """

    def __init__(
        self,
        services: Sequence[str],
        health_names: Sequence[str] = (),
        max_message_bytes: int = 4 << 20,
        *,
        before: Sequence[grpc.GenericRpcHandler] = (),
        tls: Tls | None = None,
        token_file: str = "",
        unauthenticated: Callable[[], None] = lambda: None,
        guard: grpc.GenericRpcHandler | None = None,
        patience_s: float = 60.0,
    ) -> None:
        try:
            self._credentials = credentials(tls) if tls else None
            self._guards: list[grpc.GenericRpcHandler] = [guard] if guard else []
            if token_file:
                self._guards.append(Guard(Tokens(Path(token_file)), unauthenticated))
        except FileError as error:
            raise ListenError(str(error)) from error
        self._handlers = Handlers()
        self._server = grpc.aio.server(
            # The first that answers a call has it.
            handlers=[*self._guards, *before, self._handlers],
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Two servers on one port would share its connections silently.
                ("grpc.so_reuseport", 0),
                # Calls beyond that gRPC cancels by chance, without a word, before a handler hears of them: by
                # default 189 of 2,000 that began at once. A handler refuses them with a reason.
                ("grpc.server.max_pending_requests", _MAX_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", 2 * _MAX_PENDING),
                # By default the server asks after two hours whether a peer of which a call is open is still there,
                # keeps one that never began for two minutes, and an idle one for good.
                ("grpc.keepalive_time_ms", round(patience_s * 1000)),
                ("grpc.keepalive_timeout_ms", round(patience_s * 1000 / 3)),
                ("grpc.http2.ping_timeout_ms", round(patience_s * 1000 / 3)),
                ("grpc.http2.settings_timeout", round(patience_s * 1000)),
                ("grpc.server_handshake_timeout_ms", round(patience_s * 1000)),
                ("grpc.max_connection_idle_ms", round(patience_s * 1000 * _IDLE)),
                # Peers may ping a stream that is quiet while its request waits.
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ],
        )
        self._health = health.aio.HealthServicer()
        self._names = ("", *services, *health_names)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        reflected = reflection.aio.ReflectionServicer(
            (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        )
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, self.server)

    @property
    def server(self) -> grpc.aio.Server:
        """What servicers are added to: of a server it knows as much as that needs."""
        return cast("grpc.aio.Server", self._handlers)

    async def listen(self, listen: str, metrics_listen: str, registry: CollectorRegistry) -> dict[str, str]:
        """Start to answer, not yet to serve; returns the addresses in use by setting.

        Addresses are host:port, port 0 for any that is free; an empty `metrics_listen` is for no metrics.
        Raises ListenError.
        """
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            if self._credentials:
                port = self._server.add_secure_port(listen, self._credentials)
            else:
                port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise ListenError(_expectation("listen", listen)) from error
        if self._guards and not self._credentials and not _is_loopback(listen):
            log.warning("tokens travel in the clear, as there is no server.tls", listen=listen)
        addresses = {"listen": _with_port(listen, port)}
        if metrics_listen:
            host, _, number = metrics_listen.rpartition(":")
            try:
                http, _ = start_http_server(int(number), host.strip("[]"), registry)
            except (OSError, ValueError, OverflowError) as error:
                raise ListenError(_expectation("metrics_listen", metrics_listen)) from error
            addresses["metrics_listen"] = _with_port(metrics_listen, http.server_port)
        await self._server.start()
        return addresses

    async def serve(self) -> None:
        """Say that everything serves."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def pause(self) -> None:
        """Say that nothing serves for now."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def refuse(self) -> None:
        """Say that nothing serves any more, for good."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Close the port; calls under way have a moment to end."""
        await self._server.stop(_STOP_GRACE_S)

    async def _set_health(self, status: int) -> None:
        for name in self._names:
            await self._health.set(name, status)


def _expectation(key: str, address: str) -> str:
    return f"server.{key}: expected host:port, free to listen on, got {address!r}"


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
