"""A worker under attack: whether it is well, and what it has said."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from onnx import TensorProto

from tests import models, processes, spinning
from tests.fuzz.memory import rss_mib
from tests.inference import infer_request, output, stub

_PATIENCE_S = 60.0
_IDLE = ("sponge_worker_queue_depth", "sponge_worker_executions_running")


class Target:
    """One worker process whose model gives `rows` back, and a client that behaves."""

    def __init__(self, worker: processes.Worker, channel: grpc.Channel, model: str, rows: np.ndarray) -> None:
        self.worker = worker
        self.address = worker.address
        self.model = model
        self._rows = rows
        self._stub = stub(channel)

    def check(self) -> None:
        """AssertionError unless a good call is answered right."""
        response = self._stub.ModelInfer(infer_request(self.model, self._rows), timeout=_PATIENCE_S)
        np.testing.assert_array_equal(output(response), self._rows)

    @property
    def rss_mib(self) -> float:
        """Resident memory."""
        return rss_mib(self.worker.process.popen.pid)

    @property
    def files(self) -> int:
        """Open file descriptors, sockets among them."""
        return len(list(Path(f"/proc/{self.worker.process.popen.pid}/fd").iterdir()))

    def headers(self) -> int:
        """Requests that have begun."""
        return int(self.worker.metrics()["sponge_worker_headers_total"])

    def settle(self) -> None:
        """Wait until nothing waits or runs, and all that ever began has ended. AssertionError if it does not."""
        processes.eventually(self.worker.metrics, _is_idle)

    def faults(self) -> list[str]:
        """What it has logged that it should not have had to."""
        lines = self.worker.process.log.read_text().splitlines()
        return [line for line in lines if not line.startswith("{") or '"level": "info"' not in line]


def _is_idle(metrics: Mapping[str, float]) -> bool:
    ended = sum(count for name, count in metrics.items() if name.startswith("sponge_worker_requests_total{"))
    return not any(metrics[name] for name in _IDLE) and ended == metrics["sponge_worker_headers_total"]


@contextmanager
def echo(directory: Path, **sections: Any) -> Iterator[Target]:
    """A worker that gives FP32 x [N, T] back, named m."""
    directory.mkdir(parents=True, exist_ok=True)
    with _running(models.echo(directory / "m.onnx", TensorProto.FLOAT), sections) as (worker, channel):
        yield Target(worker, channel, "m", np.arange(6, dtype=np.float32).reshape(2, 3))


@contextmanager
def spinner(directory: Path, **sections: Any) -> Iterator[Target]:
    """A worker of tests.spinning."""
    directory.mkdir(parents=True, exist_ok=True)
    with _running(spinning.save(directory / f"{spinning.NAME}.onnx"), sections) as (worker, channel):
        yield Target(worker, channel, spinning.NAME, spinning.spins(1))


@contextmanager
def _running(model: Path, sections: Mapping[str, Any]) -> Iterator[tuple[processes.Worker, grpc.Channel]]:
    with (
        processes.worker(model.parent, model, **sections) as worker,
        grpc.insecure_channel(worker.address) as channel,
    ):
        yield worker, channel
