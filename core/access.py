"""What a client shows of itself to a port that asks for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc


@dataclass(frozen=True, slots=True)
class Access:
    """By default nothing: connections are not encrypted, and calls bring no token."""

    credentials: grpc.ChannelCredentials | None = None
    metadata: tuple[tuple[str, str], ...] = ()  # of every call

    @classmethod
    def by(cls, credentials: grpc.ChannelCredentials | None = None, token: str = "") -> Self:
        """With `credentials` of TLS, and with a bearer token unless it is empty."""
        return cls(credentials, (("authorization", f"Bearer {token}"),) if token else ())

    def channel(self, address: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """Opens a channel to host:port."""
        if self.credentials is None:
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address, self.credentials, options)

    def aio_channel(self, address: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
        """The same for asyncio."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, self.credentials, options)


OPEN = Access()
