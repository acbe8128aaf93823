"""Recordings made by hand."""

from controlplane.shape import Limits
from dataplane.request import Outcome
from evaluation.journal import Executed, Served
from evaluation.recording import Client, Held, Recording

LIMITS = Limits(min_millicores=500, max_millicores=2000, max_instances=2, max_threads=2, max_batch=4)
ONE_CORE = Held(at_s=0.0, cpu_millicores=1100, instances=1, threads=1, max_batch=1)


def executed(started_s, wall_s=0.1, cpu_s=None, rows=1, threads=1, slot_s=None, mixed=False):
    return Executed(
        started_s=started_s,
        slot_s=wall_s if slot_s is None else slot_s,
        rows=rows,
        threads=threads,
        wall_s=wall_s,
        cpu_s=wall_s if cpu_s is None else cpu_s,
        busy=1.0,
        mixed=mixed,
    )


def served(arrived_s, latency_s=0.1, budget_s=1.0, outcome=Outcome.ON_TIME, rows=1):
    return Served(
        header_s=arrived_s,
        arrived_s=arrived_s,
        deadline_s=arrived_s + budget_s,
        expires_s=arrived_s + budget_s + 2.0,
        rows=rows,
        outcome=outcome,
        finished_s=arrived_s + latency_s,
        started_s=arrived_s,
        batch_rows=1,
    )


def recording(requests, executions, held=(ONE_CORE,), seconds=10.0):
    return Recording(
        about={"machine": "by hand"},
        service="vision",
        seconds=seconds,
        host_millicores=2000,
        limits=LIMITS,
        request_cpu_s=0.001,
        host_busy_share=0.5,
        held=list(held),
        served=requests,
        executions=executions,
        client=Client(
            offered=len(requests), on_time=len(requests), late=0, refused=0, dead=0, failed=0, wrong=0,
            p50_ms=100.0, p95_ms=100.0, p99_ms=None,
        ),
        resizes=len(held) - 1,
    )  # fmt: skip
