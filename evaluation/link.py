"""Emulated access links in user space: a TCP proxy that lets uploads through only as fast as a trace allows."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from evaluation.bandwidth import BandwidthTrace, ByteClock
from evaluation.sockets import abort, listening, no_delay

_TICK_S = 0.005  # how often waiting bytes are looked at; how much of them may go follows from the clock alone
_READ_AHEAD = 128 * 1024  # bytes taken from one client before it feels that the link is slow
_QUANTUM = 16 * 1024  # what one connection may send before the next has its turn, on a shared link


@dataclass(eq=False, slots=True)
class _Pipe:
    """The bottleneck: one byte clock and the connections that wait for it, each in its turn."""

    clock: ByteClock
    waiting: deque["_Upload"] = field(default_factory=deque)

    def join(self, upload: "_Upload", now_s: float) -> None:
        if not self.waiting:
            self.clock.begin(now_s)
        self.waiting.append(upload)

    def leave(self, upload: "_Upload", now_s: float) -> None:
        if upload in self.waiting:
            self.waiting.remove(upload)
            self.clock.carry(0, now_s, empty=not self.waiting)

    def drain(self, now_s: float) -> None:
        """Let through what the clock allows, in turns of one quantum."""
        credit = self.clock.get_credit(now_s)
        blocked = 0  # connections in a row whose upstream takes nothing
        while credit > 0 and self.waiting and blocked < len(self.waiting):
            upload = self.waiting.popleft()
            sent = upload.forward(min(credit, _QUANTUM))
            blocked = 0 if sent else blocked + 1
            credit -= sent
            if upload.buffered:
                self.waiting.append(upload)
            self.clock.carry(sent, now_s, empty=not self.waiting)


class Links:
    """A listening TCP proxy in front of one upstream; every client connection is a link of its own.

    A link carries its upload along `trace`, beginning at the trace time at which its first byte arrives; answers
    come back unhindered. Trace time is time.monotonic() − t0. With `shared` all connections share one link.

        async with Links(("127.0.0.1", 8001), trace, t0=time.monotonic()) as links:
            host, port = links.address

    Leaving the block resets whatever is still open. Raises OSError if `listen` cannot be bound.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        trace: BandwidthTrace,
        t0: float,
        *,
        shared: bool = False,
        idle_s: float = 0.25,
        listen: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self._upstream = upstream
        self._trace = trace
        self._t0 = t0
        self._idle_s = idle_s
        self._listen = listen
        self._shared = self._pipe() if shared else None
        self._busy: dict[_Pipe, None] = {}
        self._open: set[_Upload] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        listener = listening(self._listen)
        self._server = await loop.create_server(lambda: _Upload(self), sock=listener, backlog=1024)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        if self._timer is not None:
            self._timer.cancel()
        for upload in tuple(self._open):
            upload.reset()
        await self._server.wait_closed()
        await asyncio.sleep(0)  # transports close in the next turn of the loop

    def __repr__(self) -> str:
        return f"<Links to {self._upstream}: {len(self._open)} open, {len(self._busy)} busy>"

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect to."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return host, port

    @property
    def upstream(self) -> tuple[str, int]:
        """Where bytes go."""
        return self._upstream

    def now_s(self) -> float:
        """Trace time."""
        return time.monotonic() - self._t0

    def opened(self, upload: "_Upload") -> _Pipe:
        """Take up a connection and give it its link."""
        self._open.add(upload)
        return self._shared or self._pipe()

    def closed(self, upload: "_Upload", pipe: _Pipe) -> None:
        """Forget a connection."""
        self._open.discard(upload)
        pipe.leave(upload, self.now_s())

    def serve(self, pipe: _Pipe) -> None:
        """Let through what may go at once, and look again while something waits."""
        pipe.drain(self.now_s())
        if pipe.waiting:
            self._busy[pipe] = None
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        now_s = self.now_s()
        for pipe in tuple(self._busy):
            pipe.drain(now_s)
            if not pipe.waiting:
                del self._busy[pipe]
        self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick) if self._busy else None

    def _pipe(self) -> _Pipe:
        return _Pipe(ByteClock(self._trace, self._idle_s))


class _Upload(asyncio.Protocol):
    """The client's side of a connection: reads ahead a little, and forwards what its link lets through."""

    def __init__(self, links: Links) -> None:
        self.buffered = 0
        self._links = links
        self._chunks: deque[memoryview] = deque()
        self._download = _Download(self)
        self._upstream: asyncio.Transport | None = None
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._pipe = self._links.opened(self)
        no_delay(transport)
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        try:
            upstream, _ = await asyncio.get_running_loop().create_connection(
                lambda: self._download, *self._links.upstream
            )
        except OSError:
            self.reset()
            return
        no_delay(upstream)
        self._upstream = upstream
        self._links.serve(self._pipe)
        self.finish()

    def data_received(self, data: bytes) -> None:
        if not self.buffered:
            self._pipe.join(self, self._links.now_s())
        self._chunks.append(memoryview(data))
        self.buffered += len(data)
        if self.buffered >= _READ_AHEAD:
            self.transport.pause_reading()
        self._links.serve(self._pipe)

    def forward(self, most: int) -> int:
        """Send up to `most` bytes of what waits; gives how many, 0 while upstream takes none."""
        if self._upstream is None or self._download.full:
            return 0
        sent = 0
        while self._chunks and sent < most:
            chunk = self._chunks.popleft()
            if len(chunk) > most - sent:
                self._chunks.appendleft(chunk[most - sent :])
                chunk = chunk[: most - sent]
            self._upstream.write(chunk)
            sent += len(chunk)
        self.buffered -= sent
        if self.buffered < _READ_AHEAD and not self._ended:
            self.transport.resume_reading()
        self.finish()
        return sent

    def eof_received(self) -> bool:
        self._ended = True
        self.finish()
        return True  # the answer may still be on its way

    def finish(self) -> None:
        """Pass the client's end of stream on once all before it went, and close when both sides have ended."""
        if not self._ended or self.buffered or self._upstream is None or self._upstream.is_closing():
            return
        self._upstream.write_eof()
        if self._download.ended:
            self.transport.close()  # after what is still to be written; the other side follows

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connecting.cancel()
        self._links.closed(self, self._pipe)
        if self._upstream is not None and not self._upstream.is_closing():
            if exc is not None:
                abort(self._upstream)
            else:
                self._upstream.close()

    def reset(self) -> None:
        """Break the connection off, on both sides."""
        self._connecting.cancel()
        for transport in (self.transport, self._upstream):
            if transport is not None:
                abort(transport)


class _Download(asyncio.Protocol):
    """The upstream side of a connection: everything goes on at once."""

    def __init__(self, upload: _Upload) -> None:
        self.full = False  # upstream reads more slowly than the link delivers
        self.ended = False
        self._upload = upload

    def data_received(self, data: bytes) -> None:
        self._upload.transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if not self._upload.transport.is_closing():
            self._upload.transport.write_eof()
        self._upload.finish()
        return True

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def connection_lost(self, exc: Exception | None) -> None:
        transport = self._upload.transport
        if not transport.is_closing():
            if exc is not None:
                abort(transport)
            else:
                transport.close()
