"""Planes as processes of their own: configured, started on free ports, waited for, stopped.

What a process logs stays readable in memory of the test that started it: its standard error is a file.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from core.cgroup import Cgroup

# How long anything may take on the slowest machine; only a failing test ever waits for so long.
PATIENCE_S = 60.0

LOOPBACK = "127.0.0.1"

T = TypeVar("T")


def eventually(read: Callable[[], T], holds: Callable[[T], bool] = bool, patience_s: float = PATIENCE_S) -> T:
    """Read until what is read holds, and return it; AssertionError with the last reading otherwise."""
    give_up_at = time.monotonic() + patience_s
    while True:
        value = read()
        if holds(value):
            return value
        assert time.monotonic() < give_up_at, f"still {value!r} after {patience_s} s"
        time.sleep(0.01)


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def write_toml(path: Path, sections: Mapping[str, Any]) -> Path:
    """Write a configuration of values, sections and tables within sections; None stands for a key left out."""
    values = {key: value for key, value in sections.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in sections.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    for name, table in tables.items():
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(str(value) if isinstance(value, Path) else value)


@dataclass(slots=True)
class Process:
    """A running `python -m <module>`, its log in a file."""

    popen: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(
        cls,
        module: str,
        *arguments: str | Path,
        log: Path,
        environ: Mapping[str, str] = {},
        group: Cgroup | None = None,
    ) -> Self:
        """Start the module with this interpreter, in a control group if one is given."""
        # The shell waits for a line, and becomes the process only when it is where it belongs.
        command = ["sh", "-c", 'read -r go && exec "$@"', "sh", sys.executable, "-m", module, *arguments]
        with log.open("wb") as stderr:
            popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=stderr, env={**os.environ, **environ}
            )
        if group is not None:
            group.move(popen.pid)
        assert popen.stdin is not None
        popen.stdin.write(b"go\n")
        popen.stdin.close()
        return cls(popen, log)

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """What it has logged so far: all lines, or those of one event."""
        lines = self.log.read_text().splitlines()
        logged = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [line for line in logged if event in (None, line["event"])]

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first log line of `event`, as soon as there is one."""

        def read() -> list[dict[str, Any]]:
            events = self.events(event)
            assert events or self.popen.poll() is None, f"exited: {self.log.read_text()}"
            return events

        return eventually(read)[0]

    def terminate(self) -> None:
        """Ask it to stop, as a container engine does."""
        self.popen.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self.popen.wait(PATIENCE_S)

    def stop(self) -> int:
        """Ask it to stop and wait until it has; kill it if it does not."""
        if self.popen.poll() is None:
            self.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise


@contextmanager
def running(
    module: str, config: Path, environ: Mapping[str, str] = {}, group: Cgroup | None = None
) -> Iterator[Process]:
    """Run `python -m <module> --config <config>` until the block ends."""
    log = config.with_suffix(".log")
    process = Process.start(module, "--config", config, log=log, environ=environ, group=group)
    try:
        yield process
    finally:
        process.stop()


@dataclass(frozen=True, slots=True)
class Worker:
    """A data plane that listens."""

    process: Process
    address: str
    metrics_address: str

    def metrics(self) -> dict[str, float]:
        """Everything it tells Prometheus, by name with labels as in the exposition format."""
        return scrape(self.metrics_address)

    def ended(self, outcome: str) -> int:
        """How many requests have ended like this."""
        return int(self.metrics()[f'sponge_worker_requests_total{{outcome="{outcome}"}}'])

    def executions(self) -> int:
        """How many batches have run since it serves; warming up is not counted."""
        return int(self.metrics()["sponge_worker_service_seconds_count"])


@contextmanager
def worker(
    directory: Path,
    model: Path,
    *,
    serving: bool = True,
    group: Cgroup | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    **sections: Any,
) -> Iterator[Worker]:
    """Run a data plane for `model` on free ports until the block ends.

    `sections` are those of worker.toml; a service without an SLO promises ten seconds. Waits until it serves,
    or with serving=False only until it listens. One whose port speaks TLS is asked with `credentials`.
    """
    config = {
        **sections,
        "model": {"path": model, **sections.get("model", {})},
        "service": {"slo_ms": 10_000, **sections.get("service", {})},
        "server": {
            "listen": f"{LOOPBACK}:0",
            "metrics_listen": f"{LOOPBACK}:0",
            **sections.get("server", {}),
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    with running("dataplane", write_toml(directory / "worker.toml", config), group=group) as process:
        addresses = process.wait_for("listening")
        started = Worker(process, addresses["listen"], addresses["metrics_listen"])
        if serving:
            wait_serving(started.address, credentials=credentials)
        yield started


def connect(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """A channel, encrypted with `credentials`."""
    return grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)


def wait_serving(address: str, service: str = "", credentials: grpc.ChannelCredentials | None = None) -> None:
    """Watch grpc.health.v1 until it says SERVING."""
    with connect(address, credentials) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S, wait_for_ready=True
        )
        for response in watch:
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                watch.cancel()
                return


def scrape(address: str) -> dict[str, float]:
    """What http://<address>/metrics says, by name with labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as response:
        lines = response.read().decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in samples}
