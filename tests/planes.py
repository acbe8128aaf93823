"""A control plane as a process of its own, and a load of requests that tests can run beside it."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from core.access import OPEN, Access
from protos import control_pb2, control_pb2_grpc
from sponge.client import Client, InferenceError
from tests.processes import LOOPBACK, PATIENCE_S, Process, running, scrape, wait_serving, write_toml


@dataclass(frozen=True, slots=True)
class Control:
    """A control plane that listens."""

    process: Process
    address: str
    metrics_address: str
    access: Access = OPEN

    def fleet(self) -> control_pb2.Fleet:
        """What it believes now."""
        with self.access.channel(self.address) as channel:
            admin = control_pb2_grpc.AdminStub(channel)
            return admin.GetFleet(
                control_pb2.GetFleetRequest(), timeout=PATIENCE_S, metadata=self.access.metadata
            )

    def worker(self) -> control_pb2.WorkerStatus | None:
        """The only worker, None while none is attached."""
        workers = self.fleet().workers
        return workers[0] if workers else None

    def metrics(self) -> dict[str, float]:
        """Everything it tells Prometheus."""
        return scrape(self.metrics_address)


@contextmanager
def control(
    directory: Path,
    listen: str = f"{LOOPBACK}:0",
    *,
    serving: bool = True,
    access: Access = OPEN,
    **sections: Any,
) -> Iterator[Control]:
    """Run a control plane until the block ends; `sections` are those of control.toml.

    Waits until it serves, or with serving=False only until it listens. It is asked by `access`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        **sections,
        "server": {"listen": listen, "metrics_listen": f"{LOOPBACK}:0", **sections.get("server", {})},
        "actuator": {"kind": "threads", **sections.get("actuator", {})},
    }
    with running("controlplane", write_toml(directory / "control.toml", config)) as process:
        addresses = process.wait_for("listening")
        if serving:
            wait_serving(addresses["listen"], credentials=access.credentials)
        yield Control(process, addresses["listen"], addresses["metrics_listen"], access)


@dataclass
class Load:
    """Clients that ask one after the other, each at once after its last answer, until stopped.

    `outcomes` counts answers as "OK" and failures by status.
    """

    address: str
    model: str
    inputs: Mapping[str, np.ndarray]
    clients: int
    timeout_s: float = 5.0
    outcomes: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def failures(self) -> dict[str, int]:
        """Everything but answers."""
        return {status: count for status, count in self.outcomes.items() if status != "OK"}

    def _ask(self) -> None:
        with Client(self.address) as client:
            while not self._stop.is_set():
                try:
                    client.infer(self.inputs, model=self.model, timeout_s=self.timeout_s)
                except InferenceError as error:
                    self.outcomes[f"{error.code.name}: {error}"] += 1
                else:
                    self.outcomes["OK"] += 1
