"""The listening side of a worker: inference, health and reflection on one port, metrics on another."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server

from dataplane import server
from dataplane.config import Server
from dataplane.server import InferenceServer, State

_STOP_GRACE_S = 1.0  # for streams that clients keep open, such as a health Watch


class ListenError(Exception):
    """An address that cannot be listened on; the text is one line with the setting's key."""


class Edge:
    """Owns the sockets; health and the inference service always say the same of readiness."""

    def __init__(self, inference: InferenceServer, config: Server, model_name: str) -> None:
        self._inference = inference
        self._config = config
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_message_mib << 20),
                ("grpc.max_send_message_length", -1),
                # Two servers on one port would share its connections silently.
                ("grpc.so_reuseport", 0),
                # Clients may ping a stream that is quiet while its request waits.
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ]
        )
        server.add_to(self._server, inference)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (server.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self._names = ("", server.SERVICE, model_name)

    async def listen(self, registry: CollectorRegistry) -> dict[str, str]:
        """Start to answer, not yet to serve; returns the addresses in use by setting.

        Raises ListenError.
        """
        addresses = {}
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            port = self._server.add_insecure_port(self._config.listen)
        except RuntimeError as error:
            raise ListenError(_expectation("listen", self._config.listen)) from error
        addresses["listen"] = _with_port(self._config.listen, port)
        if self._config.metrics_listen:
            host, _, number = self._config.metrics_listen.rpartition(":")
            try:
                http, _ = start_http_server(int(number), host.strip("[]"), registry)
            except (OSError, ValueError, OverflowError) as error:
                raise ListenError(_expectation("metrics_listen", self._config.metrics_listen)) from error
            addresses["metrics_listen"] = _with_port(self._config.metrics_listen, http.server_port)
        await self._server.start()
        return addresses

    async def serve(self) -> None:
        """The model is warm: take requests."""
        self._inference.state = State.SERVING
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def refuse(self) -> None:
        """Take no more requests; those that wait are still answered."""
        self._inference.state = State.DRAINING
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
