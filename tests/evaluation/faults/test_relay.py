"""A relay between a client and a server of the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from evaluation.faults.engines import refuse_updates
from evaluation.faults.relay import Relay


@asynccontextmanager
async def echo(path: Path) -> AsyncIterator[list[bytes]]:
    """A server that sends every line back; yields those it has had."""
    lines: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            lines.append(line)
            writer.write(line)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield lines
    finally:
        server.close()


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[tuple[Relay, list[bytes]]]:
    async with echo(tmp_path / "server") as lines:
        relay = Relay(tmp_path / "relay", tmp_path / "server")
        await relay.open()
        yield relay, lines
        await relay.cut()


async def test_what_is_held_back_comes_in_the_end(relay: tuple[Relay, list[bytes]], tmp_path: Path) -> None:
    between, lines = relay
    reader, writer = await asyncio.open_unix_connection(tmp_path / "relay")
    writer.write(b"one\n")
    assert await reader.readline() == b"one\n"
    between.hold()
    writer.write(b"two\n")
    await writer.drain()
    answer = asyncio.create_task(reader.readline())
    for _ in range(100):
        await asyncio.sleep(0)
    assert lines == [b"one\n"]
    await between.open()
    assert await answer == b"two\n"
    writer.close()


async def test_a_cut_ends_connections_and_lets_none_in(
    relay: tuple[Relay, list[bytes]], tmp_path: Path
) -> None:
    between, _ = relay
    reader, writer = await asyncio.open_unix_connection(tmp_path / "relay")
    writer.write(b"one\n")
    assert await reader.readline() == b"one\n"
    await between.cut()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    with pytest.raises(FileNotFoundError):
        await asyncio.open_unix_connection(tmp_path / "relay")
    await between.open()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "relay")
    writer.write(b"two\n")
    assert await reader.readline() == b"two\n"
    writer.close()


async def test_what_is_refused_never_reaches_the_server(
    relay: tuple[Relay, list[bytes]], tmp_path: Path
) -> None:
    between, lines = relay
    between.refuse = lambda request: b"no\n" if request.startswith(b"bad") else b""
    reader, writer = await asyncio.open_unix_connection(tmp_path / "relay")
    writer.write(b"bad\n")
    assert await reader.read() == b"no\n"
    writer.close()
    assert lines == []


def test_only_updates_are_refused() -> None:
    assert refuse_updates(b"POST /v1.41/containers/abc/update HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 500 ")
    for passes in (b"GET /v1.41/containers/abc/json HTTP/1.1\r\n\r\n", b'{"CpuQuota":1}', b""):
        assert refuse_updates(passes) == b""
