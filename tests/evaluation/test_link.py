import asyncio
import contextlib
import socket
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.bandwidth import BandwidthTrace, ByteClock
from evaluation.link import Links

UNEVEN = BandwidthTrace((0.05, 0.1, 0.05), (4e6, 0.0, 1e6))


class Sink(asyncio.Protocol):
    """An upstream that notes when which byte arrived, and answers the end of the stream with a word."""

    def __init__(self, heard: asyncio.Event) -> None:
        self.heard = heard
        self.arrivals: list[tuple[float, int]] = []  # monotonic seconds, bytes so far
        self.received = bytearray()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += data
        self.heard.set()
        self.arrivals.append((time.monotonic(), len(self.received)))

    def eof_received(self):
        self.transport.write(b"done")

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@contextlib.asynccontextmanager
async def upstream():
    """Give the address of a server of Sinks, the sinks in the order of their connections, and word of bytes."""
    sinks: list[Sink] = []
    heard = asyncio.Event()

    def make():
        sinks.append(Sink(heard))
        return sinks[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname(), sinks, heard
    finally:
        server.close()
        await server.wait_closed()


async def upload(address, payload: bytes) -> tuple[float, bytes]:
    """Send all of `payload` with an end of stream; gives when that began, and the answer."""
    reader, writer = await asyncio.open_connection(*address)
    began = time.monotonic()
    writer.write(payload)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return began, answer


async def test_bytes_never_arrive_before_the_trace_allows():
    t0 = time.monotonic()
    payload = bytes(range(256)) * 1200
    async with upstream() as (address, sinks, _), Links(address, UNEVEN, t0) as links:
        began, answer = await upload(links.address, payload)
    assert answer == b"done"
    assert sinks[0].received == payload
    for arrived, amount in sinks[0].arrivals:
        assert amount <= UNEVEN.delivered(began - t0, arrived - t0) + 1
    assert sinks[0].arrivals[-1][0] - t0 >= UNEVEN.finish(began - t0, len(payload)) - 1e-6


async def test_each_connection_is_a_link_of_its_own():
    trace = BandwidthTrace.constant(20e3)
    t0 = time.monotonic()
    async with upstream() as (address, sinks, _), Links(address, trace, t0) as links:
        results = await asyncio.gather(*(upload(links.address, bytes(20_000)) for _ in range(8)))
    last = max(sink.arrivals[-1][0] for sink in sinks)
    began = min(start for start, _ in results)
    assert last - t0 >= trace.finish(began - t0, 20_000) - 1e-6
    # In that time, about a second, a link for all would have carried far less: it would take eight.
    assert sum(len(sink.received) for sink in sinks) > trace.delivered(began - t0, last - t0)


async def test_a_shared_link_carries_no_more_than_one():
    t0 = time.monotonic()
    async with upstream() as (address, sinks, _), Links(address, UNEVEN, t0, shared=True) as links:
        results = await asyncio.gather(*(upload(links.address, bytes(60_000)) for _ in range(4)))
    began = min(start for start, _ in results)
    arrivals = sorted((when, index) for index, sink in enumerate(sinks) for when, _ in sink.arrivals)
    for when, _ in arrivals:
        amount = sum(max((n for at, n in sink.arrivals if at <= when), default=0) for sink in sinks)
        assert amount <= UNEVEN.delivered(began - t0, when - t0) + 1
    assert [len(sink.received) for sink in sinks] == [60_000] * 4


async def test_the_sender_feels_a_slow_link():
    trace = BandwidthTrace.constant(1.0)
    async with upstream() as (address, _, _), Links(address, trace, time.monotonic()) as links:
        with socket.create_connection(links.address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
            client.setblocking(False)
            loop, sent = asyncio.get_running_loop(), 0
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(0.5):
                        await loop.sock_sendall(client, bytes(16 * 1024))
                    sent += 16 * 1024
            assert 100_000 < sent < 4_000_000


async def test_answers_come_while_the_upload_goes_on():
    async def greet(reader, writer):
        writer.write(b"x" * 1_000_000)
        await reader.read()
        writer.close()

    trace = BandwidthTrace.constant(1.0)
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server, Links(server.sockets[0].getsockname(), trace, time.monotonic()) as links:
        reader, writer = await asyncio.open_connection(*links.address)
        writer.write(bytes(1000))  # takes 1000 s
        assert len(await reader.readexactly(1_000_000)) == 1_000_000
        writer.close()


async def test_a_reset_of_the_client_reaches_the_upstream():
    trace = BandwidthTrace.constant(1e9)
    async with upstream() as (address, sinks, heard), Links(address, trace, time.monotonic()) as links:
        _, writer = await asyncio.open_connection(*links.address)
        writer.write(b"hello")
        async with asyncio.timeout(10):
            await heard.wait()
        client = writer.get_extra_info("socket")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        async with asyncio.timeout(10):
            assert isinstance(await sinks[0].lost, ConnectionResetError)


async def test_a_reset_of_the_upstream_reaches_the_client():
    trace = BandwidthTrace.constant(1e9)
    async with upstream() as (address, sinks, heard), Links(address, trace, time.monotonic()) as links:
        reader, writer = await asyncio.open_connection(*links.address)
        writer.write(b"hello")
        async with asyncio.timeout(10):
            await heard.wait()
            server_side = sinks[0].transport.get_extra_info("socket")
            server_side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sinks[0].transport.abort()
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()


async def test_an_absent_upstream_is_a_reset():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
        async with Links(address, UNEVEN, time.monotonic()) as links:
            reader, writer = await asyncio.open_connection(*links.address)
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            writer.close()


async def test_leaving_breaks_open_connections_off():
    trace = BandwidthTrace.constant(1.0)
    async with upstream() as (address, _, _):
        async with Links(address, trace, time.monotonic()) as links:
            reader, writer = await asyncio.open_connection(*links.address)
            writer.write(bytes(1000))
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()


def test_the_clock_counts_from_the_first_byte():
    clock = ByteClock(BandwidthTrace.constant(1000.0), idle_s=0.25)
    assert clock.get_credit(5.0) == 0
    clock.begin(5.0)
    assert clock.get_credit(5.5) == 500
    clock.carry(400, 5.5, empty=False)
    assert clock.get_credit(6.0) == 600


def test_only_a_long_pause_of_the_sender_loses_time():
    clock = ByteClock(BandwidthTrace.constant(1000.0), idle_s=0.25)
    clock.begin(0.0)
    clock.carry(100, 0.1, empty=True)
    clock.begin(0.3)
    assert clock.get_credit(0.3) == 200
    clock.carry(200, 0.3, empty=True)
    clock.begin(0.6)
    assert clock.get_credit(0.6) == 0
    assert clock.get_credit(0.7) == 100


@given(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=20))
def test_ticks_of_any_length_carry_what_the_clock_says(steps):
    clock = ByteClock(UNEVEN, idle_s=0.25)
    clock.begin(0.0)
    now = 0.0
    for step in steps:
        now += step
        clock.carry(clock.get_credit(now), now, empty=False)
    assert clock.carried == int(UNEVEN.delivered(0.0, now))
