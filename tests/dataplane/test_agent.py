"""What a worker knows when it begins to serve."""

import socket
import time

import numpy as np
import pytest

from dataplane.agent import Agent, container_id
from dataplane.batcher import Batcher, Shape
from dataplane.config import Config, Engine, Model, Service
from dataplane.execution import Timing
from dataplane.served import Model as Loaded
from dataplane.served import Served
from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.telemetry import Resources, Telemetry
from dataplane.tensors import ModelSignature
from dataplane.worker import Worker
from tests.dataplane.requests import request

SIGNATURE = ModelSignature("m", "1", (), (), batched=True)


async def warmed(*elements):
    """The service times of a worker whose rows of n elements took n milliseconds to warm up with."""
    times = ServiceTimes([ServiceTime(1, 9.0, 9.0, 9.0)])
    worker = Worker(None, Batcher(Shape(1, 1, 4), times, 10), [], time.monotonic, time.process_time, 1)
    config = Config(model=Model(path="m.onnx"), service=Service(slo_ms=100), engine=Engine(max_batch=4))
    served = Served(Loaded(0, SIGNATURE, "0" * 64, 4))
    agent = Agent(config, worker, served, Telemetry(0.0, Resources(0.0)), None, time.monotonic)
    agent.adopt([Timing(rows, 1, 0.001 * rows * size, 0.0, size) for rows in (1, 2, 4) for size in elements])
    worker.close()
    return times


async def test_service_times_are_those_of_the_warm_up():
    times = await warmed(10)
    assert [times.mean(rows) for rows in (1, 2, 4)] == pytest.approx([0.010, 0.020, 0.040])
    assert times.costs.even


async def test_of_several_shapes_they_are_the_mean_and_each_has_its_cost():
    times = await warmed(10, 30)
    assert [times.mean(rows) for rows in (1, 2, 4)] == pytest.approx([0.020, 0.040, 0.080])
    small, large = (sized(elements) for elements in (10, 30))
    assert [times.costs.of(one) for one in (small, sized(20), large)] == pytest.approx([0.5, 1.0, 1.5])


def sized(elements):
    """A request of one row of so many elements."""
    return request(1.0, shape=elements, inputs={"x": np.zeros((1, elements))})


def test_in_a_pod_the_worker_goes_by_its_name():
    assert (
        container_id({"SPONGE_POD_NAME": "worker-7d9c-x2x", "KUBERNETES_SERVICE_HOST": "k"})
        == "worker-7d9c-x2x"
    )
    assert container_id({"KUBERNETES_SERVICE_HOST": "k"}) == socket.gethostname()
