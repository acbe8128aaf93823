"""`python -m evaluation.serving.path`: what a request costs in Sponge's own code, without gRPC and without a model.

Bodies are handed to the server as gRPC would, and answers taken from it; the engine answers zeros at once. What is
told is CPU time of the whole process, event loop included, and with --profile where in our code it goes.
"""

import argparse
import asyncio
import cProfile
import pstats
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import uvloop
from prometheus_client import CollectorRegistry

from dataplane.batcher import Batcher, Shape
from dataplane.config import Server
from dataplane.deadline import Policy
from dataplane.execution import Executed, Timing
from dataplane.inference import Inference
from dataplane.metrics import Metrics
from dataplane.repository import Repository
from dataplane.served import Model, Served, State
from dataplane.server import InferenceServer
from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.statistics import Statistics
from dataplane.telemetry import Resources, Telemetry
from dataplane.tensors import Array, ModelSignature, TensorSpec
from dataplane.worker import Worker
from protos import inference_pb2 as pb

_WIDTH, _CLASSES, _BATCH = 256, 10, 32
_SIGNATURE = ModelSignature(
    "mlp",
    "1",
    (TensorSpec("x", "FP32", (None, _WIDTH)),),
    (TensorSpec("y", "FP32", (None, _CLASSES)),),
    batched=True,
)
# Short enough to run on the event loop, as the model would.
_TABLE = [ServiceTime(rows, 4e-4 + 2e-5 * rows, 3e-4, 1.5e-3) for rows in (1, 2, 4, 8, 16, 32)]
_ROUNDS = 5


class _Engine:
    """Zeros, at once."""

    signature = _SIGNATURE
    digest = "0" * 64

    def has(self, threads: int) -> bool:
        return True

    def rung_bytes(self) -> dict[int, int]:
        return {}

    def prepare(self, threads: int, batches: Sequence[int]) -> list[Timing]:
        return []

    def run(self, threads: int, batch: Sequence[Mapping[str, Array]]) -> Executed:
        return Executed([{"y": np.zeros((1, _CLASSES), np.float32)} for _ in batch], 4e-4, 4e-4)

    def close(self) -> None:
        pass


class _Context:
    """One call of a client."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self) -> bytes:
        return self._body

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> float:
        return 1.0

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", "path"),)


def _server() -> InferenceServer:
    clock = time.monotonic
    metrics, statistics = Metrics(CollectorRegistry()), Statistics()
    statistics.begin(0)
    observers = (Telemetry(clock(), Resources(0.0)), metrics, statistics)
    batcher = Batcher(Shape(1, 1, _BATCH), ServiceTimes(_TABLE), 1024)
    worker = Worker(_Engine(), batcher, observers, clock, time.process_time, 1)
    served = Served(Model(0, _SIGNATURE, _Engine.digest, _BATCH), State.SERVING)
    policy = Policy(max_slo_s=1.0, min_slo_s=0.0, max_grace_s=1.0, margin_s=0.005, trust_client=False)
    inference = Inference(worker, served, policy, 4 << 20, statistics, observers, clock)
    # No call here asks for a version.
    repository = cast("Repository", None)
    return InferenceServer(inference, served, repository, statistics, metrics, Server(), clock)


def _body() -> bytes:
    request = pb.ModelInferRequest(model_name="mlp", raw_input_contents=[bytes(4 * _WIDTH)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, _WIDTH])
    return request.SerializeToString()


async def _ask(server: InferenceServer, body: bytes, concurrency: int, requests: int) -> None:
    async def client() -> None:
        for _ in range(requests // concurrency):
            await server.ModelInfer(None, cast("Any", _Context(body)))

    await asyncio.gather(*(client() for _ in range(concurrency)))


async def measure(requests: int, profile: bool) -> None:
    """Print CPU microseconds a request, the least of some rounds."""
    server, body = _server(), _body()
    for concurrency in (1, 8, 32):
        least = float("inf")
        for _ in range(_ROUNDS):
            before = time.process_time()
            await _ask(server, body, concurrency, requests)
            least = min(least, (time.process_time() - before) / (requests // concurrency * concurrency))
        print(f"{concurrency:>3} at a time: {1e6 * least:5.0f} µs of CPU a request")
    if profile:
        with cProfile.Profile() as profiler:
            await _ask(server, body, 8, requests)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.serving.path", description=__doc__)
    parser.add_argument("--requests", type=int, default=5000, help="of each round; default: 5000")
    parser.add_argument("--profile", action="store_true", help="where it goes, as cProfile sees it")
    parsed = parser.parse_args()
    uvloop.run(measure(parsed.requests, parsed.profile))


if __name__ == "__main__":
    main()
