"""Emulated access links in the kernel: uploads cross a pair of interfaces whose token bucket follows a trace."""

import asyncio
import contextlib
import math
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from evaluation.bandwidth import BandwidthTrace
from evaluation.netns import OPEN, Link, NetworkError, network
from evaluation.sockets import abort, listening, no_delay
from evaluation.tbf import Bucket

_CHUNK = 64 * 1024
_TICK_S = 0.005  # how often a link's end is looked at, as the user-space links are


class KernelLinks:
    """The face of evaluation.link.Links, with links of the kernel's: veth pairs in namespaces, `tbf`, TCP.

    A relay takes each client connection's upload across a link, and answers straight back. What the trace says
    is what uploads get: headers of the packets are added on top. `most` connections have a link at a time; a
    further one is reset. With `shared` all have the same.

    Entering raises NetworkError without root, iproute2, or a kernel with veth and tbf, and OSError if `listen`
    cannot be bound; leaving raises NetworkError if a bucket could not be changed meanwhile.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        trace: BandwidthTrace,
        t0: float,
        *,
        shared: bool = False,
        most: int = 256,
        listen: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self._upstream = upstream
        self._trace = trace
        self._t0 = t0
        self._shared = shared
        self._most = 1 if shared else most
        self._listen = listen
        self._free: list[Link] = []
        self._buckets: dict[Link, Bucket] = {}
        self._users: Counter[Link] = Counter()
        self._relays: set[asyncio.Task[None]] = set()
        self._stack = ExitStack()
        self._server: asyncio.Server | None = None
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        with ExitStack() as stack:
            listener = stack.enter_context(listening(self._listen))
            links: Sequence[Link] = stack.enter_context(network(self._most))
            self._server = await asyncio.start_server(self._accept, sock=listener, backlog=1024)
            self._free = list(links)
            self._following = asyncio.create_task(self._follow())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._following is not None
        with self._stack:
            self._server.close()
            self._following.cancel()
            for relay in self._relays:
                relay.cancel()
            await asyncio.gather(*self._relays, return_exceptions=True)
            (followed,) = await asyncio.gather(self._following, return_exceptions=True)
            await self._server.wait_closed()
            await asyncio.sleep(0)  # transports close in the next turn of the loop
        if isinstance(followed, OSError):
            raise NetworkError(str(followed)) from followed

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect to."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return host, port

    @property
    def in_use(self) -> int:
        """Connections that have a link now."""
        return self._users.total()

    def now_s(self) -> float:
        """Trace time."""
        return time.monotonic() - self._t0

    async def _follow(self) -> None:
        """Turn the buckets of the links in use whenever the trace changes."""
        while (change_s := self._trace.next_change(self.now_s())) < math.inf:
            await asyncio.sleep(change_s - self.now_s())
            for link, bucket in self._buckets.items():
                link.set(*bucket.turn(self.now_s()))
        await asyncio.Event().wait()

    @contextlib.contextmanager
    def _link(self) -> Iterator[Link]:
        """Give a link for one connection."""
        link = self._free[0] if self._shared else self._free.pop()
        self._users[link] += 1
        try:
            yield link
        finally:
            self._users[link] -= 1
            if not self._users[link]:
                self._buckets.pop(link, None)
                link.set(OPEN)
            if not self._shared:
                self._free.append(link)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._shared and not self._free:
            abort(writer.transport)
            return
        relay = asyncio.create_task(self._relay(reader, writer, self.now_s()))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun_s: float
    ) -> None:
        """Serve one connection; if one of its ends breaks off or is not there, the others are reset too."""
        try:
            await self._carry(reader, writer, begun_s)
        except* OSError:
            pass
        finally:
            abort(writer.transport)

    async def _carry(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter, begun_s: float
    ) -> None:
        with ExitStack() as stack:
            link = stack.enter_context(self._link())
            sending, receiving = map(stack.enter_context, await link.connect())
            _, to_link = await asyncio.open_connection(sock=sending)
            stack.callback(abort, to_link.transport)
            from_server, to_server = await asyncio.open_connection(*self._upstream)
            stack.callback(abort, to_server.transport)
            for writer in (to_client, to_link, to_server):
                no_delay(writer.transport)
            if link not in self._buckets:
                self._buckets[link] = Bucket(self._trace, begun_s)
                link.set(*self._buckets[link].turn(self.now_s()))
            async with asyncio.TaskGroup() as passing:
                passing.create_task(_pass(from_client, to_link))
                passing.create_task(_collect(receiving, to_server))
                passing.create_task(_pass(from_server, to_client))
            for writer in (to_client, to_server):
                writer.close()
                await writer.wait_closed()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on all that comes, and its end."""
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()


async def _collect(receiving: socket.socket, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes out of a link, and its end; not packet by packet, which costs twice the CPU."""
    loop = asyncio.get_running_loop()
    while chunk := await loop.sock_recv(receiving, _CHUNK):
        writer.write(chunk)
        await writer.drain()
        await asyncio.sleep(_TICK_S)
    writer.write_eof()
