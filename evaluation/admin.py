"""Asking a control plane what it believes and what it decides."""

from collections.abc import AsyncIterator

import grpc

from core.access import OPEN, Access
from protos import control_pb2, control_pb2_grpc

_TIMEOUT_S = 10.0


class ControlPlaneError(Exception):
    """A control plane that does not answer; the text says which, and why."""


class Admin:
    """The admin service at `address` (HOST:PORT), over one connection. Calls raise ControlPlaneError."""

    def __init__(self, address: str, access: Access = OPEN) -> None:
        self._address = address
        self._metadata = access.metadata
        self._channel = access.aio_channel(address)
        self._stub = control_pb2_grpc.AdminStub(self._channel)

    async def fleet(self) -> control_pb2.Fleet:
        """What the control plane believes now."""
        try:
            return await self._stub.GetFleet(
                control_pb2.GetFleetRequest(), timeout=_TIMEOUT_S, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    async def explanation(self, service: str) -> control_pb2.Explanation | None:
        """Why the only worker of a service has what it has; None while none is attached, or none is known."""
        request = control_pb2.ExplainRequest(service=service)
        try:
            answer = await self._stub.Explain(request, timeout=_TIMEOUT_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise self._error(error) from error
        return answer.explanations[0] if answer.explanations else None

    async def decisions(self) -> AsyncIterator[control_pb2.Decision]:
        """Each decision from now on, as it is made; without end."""
        try:
            request = control_pb2.WatchDecisionsRequest()
            async for decision in self._stub.WatchDecisions(request, metadata=self._metadata):
                yield decision
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    async def aclose(self) -> None:
        """Close the connection."""
        await self._channel.close()

    def _error(self, error: grpc.aio.AioRpcError) -> ControlPlaneError:
        return ControlPlaneError(f"control plane at {self._address}: {error.code().name}: {error.details()}")
