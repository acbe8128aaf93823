"""The gRPC deadline is the dynamic SLO: what a slow upload leaves of it, seen through an emulated link."""

import asyncio
import time
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest

from evaluation.bandwidth import BandwidthTrace
from evaluation.link import Links
from tests import models, processes
from tests.inference import infer_request, stub

BYTES_PER_S = 250_000
# UINT8 [1, 250, 250, 3]: 0.75 s on the link.
IMAGE = np.ones((1, 250, 250, 3), np.uint8)
UPLOAD_S = IMAGE.nbytes / BYTES_PER_S
HEADERS = "sponge_worker_headers_total"


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    directory = tmp_path_factory.mktemp("link")
    model = models.sum_image(directory / "image.onnx")
    with processes.worker(directory, model, service={"slo_ms": 20_000, "response_margin_ms": 0}) as worker:
        yield worker


@asynccontextmanager
async def uploading(worker):
    """The service behind one connection of BYTES_PER_S."""
    host, _, port = worker.address.rpartition(":")
    trace = BandwidthTrace.constant(BYTES_PER_S)
    async with Links((host, int(port)), trace, t0=time.monotonic()) as links:
        host, port = links.address
        async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            await channel.channel_ready()
            yield stub(channel)


def image(data=IMAGE, **parameters):
    return infer_request("image", data, name="image", datatype="UINT8", **parameters)


def budgets(worker):
    """Sum of the budgets that requests arrived with, in seconds, and their number."""
    metrics = worker.metrics()
    return metrics["sponge_worker_budget_seconds_sum"], metrics["sponge_worker_budget_seconds_count"]


async def budget_of(worker, *calls):
    """Mean budget at arrival of these calls."""
    before, count_before = budgets(worker)
    await asyncio.gather(*calls)
    after, count = budgets(worker)
    assert count - count_before == len(calls)
    return after - before


def sent():
    """The time of sending, by a clock of an epoch of its own."""
    return (("sent-s", f"{time.monotonic() + 12345:.6f}"),)


async def test_a_body_that_arrives_slowly_leaves_less_time(worker):
    async with uploading(worker) as service:
        left = await budget_of(worker, service.ModelInfer(image(), timeout=10.0))
        assert left <= 10.0 - 0.9 * UPLOAD_S
        small = np.ones((1, 2, 2, 3), np.uint8)
        left = await budget_of(worker, service.ModelInfer(image(small), timeout=10.0))
        assert left > 10.0 - 0.9 * UPLOAD_S


async def test_a_deadline_that_passes_during_the_upload_is_counted_and_nothing_runs(worker):
    expired, executions = worker.ended("expired_in_upload"), worker.executions()
    async with uploading(worker) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.ModelInfer(image(), timeout=UPLOAD_S / 2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.to_thread(
            processes.eventually, lambda: worker.ended("expired_in_upload"), lambda n: n == expired + 1
        )
    assert worker.executions() == executions


async def test_cancelled_during_the_upload_is_not_expired(worker):
    expired, cancelled = worker.ended("expired_in_upload"), worker.ended("cancelled")
    headers = worker.metrics()[HEADERS]
    twelve_seconds = np.ones((1, 1000, 1000, 3), np.uint8)
    async with uploading(worker) as service:
        call = service.ModelInfer(image(twelve_seconds), timeout=60.0)
        # What is cancelled before its header has arrived the worker never hears of.
        await asyncio.to_thread(
            processes.eventually, lambda: worker.metrics()[HEADERS], lambda n: n == headers + 1
        )
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(
            processes.eventually, lambda: worker.ended("cancelled"), lambda n: n == cancelled + 1
        )
    assert worker.ended("expired_in_upload") == expired


async def test_overlapping_uploads_on_one_connection_are_charged_with_sent_s(worker):
    uncertain = worker.metrics()["sponge_worker_uncertain_deadlines_total"]
    async with uploading(worker) as service:
        # The measure of this connection.
        await service.ModelInfer(image(np.ones((1, 2, 2, 3), np.uint8)), timeout=10.0, metadata=sent())
        calls = [service.ModelInfer(image(), timeout=10.0, metadata=sent()) for _ in range(2)]
        both = await budget_of(worker, *calls)
    # However they share the link, the first ends after one upload or more, the last after two.
    assert both <= 20.0 - 0.8 * 3 * UPLOAD_S
    assert worker.metrics()["sponge_worker_uncertain_deadlines_total"] == uncertain


async def test_without_it_they_are_called_uncertain(worker):
    uncertain = worker.metrics()["sponge_worker_uncertain_deadlines_total"]
    async with uploading(worker) as service:
        await asyncio.gather(*(service.ModelInfer(image(), timeout=10.0) for _ in range(3)))
    assert worker.metrics()["sponge_worker_uncertain_deadlines_total"] > uncertain
