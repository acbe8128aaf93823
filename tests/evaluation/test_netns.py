"""Links of the kernel's, beside those in user space. Needs root."""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from evaluation import netns
from evaluation.bandwidth import BandwidthTrace
from evaluation.kernel_link import KernelLinks
from evaluation.link import Links
from evaluation.sockets import abort

# With a dip to nothing, and a change every half second.
UNEVEN = BandwidthTrace((0.7, 0.5, 0.3, 0.9, 0.4), (400e3, 1.2e6, 0.0, 250e3, 3e6))
SIZES = (100_000, 250_000, 500_000)


@pytest.fixture(scope="module", autouse=True)
def _kernel():
    """Skip where the kernel or the rights for it are missing, in the words of the error."""
    try:
        with netns.network(1):
            pass
    except netns.NetworkError as error:
        pytest.skip(str(error))


@contextlib.asynccontextmanager
async def upstream():
    """Give the address of a server that answers a whole upload with when its last byte came, and its size."""

    async def receive(reader, writer):
        size, last = 0, 0.0
        with contextlib.suppress(ConnectionResetError):
            while chunk := await reader.read(64 * 1024):
                size, last = size + len(chunk), time.monotonic()
            writer.write(f"{last!r} {size}".encode())
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()


@dataclass(frozen=True)
class Upload:
    sent_s: float
    arrived_s: float


async def upload(links: Links | KernelLinks, size: int, t0: float) -> Upload:
    sent = time.monotonic()
    reader, writer = await asyncio.open_connection(*links.address)
    writer.write(bytes(size))
    writer.write_eof()
    arrived, received = (await reader.read()).split()
    writer.close()
    await writer.wait_closed()
    assert int(received) == size
    return Upload(sent - t0, float(arrived) - t0)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 (nobody tells when)
        await asyncio.sleep(0.01)


async def test_both_kinds_of_link_leave_the_same_budget():
    """The two agree within 10 ms on when an upload has arrived, which is its deadline less its budget.

    On a busy machine one upload may be late by tens of milliseconds. So every upload is made over both links at
    the same moment, under the same load, and the median of 24 differences is judged: half of the uploads would
    have to be hit on one side only.
    """
    t0 = time.monotonic()
    async with (
        upstream() as address,
        Links(address, UNEVEN, t0) as proxied,
        KernelLinks(address, UNEVEN, t0, most=24) as shaped,
    ):

        async def both(number: int) -> tuple[float, float]:
            await asyncio.sleep(0.25 * number)
            size = SIZES[number % len(SIZES)]
            pair = await asyncio.gather(upload(proxied, size, t0), upload(shaped, size, t0))
            first, second = (1000 * (one.arrived_s - UNEVEN.finish(one.sent_s, size)) for one in pair)
            return first, second

        late_ms = await asyncio.gather(*(both(number) for number in range(24)))
    apart_ms = [second - first for first, second in late_ms]
    print("\nlater than the trace says, median ms:")
    print(f"proxy {statistics.median(first for first, _ in late_ms):.1f}", end=", ")
    print(f"tbf {statistics.median(second for _, second in late_ms):.1f}", end=", ")
    print(f"tbf less proxy {statistics.median(apart_ms):.1f} of {[round(ms) for ms in sorted(apart_ms)]}")
    assert abs(statistics.median(apart_ms)) <= 10.0


async def test_each_connection_has_a_link_of_its_own_and_shared_ones_do_not():
    trace = BandwidthTrace.constant(200e3)
    t0 = time.monotonic()
    async with upstream() as address, KernelLinks(address, trace, t0) as links:
        own = await asyncio.gather(*(upload(links, 60_000, t0) for _ in range(6)))
    async with upstream() as address, KernelLinks(address, trace, t0, shared=True) as links:
        shared = await asyncio.gather(*(upload(links, 60_000, t0) for _ in range(6)))
    # What one link carries from the first byte to the last; a bucket's worth may be early.
    carried = trace.delivered(min(one.sent_s for one in own), max(one.arrived_s for one in own))
    assert carried < 6 * 60_000
    carried = trace.delivered(min(one.sent_s for one in shared), max(one.arrived_s for one in shared))
    assert carried > 0.95 * 6 * 60_000


async def test_nothing_passes_in_an_outage():
    trace = BandwidthTrace((0.5, 1.5), (200e3, 0.0))
    t0 = time.monotonic()
    async with upstream() as address, KernelLinks(address, trace, t0, most=1) as links:
        await asyncio.sleep(t0 + 0.2 - time.monotonic())
        done = await upload(links, 80_000, t0)
    # 60 KB at most go before the outage.
    assert done.arrived_s >= 2.0


async def test_answers_come_while_the_upload_goes_on():
    async def greet(reader, writer):
        writer.write(b"x" * 1_000_000)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    trace = BandwidthTrace.constant(1.0)
    async with server, KernelLinks(server.sockets[0].getsockname(), trace, time.monotonic(), most=1) as links:
        reader, writer = await asyncio.open_connection(*links.address)
        writer.write(bytes(10_000))
        assert len(await reader.readexactly(1_000_000)) == 1_000_000
        writer.close()


async def test_a_link_is_free_again_after_a_broken_upload():
    trace = BandwidthTrace((1.0, 1000.0), (1.0, 5e6))
    t0 = time.monotonic()
    async with upstream() as address, KernelLinks(address, trace, t0, most=1) as links:
        _, writer = await asyncio.open_connection(*links.address)
        writer.write(bytes(50_000))
        async with asyncio.timeout(10):
            await until(lambda: links.in_use == 1)
            abort(writer.transport)
            await until(lambda: links.in_use == 0)
            await asyncio.sleep(t0 + 1.0 - time.monotonic())
            await upload(links, 100_000, t0)


async def test_an_absent_upstream_is_a_reset():
    async with upstream() as address:
        pass
    async with KernelLinks(address, UNEVEN, time.monotonic(), most=1) as links:
        reader, writer = await asyncio.open_connection(*links.address)
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()


async def test_leaving_breaks_open_connections_off_and_leaves_nothing():
    before = os.listdir("/sys/class/net"), len(os.listdir("/proc/self/fd"))
    trace = BandwidthTrace.constant(1.0)
    async with upstream() as address:
        async with KernelLinks(address, trace, time.monotonic(), most=3) as links:
            reader, writer = await asyncio.open_connection(*links.address)
            writer.write(bytes(1000))
            await asyncio.sleep(0.1)
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()
    await asyncio.sleep(0)
    assert (os.listdir("/sys/class/net"), len(os.listdir("/proc/self/fd"))) == before


def test_the_error_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(netns.NetworkError, match="no command `ip`"), netns.network(1):
        pass
