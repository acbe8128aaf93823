"""A control plane that listens to workers and tells them what the test says."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from protos import control_pb2, control_pb2_grpc
from tests.processes import LOOPBACK


class ControlPlane(control_pb2_grpc.ControlPlaneServicer):
    """Listens to workers and tells them what the test says."""

    def __init__(self):
        self.hellos = []
        self.samples = []
        self._directives = queue.Queue()

    def Attach(self, reports, context):
        """One stream; what the test says goes to the newest."""
        # Before the first report is seen: from then on the test may speak.
        directives = self._directives = queue.Queue()
        context.add_callback(lambda: directives.put(None))
        threading.Thread(target=self._listen, args=(reports,)).start()
        yield from iter(directives.get, None)

    def _listen(self, reports):
        try:
            for report in reports:
                if report.WhichOneof("kind") == "hello":
                    self.hellos.append(report.hello)
                else:
                    self.samples.append(report.sample)
        except grpc.RpcError:
            pass

    def direct(self, epoch, *, term=1, pace=False, mean_ms=(), low_ms=0.0, high_ms=0.0, **allocation):
        """Send a directive; what is left out is one core's worth."""
        allocation = {"cpu_millicores": 1000, "instances": 1, "threads": 1, "max_batch": 1, **allocation}
        predictions = [
            {"rows": row, "mean_ms": mean, "low_ms": low_ms, "high_ms": high_ms}
            for row, mean in enumerate(mean_ms, start=1)
        ]
        self._directives.put(
            control_pb2.Directive(
                version={"term": term, "epoch": epoch},
                allocation=allocation,
                predictions=predictions,
                pace=pace,
            )
        )

    def acknowledged(self):
        """The newest version acknowledged."""
        return self.samples[-1].acknowledged.epoch if self.samples else 0

    def total(self, read):
        """Sum over all samples so far."""
        return sum(read(sample) for sample in list(self.samples))


@contextmanager
def control_plane(port, credentials=None):
    """A control plane that listens on `port`, by TLS with `credentials`, until the block ends."""
    servicer = ControlPlane()
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        control_pb2_grpc.add_ControlPlaneServicer_to_server(servicer, server)
        if credentials:
            server.add_secure_port(f"{LOOPBACK}:{port}", credentials)
        else:
            server.add_insecure_port(f"{LOOPBACK}:{port}")
        server.start()
        try:
            yield servicer
        finally:
            server.stop(None).wait()
