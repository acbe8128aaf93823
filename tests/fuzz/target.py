"""A worker under attack: whether it is well, and what it has said."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
from onnx import TensorProto

from tests import models, processes
from tests.fuzz.memory import rss_mib
from tests.inference import infer_request, output, stub

_ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
_PATIENCE_S = 60.0


class Target:
    """One worker process that gives FP32 x [N, T] back, named m, and a client that behaves."""

    def __init__(self, worker: processes.Worker, channel: grpc.Channel) -> None:
        self.worker = worker
        self.address = worker.address
        self._stub = stub(channel)

    def check(self) -> None:
        """AssertionError unless a good call is answered right."""
        response = self._stub.ModelInfer(infer_request("m", _ROWS), timeout=_PATIENCE_S)
        np.testing.assert_array_equal(output(response), _ROWS)

    @property
    def rss_mib(self) -> float:
        """Resident memory."""
        return rss_mib(self.worker.process.popen.pid)

    @property
    def files(self) -> int:
        """Open file descriptors, sockets among them."""
        return len(list(Path(f"/proc/{self.worker.process.popen.pid}/fd").iterdir()))

    def settle(self) -> None:
        """Wait until nothing waits or runs. AssertionError if it does not come to that."""
        for name in ("sponge_worker_queue_depth", "sponge_worker_executions_running"):
            processes.eventually(lambda name=name: self.worker.metrics()[name], lambda count: count == 0)

    def faults(self) -> list[str]:
        """What it has logged that it should not have had to."""
        lines = self.worker.process.log.read_text().splitlines()
        return [line for line in lines if not line.startswith("{") or '"level": "info"' not in line]


@contextmanager
def running(directory: Path, **sections: dict[str, object]) -> Iterator[Target]:
    """Start one, and stop it."""
    directory.mkdir(parents=True, exist_ok=True)
    model = models.echo(directory / "m.onnx", TensorProto.FLOAT)
    with (
        processes.worker(directory, model, **sections) as worker,
        grpc.insecure_channel(worker.address) as channel,
    ):
        yield Target(worker, channel)
