"""What an engine tells of its containers, as it happens."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from http import HTTPStatus
from urllib.parse import quote

import msgspec
import structlog

from controlplane.actuators.engine import Engine
from controlplane.resize import backoff_s
from core.files import FileError

# A connection that has been silent for so long may be dead, and nobody would say so.
_SILENT_S = 60.0
_CALM_S = 10.0  # a stream that has lasted so long is well again
# What does not let events through may do so later, as a proxy whose own project the engine could not tell it yet.
_REFUSED_S = 60.0
_MAX_LINE_BYTES = 1 << 20

log = structlog.get_logger()


class RefusedError(Exception):
    """The engine, or what stands before it, does not let events through."""


class _Actor(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(name="ID", default="")


class _Event(msgspec.Struct, rename="pascal"):
    actor: _Actor


async def follow(
    engine: Engine, name: str, label: str, changed: Callable[[str], None], refused_s: float = _REFUSED_S
) -> None:
    """Tell `changed` of containers with `label` that were started or updated, by id; "" once a stream has begun.

    What breaks is begun again, with back-off, and logged once until it has lasted; so is what is not let through, after
    `refused_s`.
    """
    loop, failures, told, told_refused = asyncio.get_running_loop(), 0, False, False
    while True:
        began_at, refused = loop.time(), False
        try:
            async with aclosing(events(engine, label)) as stream:
                async for container in stream:
                    changed(container)
            cause = "the stream has ended"
        except RefusedError as error:
            cause, refused = "", True
            if not told_refused:
                told_refused = True
                log.warning("events not followed", host=name, error=str(error))
        except TimeoutError:
            cause = ""
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, FileError) as error:
            cause = str(error)
        if loop.time() - began_at >= _CALM_S:
            failures, told, told_refused = 0, False, False
        if cause and not told:
            told = True
            # Whether the engine is gone is for those to tell who need it.
            log.info("events interrupted", host=name, error=cause)
        await asyncio.sleep(refused_s if refused else backoff_s(failures))
        failures += 1


async def events(engine: Engine, label: str) -> AsyncGenerator[str, None]:
    """Ids of containers with `label` that are started or updated; first "", when none can be missed any more.

    Raises RefusedError, TimeoutError after a minute of silence, FileError for certificates that cannot be used, and
    OSError, EOFError, LimitOverrunError or ValueError for a stream that breaks or is none.
    """
    reader, writer = await engine.open()
    try:
        wanted = {"type": ["container"], "event": ["start", "update"], "label": [label]}
        filters = quote(json.dumps(wanted), safe="")
        writer.write(
            f"GET /events?filters={filters} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n".encode()
        )
        async with asyncio.timeout(_SILENT_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head[9:12]) if head.startswith("http/1.") else 0
        lines = _unchunked(reader) if "\r\ntransfer-encoding: chunked" in head else reader
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RefusedError(
                (await anext(aiter(lines), b"")).decode(errors="replace").strip() or str(status)
            )
        if status != HTTPStatus.OK:
            raise ValueError(f"expected a stream of events, got status {status}")
        yield ""
        while True:
            async with asyncio.timeout(_SILENT_S):
                line = await anext(aiter(lines), b"")
            if not line:
                return
            yield msgspec.json.decode(line, type=_Event).actor.id
    finally:
        writer.close()


async def _unchunked(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a body that comes in chunks."""
    rest = b""
    while head := await reader.readline():
        size = int(head, 16)
        if size + len(rest) > _MAX_LINE_BYTES:
            raise ValueError(f"expected events of at most {_MAX_LINE_BYTES} bytes")
        *lines, rest = (rest + await reader.readexactly(size)).split(b"\n")
        for line in lines:
            yield line
        await reader.readexactly(2)
        if not size:
            return
