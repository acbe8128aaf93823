"""A client of servers that take a row's bytes by POST, one connection for each open request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import numpy as np

from evaluation.serving.client import Client, Unanswered
from evaluation.serving.subjects import Array, Payload

_HEADERS = {"Content-Type": "application/octet-stream"}


@asynccontextmanager
async def connect(address: str) -> AsyncIterator[Client]:
    """Speak to the server at `address` (HOST:PORT) while the block runs."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3600.0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield _Way(session, f"http://{address}/predict")


@dataclass(frozen=True, slots=True)
class _Way:
    session: aiohttp.ClientSession
    url: str

    @property
    def gives_up(self) -> bool:
        return False

    async def infer(self, payload: Payload, timeout_s: float) -> bytes:
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self.session.post(
                self.url, data=payload.body, headers=_HEADERS, timeout=timeout
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unanswered(type(error).__name__, str(error)) from error
        if response.status != 200:
            raise Unanswered(f"HTTP {response.status}", body[:200].decode(errors="replace"))
        return body

    def decode(self, answer: bytes) -> Array:
        return np.frombuffer(answer, np.float32) if len(answer) % 4 == 0 else np.empty(0, np.float32)
