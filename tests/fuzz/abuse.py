"""Clients that misbehave, each kind as often as it is told to.

Each of these leaves the worker as it was: AssertionError if it does not, else what there was to see.
"""

import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np

from protos import inference_pb2 as pb
from tests import spinning
from tests.fuzz.calls import INFER
from tests.fuzz.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    Encoder,
    frame,
    grpc_headers,
    grpc_message,
)
from tests.fuzz.target import Target
from tests.inference import infer_request, output
from tests.processes import eventually

_PATIENCE_S = 120.0
_OK = grpc.StatusCode.OK.value[0]
_DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
_REFUSALS = {
    grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]: ("the queue is full", "no answer in time"),
    _DEADLINE: ("the deadline passed while the request was queued",),
}
# What fits the window that a connection begins with.
_STREAMS = 400
_ROOT = Path(__file__).parents[2]


def crowd(target: Target, calls: int) -> str:
    """So many calls at the same time: all have begun before the first body comes. Needs a spinner."""
    before = target.headers()
    encoder = Encoder()
    body = grpc_message(infer_request(target.model, spinning.spins(1)).SerializeToString())
    header = encoder.block(grpc_headers(INFER))
    wanted = [range(1, 2 * min(_STREAMS, calls - at), 2) for at in range(0, calls, _STREAMS)]
    with ExitStack() as stack:
        connections = [stack.enter_context(_open(target)) for _ in wanted]
        for connection, streams in zip(connections, wanted, strict=True):
            connection.send(b"".join(frame(HEADERS, END_HEADERS, stream, header) for stream in streams))
        eventually(target.headers, lambda begun: begun == before + calls, _PATIENCE_S)
        for connection, streams in zip(connections, wanted, strict=True):
            connection.send(b"".join(frame(DATA, END_STREAM, stream, body) for stream in streams))
        for connection, streams in zip(connections, wanted, strict=True):
            assert not connection.wait(set(streams), _PATIENCE_S), "calls that never end"
            assert not connection.closed, "a connection was closed"
        ended = [
            connection.streams[stream]
            for connection, streams in zip(connections, wanted, strict=True)
            for stream in streams
        ]
    statuses = Counter(each.status for each in ended)
    assert statuses.keys() <= {_OK, *_REFUSALS}, statuses
    for each in ended:
        if each.status == _OK:
            response = pb.ModelInferResponse.FromString(each.data[5:])
            assert output(response).tolist() == spinning.spins(1).tolist(), "a wrong answer"
        else:
            assert each.message.startswith(_REFUSALS[each.status]), each
    _check(target)
    return f"{calls} calls at once: {statuses[_OK]} answered, {calls - statuses[_OK]} refused"


def slow_readers(target: Target, count: int) -> str:
    """Clients that take not a byte of their answers. Needs an echo."""
    before = target.worker.ended("on_time")
    encoder = Encoder()
    rows = np.ones((8, 1800), np.float32)
    data = grpc_message(infer_request(target.model, rows).SerializeToString())
    no_window = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(Connection(target.address))
            connection.send(PREFACE + no_window)
            connection.send(frame(HEADERS, END_HEADERS, 1, encoder.block(grpc_headers(INFER))))
            parts = [data[at : at + 16_384] for at in range(0, len(data), 16_384)]
            for number, part in enumerate(parts, 1):
                connection.send(frame(DATA, END_STREAM if number == len(parts) else 0, 1, part))
        eventually(lambda: target.worker.ended("on_time"), lambda done: done == before + count, _PATIENCE_S)
        target.check()
        held = target.rss_mib
    _check(target)
    return f"{count} slow readers: held {held:.0f} MiB while they did not read"


