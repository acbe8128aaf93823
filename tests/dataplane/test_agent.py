"""What a worker knows when it begins to serve."""

import time

import numpy as np
import pytest

from dataplane.agent import Agent
from dataplane.batcher import Batcher, Shape
from dataplane.config import Config, Engine, Model, Service
from dataplane.execution import Timing
from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.telemetry import Resources, Telemetry
from dataplane.tensors import ModelSignature
from dataplane.worker import Worker
from tests.dataplane.requests import request


class TimedEngine:
    """Claims to have run what it is to prepare: a row of n elements in n milliseconds."""

    signature = ModelSignature("m", "1", (), (), batched=True)
    digest = "0" * 64

    def __init__(self, *elements):
        self._elements = elements

    def prepare(self, threads, batches):
        return [
            Timing(rows, threads, 0.001 * rows * elements, 0.0, elements)
            for rows in batches
            for elements in self._elements
        ]


async def warmed(engine):
    """The service times of a worker that has warmed up."""
    times = ServiceTimes([ServiceTime(1, 9.0, 9.0, 9.0)])
    worker = Worker(engine, Batcher(Shape(1, 1, 4), times, 10), [], time.monotonic, time.process_time, 1)
    config = Config(model=Model(path="m.onnx"), service=Service(slo_ms=100), engine=Engine(max_batch=4))
    await Agent(config, worker, engine, Telemetry(0.0, Resources(0.0)), None, time.monotonic).warm_up()
    worker.close()
    return times


async def test_service_times_are_those_of_the_warm_up():
    times = await warmed(TimedEngine(10))
    assert [times.mean(rows) for rows in (1, 2, 4)] == pytest.approx([0.010, 0.020, 0.040])
    assert times.costs.even


async def test_of_several_shapes_they_are_the_mean_and_each_has_its_cost():
    times = await warmed(TimedEngine(10, 30))
    assert [times.mean(rows) for rows in (1, 2, 4)] == pytest.approx([0.020, 0.040, 0.080])
    small, large = (sized(elements) for elements in (10, 30))
    assert [times.costs.of(one) for one in (small, sized(20), large)] == pytest.approx([0.5, 1.0, 1.5])


def sized(elements):
    """A request of one row of so many elements."""
    return request(1.0, shape=elements, inputs={"x": np.zeros((1, elements))})
