"""What a worker knows when it begins to serve."""

import asyncio
import socket
import time

import numpy as np
import pytest
import structlog

from dataplane.agent import Agent, container_id
from dataplane.batcher import Batcher, Shape
from dataplane.config import Config, Engine, Model, Service
from dataplane.execution import Timing
from dataplane.served import Model as Loaded
from dataplane.served import Served
from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.telemetry import Resources, Telemetry
from dataplane.tensors import ModelSignature
from dataplane.uplink import Uplink
from dataplane.worker import Worker
from protos import control_pb2
from tests.control_planes import control_plane
from tests.dataplane.engines import FakeEngine
from tests.dataplane.requests import request
from tests.processes import LOOPBACK, eventually, free_port

SIGNATURE = ModelSignature("m", "1", (), (), batched=True)


def agent_of(engine):
    """An agent that is yet to be told that its worker is warm, and the worker."""
    times = ServiceTimes([ServiceTime(1, 9.0, 9.0, 9.0)])
    worker = Worker(engine, Batcher(Shape(1, 1, 4), times, 10), [], time.monotonic, time.process_time, 1)
    config = Config(model=Model(path="m.onnx"), service=Service(slo_ms=100), engine=Engine(max_batch=4))
    served = Served(Loaded(0, SIGNATURE, "0" * 64, 4))
    return Agent(config, worker, served, Telemetry(0.0, Resources(0.0)), None, time.monotonic), worker


async def warmed(*elements):
    """The service times of a worker whose rows of n elements took n milliseconds to warm up with."""
    agent, worker = agent_of(None)
    agent.adopt([Timing(rows, 1, 0.001 * rows * size, 0.0, size) for rows in (1, 2, 4) for size in elements])
    worker.close()
    return worker.batcher.times


async def test_service_times_are_those_of_the_warm_up():
    times = await warmed(10)
    assert [times.mean(rows) for rows in (1, 2, 4)] == pytest.approx([0.010, 0.020, 0.040])
    assert times.costs.even


async def test_of_several_shapes_they_are_the_mean_and_each_has_its_cost():
    times = await warmed(10, 30)
    assert [times.mean(rows) for rows in (1, 2, 4)] == pytest.approx([0.020, 0.040, 0.080])
    small, large = (sized(elements) for elements in (10, 30))
    assert [times.costs.of(one) for one in (small, sized(20), large)] == pytest.approx([0.5, 1.0, 1.5])


async def soon(condition):
    await asyncio.to_thread(eventually, condition)


def sized(elements):
    """A request of one row of so many elements."""
    return request(1.0, shape=elements, inputs={"x": np.zeros((1, elements))})


class Hearing:
    """An agent, and the epochs of what it was told."""

    def __init__(self, agent):
        self.hello, self.sample = agent.hello, agent.sample
        self.heard = []
        self._agent = agent

    async def obey(self, directive):
        self.heard.append(directive.version.epoch)
        await self._agent.obey(directive)


WARM_UP = [Timing(1, 1, 0.01, 0.01)]


@pytest.mark.parametrize("starting", [True, False])
async def test_what_a_leader_that_is_gone_has_sent_is_not_taken_for_its_successors(starting):
    """Both count from one with a worker that has nothing in force: it is warming up, or builds its first session."""
    engine = FakeEngine()
    agent, worker = agent_of(engine)
    source, port = Hearing(agent), free_port()
    uplink = Uplink(f"{LOOPBACK}:{port}", source, 0.02, time.monotonic)
    if not starting:
        agent.adopt(WARM_UP)
        engine.hold_preparing()
    running = asyncio.create_task(uplink.run())
    try:
        with control_plane(port) as first:
            await soon(lambda: first.samples)
            first.direct(1, threads=2)
            await soon(lambda: source.heard == [1] and (starting or engine.preparing))
        with control_plane(port) as second:
            await soon(lambda: second.samples)
            assert (second.hellos[0].applied.epoch, second.hellos[0].starting) == (0, starting)
            second.direct(1, instances=2)
            agent.adopt(WARM_UP)
            engine.let_prepare()
            await soon(lambda: second.acknowledged() == 1)
            await soon(lambda: starting or engine.prepared)
            count = len(second.samples)
            await soon(lambda: len(second.samples) > count + 3)
            assert worker.batcher.shape == Shape(2, 1, 1, (1, 1))
            assert source.heard == [1, 1]
    finally:
        running.cancel()
        await asyncio.wait([running])
        worker.close()


async def test_what_could_not_be_put_in_force_is_tried_when_it_is_sent_again_and_logged_once():
    engine = FakeEngine()
    engine.broken = True
    agent, worker = agent_of(engine)
    agent.adopt(WARM_UP)
    directive = control_pb2.Directive(
        version={"term": 1, "epoch": 1},
        allocation={"cpu_millicores": 2000, "instances": 1, "threads": 2, "max_batch": 1},
    )
    with structlog.testing.capture_logs() as lines:
        await agent.obey(directive)
        await agent.obey(directive)
        assert worker.batcher.shape == Shape(1, 1, 4)
        engine.broken = False
        await agent.obey(directive)
        assert worker.batcher.shape == Shape(1, 2, 1, (1, 1))
        await agent.obey(directive)
    assert [line["event"] for line in lines] == ["directive ignored", "allocation applied"]
    worker.close()


def test_in_a_pod_the_worker_goes_by_its_name():
    assert (
        container_id({"SPONGE_POD_NAME": "worker-7d9c-x2x", "KUBERNETES_SERVICE_HOST": "k"})
        == "worker-7d9c-x2x"
    )
    assert container_id({"KUBERNETES_SERVICE_HOST": "k"}) == socket.gethostname()
