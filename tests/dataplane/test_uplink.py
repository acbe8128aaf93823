"""The uplink outlives whatever goes wrong on its side of the stream."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
import structlog
import trustme

from core.tls import credentials
from dataplane.uplink import Uplink
from protos import control_pb2
from tests.certificates import Identity
from tests.control_planes import control_plane
from tests.processes import LOOPBACK, eventually, free_port


class Source:
    """A worker that fails as often as the test says."""

    def __init__(self):
        self.bad_samples = 0
        self.digest = "first"
        self.obeyed = []

    def hello(self):
        return control_pb2.Hello(worker_id="w", model_digest=self.digest)

    def sample(self, *, distress):
        if self.bad_samples > 0:
            self.bad_samples -= 1
            raise ValueError("negative periods")
        return control_pb2.Sample(distress=distress)

    async def obey(self, directive):
        self.obeyed.append(directive.version.epoch)
        if directive.version.epoch == 1:
            raise ValueError("times out of order")


class Slow(Source):
    """Takes until the gate is open to obey."""

    def __init__(self):
        super().__init__()
        self.begun = []
        self.gate = asyncio.Event()

    async def obey(self, directive):
        self.begun.append(directive.version.epoch)
        await self.gate.wait()
        await super().obey(directive)


@asynccontextmanager
async def attached(source, others=""):
    """An uplink of `source`, and the control plane it is attached to; `others` are addresses that it tries before."""
    port = free_port()
    with control_plane(port) as control:
        control.uplink = Uplink(f"{others}{LOOPBACK}:{port}", source, 0.02, time.monotonic)
        async with running(control.uplink):
            await soon(lambda: control.samples)
            yield control


@asynccontextmanager
async def running(uplink):
    task = asyncio.create_task(uplink.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def soon(*condition):
    await asyncio.to_thread(eventually, *condition)


async def test_a_directive_that_cannot_be_obeyed_is_not_the_last():
    source = Source()
    async with attached(source) as control:
        for epoch in (1, 2):
            control.direct(epoch)
            await soon(lambda expected=epoch: expected in source.obeyed)
        count = len(control.samples)
        await soon(lambda: len(control.samples) > count + 3)


async def test_after_a_sample_that_cannot_be_made_it_attaches_again():
    source = Source()
    async with attached(source) as control:
        source.bad_samples = 1
        await soon(lambda: len(control.hellos) == 2)
        count = len(control.samples)
        await soon(lambda: len(control.samples) > count + 3)


async def test_another_hello_is_said_on_another_stream_at_once():
    """Nothing of what the source is now is said on the old one, nor obeyed what that says."""
    source = Source()
    async with attached(source) as control:
        source.digest = "second"
        count = len(control.samples)
        control.direct(7)
        control.uplink.renew()
        await soon(lambda: len(control.hellos) == 2)
        assert [hello.model_digest for hello in control.hellos] == ["first", "second"]
        await soon(lambda: len(control.samples) > count + 3)
        assert source.obeyed == []
        control.direct(8)
        await soon(lambda: source.obeyed == [8])


async def test_of_several_control_planes_the_one_that_takes_workers_is_found():
    source = Source()
    nobody = f"{LOOPBACK}:{free_port()}, "
    async with attached(source, others=nobody) as control:
        source.bad_samples = 1
        # Once more around.
        await soon(lambda: len(control.hellos) == 2)


async def test_what_came_by_a_stream_is_not_obeyed_after_its_end():
    source = Slow()
    async with attached(source) as control:
        control.direct(1)
        await soon(lambda: source.begun == [1])
        control.direct(2)  # waits for the first
        count = len(control.samples)
        await soon(lambda: len(control.samples) > count + 3)
        source.bad_samples = 1
        await soon(lambda: len(control.hellos) == 2)
        source.gate.set()
        control.direct(3)
        await soon(lambda: 3 in source.obeyed)
        assert source.obeyed == [3]


async def test_a_directive_that_fails_again_is_logged_once():
    source = Source()
    async with attached(source) as control:
        with structlog.testing.capture_logs() as lines:
            for _ in range(3):
                count = len(source.obeyed)
                control.direct(1)
                await soon(lambda before=count: len(source.obeyed) > before)
            control.direct(2)
            await soon(lambda: 2 in source.obeyed)
        assert [line["event"] for line in lines] == ["directive failed"]


async def test_where_connections_are_taken_and_nothing_is_said_that_is_logged_once():
    """To connect takes longer than a stream has to hold to count as one."""
    taken = []

    async def take(_, writer):
        taken.append(writer)

    server = await asyncio.start_server(take, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    with structlog.testing.capture_logs() as lines:
        async with server, running(Uplink(f"{LOOPBACK}:{port}", Source(), 0.02, time.monotonic)):
            # The second attempt is over, too, when the third begins.
            await soon(lambda: len(taken) == 3)
    for writer in taken:
        writer.close()
    assert [line["event"] for line in lines] == ["control plane out of reach"]


async def test_of_several_addresses_all_are_tried_before_it_waits():
    """That nobody leads is logged once, not once for each of them."""
    taken = []

    async def turn_away(_, writer):
        taken.append(writer.get_extra_info("sockname")[1])
        writer.close()

    servers = [await asyncio.start_server(turn_away, LOOPBACK, 0) for _ in range(2)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    addresses = ",".join(f"{LOOPBACK}:{port}" for port in ports)
    with structlog.testing.capture_logs() as lines:
        async with servers[0], servers[1], running(Uplink(addresses, Source(), 0.02, time.monotonic)):
            await soon(lambda: len(set(taken)) == 2)
            await soon(lambda: taken[-1] == ports[0] and taken.index(ports[1]) < len(taken) - 1)
    assert [line["event"] for line in lines] == ["control plane out of reach"]


class TestOverTls:
    """Both sides show certificates of one authority, and later of another."""

    @pytest.fixture
    def authority(self):
        return trustme.CA()

    @pytest.fixture
    def server(self, tmp_path, authority):
        return Identity.issue(tmp_path / "server", authority)

    @pytest.fixture
    def worker(self, tmp_path, authority):
        return Identity.issue(tmp_path / "worker", authority, "worker.test")

    def uplink(self, address, worker):
        return Uplink(address, Source(), 0.02, time.monotonic, worker.client_tls())

    async def test_of_several_addresses_each_is_tried_by_tls(self, server, worker):
        port = free_port()
        address = f"{LOOPBACK}:{free_port()}, {LOOPBACK}:{port}"
        with control_plane(port, credentials(server.tls(server.ca))) as control:
            async with running(self.uplink(address, worker)):
                await soon(lambda: control.samples)

    async def test_another_authority_counts_from_the_next_attempt_on(self, server, worker):
        port = free_port()
        async with running(self.uplink(f"{LOOPBACK}:{port}", worker)):
            with control_plane(port, credentials(server.tls(server.ca))) as control:
                await soon(lambda: control.samples)
            other = trustme.CA()
            for directory, name in ((server.key.parent, LOOPBACK), (worker.key.parent, "worker.test")):
                Identity.issue(directory, other, name)
            with control_plane(port, credentials(server.tls(server.ca))) as control:
                await soon(lambda: control.samples)

    async def test_files_that_are_missing_for_a_while_are_the_reason_and_then_no_more(self, server, worker):
        port = free_port()
        ca = worker.ca.read_bytes()
        worker.ca.unlink()
        with (
            structlog.testing.capture_logs() as lines,
            control_plane(port, credentials(server.tls(server.ca))) as control,
        ):
            async with running(self.uplink(f"{LOOPBACK}:{port}", worker)):
                await soon(lambda: lines)
                assert lines[0]["reason"].startswith(f"control.tls.ca: expected a file, {worker.ca} cannot")
                assert control.hellos == []
                worker.ca.write_bytes(ca)
                await soon(lambda: control.samples)

    async def test_another_hello_waits_for_files_that_are_missing(self, server, worker):
        port = free_port()
        ca = worker.ca.read_bytes()
        uplink = self.uplink(f"{LOOPBACK}:{port}", worker)
        with control_plane(port, credentials(server.tls(server.ca))) as control:
            async with running(uplink):
                await soon(lambda: control.samples)
                worker.ca.unlink()
                with structlog.testing.capture_logs() as lines:
                    uplink.renew()
                    await soon(lambda: lines)
                assert lines[0]["reason"].startswith("control.tls.ca: expected a file")
                worker.ca.write_bytes(ca)
                await soon(lambda: len(control.hellos) == 2)
