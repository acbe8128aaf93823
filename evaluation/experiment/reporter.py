"""A worker that only reports: what the wire and the control plane see of one, without a model to run."""

import math
from collections.abc import Callable

import numpy as np

from dataplane.agent import shape_of
from dataplane.batcher import Batcher, Shape
from dataplane.request import Completion, ExecutionRecord, Outcome, Request
from dataplane.servicetime import ServiceTime, ServiceTimes
from dataplane.telemetry import Resources, Telemetry, version
from protos import control_pb2

_MAX_SLOTS, _MAX_BATCH = 8, 8  # as workers have by default
_SPREAD = 0.1  # standard deviation of the logarithm of a service time
_OVERHEAD_S = 0.001  # CPU of a request beside its execution


class Reporter:
    """Real telemetry of made-up requests, one row each; the Source of an Uplink.

    `rate` (requests per second) and `waiting` (requests) may be changed at any time, and the next sample says so.
    What waits has `slack_s` at most, evenly spread; an execution takes `work_s` on one thread.
    """

    def __init__(
        self,
        service: str,
        clock: Callable[[], float],
        *,
        rate: float,
        waiting: int = 0,
        work_s: float = 0.02,
        slack_s: float = 1.0,
        start_millicores: int = 1100,
        container_id: str = "",
        cgroup_path: str = "",
        seed: int = 0,
    ) -> None:
        self.rate = rate
        self.waiting = waiting
        self.on_acknowledged: Callable[[], None] = lambda: None
        self._service = service
        self._clock = clock
        self._work_s = work_s
        self._slack_s = slack_s
        self._container_id = container_id
        self._cgroup_path = cgroup_path
        self._random = np.random.default_rng(seed)
        self._shape = Shape(1, 1, 1)
        self._millicores = start_millicores
        self._cpu_s = 0.0
        self._owed = 0.0  # of an arrival: windows are no whole number of those
        self._sampled_at = clock()
        self._telemetry = Telemetry(self._sampled_at, self._resources())

    def hello(self) -> control_pb2.Hello:
        """Who this is; samples begin here."""
        self._sampled_at = self._clock()
        self._telemetry.restart(self._sampled_at, self._resources())
        return control_pb2.Hello(
            worker_id=f"{self._service}-{self._random.integers(1 << 32):08x}",
            service=self._service,
            container_id=self._container_id,
            cgroup_path=self._cgroup_path,
            model_digest=f"{self._service:0>64}",
            model_name=self._service,
            max_instances=_MAX_SLOTS,
            max_threads=_MAX_SLOTS,
            max_batch=_MAX_BATCH,
            slo_ms=1000 * self._slack_s,
            applied=version(self._shape.version),
            allocation=self._allocation(),
        )

    def sample(self, *, distress: bool) -> control_pb2.Sample:
        """Give the window since the last sample: all that arrived in it was served on time."""
        now = self._clock()
        self._owed += self.rate * (now - self._sampled_at)
        self._sampled_at = now
        arrived = math.floor(self._owed)
        self._owed -= arrived
        for number in range(arrived):
            self._serve(number, now)
        return self._telemetry.sample(
            self._batcher(now), self._resources(), self._allocation(), now, distress=distress
        )

    async def obey(self, directive: control_pb2.Directive) -> None:
        """Nothing runs under anything older: acknowledge at once."""
        self._shape = shape_of(directive)
        self._millicores = directive.allocation.cpu_millicores
        self.on_acknowledged()

    def _serve(self, number: int, now: float) -> None:
        wall_s = self._work_s * float(self._random.lognormal(0.0, _SPREAD))
        budget_s = self._slack_s * float(self._random.uniform(0.3, 1.0))
        self._cpu_s += wall_s + _OVERHEAD_S
        self._telemetry.announced()
        self._telemetry.arrived(_request(number, now - wall_s, budget_s), now - wall_s)
        self._telemetry.executed(ExecutionRecord(1, 1, wall_s, wall_s, 1.0, mixed=False))
        self._telemetry.completed(Completion(Outcome.ON_TIME, 1, now - wall_s, now, now - wall_s, 1))

    def _batcher(self, now: float) -> Batcher:
        """A worker's queue with `waiting` requests behind executions that have half of their time behind them."""
        work = ServiceTime(1, self._work_s, self._work_s, self._work_s)
        batcher = Batcher(self._shape, ServiceTimes([work]), max_queue=1 << 20)
        if self.waiting:
            for number in range(self._shape.instances):
                batcher.add(_request(number, now, self._slack_s))
            batcher.step(now - self._work_s / 2)
        for number in range(self.waiting):
            batcher.add(_request(number, now, self._slack_s * (number + 1) / self.waiting))
        return batcher

    def _resources(self) -> Resources:
        return Resources(cpu_s=self._cpu_s, quota_millicores=self._millicores, memory_bytes=300 << 20)

    def _allocation(self) -> control_pb2.Allocation:
        shape = self._shape
        return control_pb2.Allocation(
            cpu_millicores=self._millicores,
            instances=shape.instances,
            threads=shape.threads,
            max_batch=shape.max_batch,
        )


def _request(number: int, arrived_at: float, budget_s: float) -> Request:
    deadline_at = arrived_at + budget_s
    return Request(number, 1, (), arrived_at, arrived_at, deadline_at, deadline_at, deadline_at)
