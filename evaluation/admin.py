"""Asking a control plane what it believes and what it has decided."""

import asyncio
import contextlib

import grpc

from protos import control_pb2, control_pb2_grpc

_ALL = 100_000


class Admin:
    """The admin service at `address` (HOST:PORT). Calls raise grpc.aio.AioRpcError."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def fleet(self) -> control_pb2.Fleet:
        """What the control plane believes now."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            return await control_pb2_grpc.AdminStub(channel).GetFleet(control_pb2.GetFleetRequest())

    async def decisions(self) -> list[control_pb2.Decision]:
        """All that the control plane has decided, oldest first."""
        found = []
        async with grpc.aio.insecure_channel(self._address) as channel:
            watching = control_pb2_grpc.AdminStub(channel).WatchDecisions(
                control_pb2.WatchDecisionsRequest(past=_ALL)
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    async for decision in watching:
                        found.append(decision)  # noqa: PERF401 - what came before the time-out counts
        return found
