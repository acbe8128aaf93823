"""A worker's journal: every request that was queued, and every execution, beside telemetry and metrics."""

import signal
import subprocess
import sys

import grpc
import pytest

from dataplane.request import Completion, ExecutionRecord, Outcome, Request
from evaluation import journal
from evaluation.journal import Executed, Journal, Served
from tests import models, processes
from tests.inference import infer_request, rows, stub


def request(sequence, arrived_at):
    return Request(
        sequence, 1, None, arrived_at, arrived_at, arrived_at + 1.0, arrived_at + 3.0, arrived_at + 1.0
    )


def test_requests_and_executions_are_told_apart_and_together():
    noted = Journal()
    for sequence, (header_at, queued_at) in enumerate([(1.0, 1.25), (1.1, 1.125), (1.2, 1.5)]):
        noted.arrived(request(sequence, header_at), queued_at)
    noted.completed(Completion(Outcome.REFUSED, 1, 1.2, 1.5))
    noted.executed(ExecutionRecord(2, 1, 0.2, 0.19, 1.5, mixed=False))
    for header_at in (1.0, 1.1):
        noted.completed(Completion(Outcome.ON_TIME, 1, header_at, 1.75, 1.5, 2))
    assert [(s.header_s, s.arrived_s, s.outcome, s.batch_rows) for s in noted.served] == [
        (1.2, 1.5, Outcome.REFUSED, 0),
        (1.0, 1.25, Outcome.ON_TIME, 2),
        (1.1, 1.125, Outcome.ON_TIME, 2),
    ]
    assert [s.latency_s for s in noted.served] == [0.0, 0.5, 0.625]
    assert noted.executions == [
        Executed(started_s=1.5, slot_s=0.25, rows=2, threads=1, wall_s=0.2, cpu_s=0.19, busy=1.5, mixed=False)
    ]


def test_what_never_was_in_the_queue_is_no_part_of_it():
    noted = Journal()
    noted.completed(Completion(Outcome.EXPIRED_IN_UPLOAD, 0, 1.0, 2.0))
    assert noted.served == []


def test_headers_of_the_same_moment_end_in_turn():
    noted = Journal()
    for sequence, queued_at in enumerate((1.5, 1.75)):
        noted.arrived(request(sequence, 1.0), queued_at)
    for finished_at in (2.0, 3.0):
        noted.completed(Completion(Outcome.LATE, 1, 1.0, finished_at))
    assert [(s.arrived_s, s.finished_s) for s in noted.served] == [(1.5, 2.0), (1.75, 3.0)]


def test_a_real_worker_leaves_its_journal_when_it_is_stopped(tmp_path):
    model = models.scale(tmp_path / "scale.onnx")
    port = processes.free_port()
    config = processes.write_toml(
        tmp_path / "worker.toml",
        {
            "model": {"path": model},
            "service": {"slo_ms": 10_000},
            "server": {"listen": f"127.0.0.1:{port}", "metrics_listen": ""},
        },
    )
    left = tmp_path / "journal.json"
    command = [sys.executable, "-m", "evaluation.journal", "--journal", left, "--config", config]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                answers = [
                    stub(channel).ModelInfer(infer_request("scale", rows(2)), wait_for_ready=True, timeout=60)
                    for _ in range(3)
                ]
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(processes.PATIENCE_S) == 0
        finally:
            worker.kill()
    pages = journal.read(left)
    assert len(pages.served) == len(pages.executions) == len(answers) == 3
    for served, executed, answer in zip(pages.served, pages.executions, answers, strict=True):
        assert isinstance(served, Served)
        assert (served.outcome, served.rows, executed.rows) == (Outcome.ON_TIME, 2, 2)
        # The worker tells its client the same.
        told_s = answer.parameters["service_us"].int64_param / 1e6
        assert executed.slot_s == pytest.approx(told_s, abs=1e-6)
        assert 0 < executed.wall_s <= executed.slot_s
