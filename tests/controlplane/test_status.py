"""What the planner is told of a worker."""

from controlplane import status
from controlplane.config import Config, ServicePolicy
from controlplane.governor import Governor
from controlplane.operation import Waiting
from controlplane.resize import Resize
from controlplane.state import Fleet, Host
from protos import control_pb2 as pb


def test_what_waits_is_told_with_the_budget_that_it_came_with():
    fleet = Fleet([Host(2000, 0)], 0.001)
    hello = pb.Hello(
        worker_id="w", service="s", model_digest="d", max_instances=2, max_threads=2, max_batch=4
    )
    worker = fleet.attach(hello, Resize(0, 2.0), Governor(1.0, 100), 0.0)
    waiting = [
        pb.Waiting(remaining_ms=-1, rows=1, waited_ms=900),
        pb.Waiting(remaining_ms=100, rows=2, waited_ms=400),
    ]
    fleet.record(worker, pb.Sample(window_s=0.2, waiting=waiting), 0.2)
    assert status.service_state(worker, ServicePolicy(), Config()).queue == [Waiting(0.1, 2, 0.5)]
