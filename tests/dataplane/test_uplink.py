"""The uplink outlives whatever goes wrong on its side of the stream."""

import asyncio
import time
from contextlib import asynccontextmanager

from dataplane.uplink import Uplink
from protos import control_pb2
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


@asynccontextmanager
async def attached(source, others=""):
    """An uplink of `source`, and the control plane it is attached to; `others` are addresses that it tries before."""
    port = free_port()
    with control_plane(port) as control:
        uplink = Uplink(f"{others}{LOOPBACK}:{port}", source, 0.02, time.monotonic)
        running = asyncio.create_task(uplink.run())
        try:
            await soon(lambda: control.samples)
            control.uplink = uplink
            yield control
        finally:
            running.cancel()
            await asyncio.wait([running])


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
