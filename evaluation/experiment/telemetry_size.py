"""What telemetry weighs on the wire: samples up, directives down."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controlplane import status
from controlplane.allocation import Allocation, Version
from controlplane.governor import Governor
from controlplane.resize import Resize, SendDirective
from controlplane.state import Fleet, Host
from evaluation.experiment.reporter import Reporter
from protos import control_pb2

INTERVAL_S = 0.2  # between samples, as workers have it by default
FRAMING_BYTES = 5 + 9  # of a message: gRPC's length prefix and HTTP/2's frame header
_WINDOWS = 20  # of which a mean is taken


@dataclass(frozen=True, slots=True)
class Size:
    """Of a sample, at a request rate and with so many requests waiting; bytes on the wire."""

    rate: float
    waiting: int
    sample_bytes: float

    @property
    def bytes_per_s(self) -> float:
        """Of one worker without distress and resizes, which send a sample more each."""
        return self.sample_bytes / INTERVAL_S


def samples(rates: Sequence[float], waiting: Sequence[int]) -> Iterator[Size]:
    """Give the mean size of a sample for every rate (requests per second) with every queue length."""
    for rate in rates:
        for length in waiting:
            now = 0.0
            reporter = Reporter("vision", lambda: now, rate=rate, waiting=length)  # noqa: B023 - called in here
            total = 0
            for _ in range(_WINDOWS):
                now += INTERVAL_S
                total += _on_wire(control_pb2.Report(sample=reporter.sample(distress=False)))
            yield Size(rate, length, total / _WINDOWS)


def directive(max_batch: int) -> int:
    """Bytes of a directive with predictions for up to `max_batch` rows."""
    reporter = Reporter("vision", lambda: 0.0, rate=0.0)
    worker = Fleet([Host(16_000, 1 << 34)], 0.001).attach(reporter.hello(), Resize(), Governor(4.0, 100), 0.0)
    for rows in (1, max_batch):
        worker.latency.record(rows, 1, 0.02 * rows, 1.0, 0.0)
    action = SendDirective(Version(1, 100), Allocation(4100, 4, 1, max_batch))
    return _on_wire(status.directive(worker, action, 0.02, pace=False))


def hello() -> int:
    """Bytes of the first message of a stream, for a worker in a container."""
    reporter = Reporter("vision", lambda: 0.0, rate=0.0, container_id=12 * "0")
    return _on_wire(control_pb2.Report(hello=reporter.hello()))


def _on_wire(message: control_pb2.Report | control_pb2.Directive) -> int:
    return message.ByteSize() + FRAMING_BYTES