def half_open(target: Target, count: int) -> str:
    """Connections that say nothing, or begin what they do not end."""
    encoder = Encoder()
    body = grpc_message(infer_request(target.model, spinning.spins(1)).SerializeToString())
    opened = frame(HEADERS, END_HEADERS, 1, encoder.block(grpc_headers(INFER)))
    hurried = frame(HEADERS, END_HEADERS, 1, encoder.block(grpc_headers(INFER, ("grpc-timeout", "100m"))))
    before, expired = target.headers(), target.worker.ended("expired_in_upload")
    with ExitStack() as stack:
        for beginning in (b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS, 0, 0)):
            for _ in range(count):
                stack.enter_context(Connection(target.address)).send(beginning)
        for _ in range(count):
            stack.enter_context(_open(target)).send(opened)
            stack.enter_context(_open(target)).send(opened + frame(DATA, 0, 1, body[:-1]))
        late = [stack.enter_context(_open(target)) for _ in range(count)]
        for connection in late:
            connection.send(hurried + frame(DATA, 0, 1, body[:-1]))
        for connection in late:
            assert not connection.wait({1}, _PATIENCE_S), "a call outlives its deadline"
            assert connection.streams[1].status in (None, _DEADLINE), connection.streams[1]
        eventually(target.headers, lambda begun: begun == before + 3 * count)
        # The client hears of it from gRPC, before the handler does.
        eventually(lambda: target.worker.ended("expired_in_upload"), lambda ended: ended == expired + count)
        target.check()
        files = target.files
    _check(target)
    return f"{7 * count} half-open connections, {files} files open meanwhile"


def vanishing(target: Target, count: int) -> str:
    """Clients that are gone in the middle of an upload, while they wait, and while they are served. Needs a spinner."""
    encoder = Encoder()
    opened = frame(HEADERS, END_HEADERS, 1, encoder.block(grpc_headers(INFER)))
    per_second = spinning.spins_per_second(target.address)
    body = grpc_message(infer_request(target.model, spinning.spins(per_second / 4)).SerializeToString())
    before = target.headers()
    uploading = [_open(target) for _ in range(count)]
    waiting = [_open(target) for _ in range(count)]
    for connection in waiting:
        connection.send(opened + frame(DATA, END_STREAM, 1, body))
    for connection in uploading:
        connection.send(opened + frame(DATA, 0, 1, body[:20]))
    eventually(target.headers, lambda begun: begun == before + 2 * count)
    eventually(lambda: target.worker.metrics()["sponge_worker_executions_running"])
    for connection in (*uploading, *waiting):
        _reset(connection)
    _check(target)
    return f"{2 * count} clients reset their connections"


def killed(target: Target, count: int) -> str:
    """A process with so many calls under way. Needs a spinner."""
    per_second = spinning.spins_per_second(target.address)
    before = target.headers()
    command = [sys.executable, "-m", "tests.fuzz.waiting", target.address, str(per_second / 4), str(count)]
    process = subprocess.Popen(command, cwd=_ROOT)
    try:
        eventually(target.headers, lambda begun: begun == before + count)
        eventually(lambda: target.worker.metrics()["sponge_worker_executions_running"])
    finally:
        process.kill()
        process.wait()
    _check(target)
    return f"a process killed with {count} calls under way"


def repeated(target: Target, rounds: int, abuse: Callable[[Target, int], str], count: int) -> str:
    """The same over and over: what the allocator keeps of the first half of the rounds does for the second."""
    told, levels = "", []
    for _ in range(rounds):
        told = abuse(target, count)
        levels.append(target.rss_mib)
    before, after = max(levels[: rounds // 2]), max(levels[rounds // 2 :])
    listed = ", ".join(f"{level:.0f}" for level in levels)
    assert after < before * 1.1, f"memory grew: {listed} MiB"
    return f"{told}; {rounds} times, memory {listed} MiB"


def _open(target: Target) -> Connection:
    """A connection that takes whatever comes."""
    connection = Connection(target.address)
    connection.send(PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**30)))
    return connection


def _reset(connection: Connection) -> None:
    """As a machine does that has forgotten it."""
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.socket.close()


def _check(target: Target) -> None:
    target.settle()
    target.check()
    # Sockets of the client that behaves, and of whoever scrapes, come and go.
    eventually(lambda: target.files, lambda files: files < 40)
    assert not target.faults()
