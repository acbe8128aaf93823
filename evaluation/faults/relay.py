"""Between a client and a server: what passes on, is held back, is refused, or is cut off."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 65_536

Address = Path | tuple[str, int]  # of a local socket, or of TCP
Refuse = Callable[[bytes], bytes]  # what is answered in the server's stead, b"" for a request that may pass


def pass_all(_request: bytes) -> bytes:
    """Refuse nothing."""
    return b""


class Relay:
    """Listens at `listen` and connects each client to `server`; opened by `open`, closed by `cut` or `close`.

    Answers of the server are late by `delay_s`. `refuse` is asked about everything that a client sends in one piece.
    Both may be changed at any time.
    """

    def __init__(self, listen: Address, server: Address) -> None:
        self.delay_s = 0.0
        self.refuse: Refuse = pass_all
        self._listen = listen
        self._to = server
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()

    async def open(self) -> None:
        """Take connections, and let pass what was held back."""
        self._passing.set()
        if self._server is None:
            if isinstance(self._listen, Path):
                self._server = await asyncio.start_unix_server(self._serve, self._listen)
            else:
                self._server = await asyncio.start_server(self._serve, *self._listen)

    def hold(self) -> None:
        """Let nothing pass from now on, until it is opened."""
        self._passing.clear()

    async def cut(self) -> None:
        """End every connection, and take none until it is opened."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            if isinstance(self._listen, Path):
                self._listen.unlink(missing_ok=True)
        for writer in self._writers.copy():
            writer.transport.abort()
        self._passing.set()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            try:
                from_server, to_server = await self._connect()
                self._writers.add(to_server)
                way = _Way(writer)
                try:
                    async with asyncio.TaskGroup() as both:
                        both.create_task(self._up(reader, to_server, way))
                        both.create_task(self._down(from_server, way))
                except* OSError:
                    pass
                finally:
                    self._writers.discard(to_server)
                    to_server.transport.abort()
            finally:
                self._writers.discard(writer)
                self._tasks.discard(task)
                writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._to, Path):
            return await asyncio.open_unix_connection(self._to)
        return await asyncio.open_connection(*self._to)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: "_Way") -> None:
        while data := await reader.read(_CHUNK):
            await self._passing.wait()
            if refusal := self.refuse(data):
                way.client.write(refusal)
                await way.client.drain()
                raise ConnectionResetError  # what else there is of the request goes nowhere
            way.asked = True
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _down(self, reader: asyncio.StreamReader, way: "_Way") -> None:
        while data := await reader.read(_CHUNK):
            if way.asked:  # once for each answer, in however many pieces it comes
                way.asked = False
                await asyncio.sleep(self.delay_s)
            await self._passing.wait()
            way.client.write(data)
            await way.client.drain()
        way.client.write_eof()


@dataclass(slots=True)
class _Way:
    """A client's connection, and whether it has asked something since the last answer began."""

    client: asyncio.StreamWriter
    asked: bool = False
