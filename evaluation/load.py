"""Open-loop load: requests sent by schedule, timed from the schedule, answers compared with a direct run."""

import asyncio
import itertools
import json
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from evaluation import direct
from evaluation.bandwidth import BandwidthTrace
from evaluation.rows import Outcome, Row, judge
from evaluation.workload import Arrival
from protos import inference_pb2

Array = npt.NDArray[Any]

_PAUSE_S = 0.02
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # else all channels of the process share one connection
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),
)
# Who checks health sends to no worker that is loading; with this policy the client does it by itself.
_HEALTH = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
_PATIENT = (*_OPTIONS, ("grpc.service_config", json.dumps(_HEALTH)))
_DATATYPES = {"uint8": "UINT8", "int32": "INT32", "int64": "INT64", "float32": "FP32"}


@dataclass(frozen=True, slots=True)
class Payload:
    """A request, serialised once and sent many times, and the first output of a direct run of its model."""

    request: bytes
    expected: Array


@dataclass(frozen=True, slots=True)
class Service:
    """Where a service's requests go, what they promise, and what counts as the right answer."""

    name: str
    address: tuple[str, int]  # of its Links, or of the worker itself
    slo_ms: float
    payloads: Sequence[Payload]
    agrees: Callable[[Array, Array], bool]  # (expected, answer), of the same shape
    grace_ms: float = 2000.0  # as in the payloads' parameter: how long a late answer is waited for
    minimum_service_ms: float = 0.0  # with less than this on arrival a request is dead
    patient: bool = False  # what finds no worker that is ready waits for one, as gRPC can


@dataclass(frozen=True, slots=True)
class Load:
    """A finished run: a row for every arrival, in their order, and what generating it cost."""

    rows: tuple[Row, ...]
    wall_s: float
    cpu_s: float  # of this whole process; with Links in it, theirs too


def payloads(model: Path, name: str, inputs: Iterable[Array], *, grace_ms: int = 2000) -> tuple[Payload, ...]:
    """Make a request for model `name` of each input [N, …], with the answer of a direct run of the file."""
    session = direct.session(model)
    tensor = session.get_inputs()[0].name
    return tuple(
        Payload(_request(name, tensor, rows, grace_ms), direct.run(session, rows)) for rows in inputs
    )


def _request(model: str, tensor: str, rows: Array, grace_ms: int) -> bytes:
    request = inference_pb2.ModelInferRequest(model_name=model, raw_input_contents=[rows.tobytes()])
    request.parameters["grace_ms"].int64_param = grace_ms
    request.inputs.add(name=tensor, datatype=_DATATYPES[rows.dtype.name], shape=rows.shape)
    return request.SerializeToString()


async def run(
    arrivals: Sequence[Arrival],
    services: Mapping[str, Service],
    *,
    t0: float,
    trace: BandwidthTrace | None = None,
    progress: Callable[[Row], None] | None = None,
    max_in_flight: int = 200,
) -> Load:
    """Offer every arrival at t0 + its time, over a connection of its own, and wait for what becomes of it.

    `t0` is on time.monotonic's scale, and the trace time 0 of the links; `trace` is theirs, and None means
    that the network takes no time. Arrivals that find `max_in_flight` others open are not sent, and fail: a
    bound on sockets, never on the rate. `arrived_s` and `started_s` of a row are reckoned backwards from the
    answer by what it says of queueing and execution: no clocks are compared, and both are late by the
    answer's way home, which includes that of the worker's event loop.

    The run ends by itself when the last deadline and its grace have passed; when cancelled it closes every
    connection first. `progress` is called with each row as it ends.
    """
    rows: dict[int, Row] = {}
    open_now = 0

    async def offer(index: int, arrival: Arrival) -> None:
        nonlocal open_now
        service = services[arrival.service]
        if open_now >= max_in_flight:
            ended = _End(status="UNSENT", detail=f"{max_in_flight} requests were open already")
            row = _row(arrival, service, trace, time.monotonic() - t0, t0, ended)
        else:
            open_now += 1
            try:
                row = await _send(arrival, service, trace, t0)
            finally:
                open_now -= 1
        rows[index] = row
        if progress is not None:
            progress(row)

    cpu_s, wall_s = _cpu_s(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for index, arrival in enumerate(arrivals):
            delay_s = t0 + arrival.at_s - time.monotonic()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            group.create_task(offer(index, arrival))
    ordered = tuple(rows[index] for index in range(len(arrivals)))
    return Load(ordered, wall_s=time.monotonic() - wall_s, cpu_s=_cpu_s() - cpu_s)


@dataclass(frozen=True, slots=True)
class _End:
    """How one call ended; of an answer, what its worker says that queue and execution took."""

    answer: Array | None = None
    queue_s: float | None = None
    service_s: float | None = None
    status: str = "OK"
    detail: str = ""


async def _send(arrival: Arrival, service: Service, trace: BandwidthTrace | None, t0: float) -> Row:
    payload = service.payloads[arrival.payload]
    sent = time.monotonic()
    # Absolute, so that a generator that is late does not lengthen the deadline.
    timeout_s = t0 + arrival.at_s + (service.slo_ms + service.grace_ms) / 1000 - sent
    host, port = service.address
    options = _PATIENT if service.patient else _OPTIONS
    async with grpc.aio.insecure_channel(f"ipv4:{host}:{port}", options) as channel:
        infer: grpc.aio.UnaryUnaryMultiCallable[bytes, inference_pb2.ModelInferResponse]
        infer = channel.unary_unary(
            _METHOD, response_deserializer=inference_pb2.ModelInferResponse.FromString
        )
        try:
            response = await infer(
                payload.request,
                timeout=timeout_s,
                metadata=(("sent-s", repr(sent)),),
                wait_for_ready=service.patient,
            )
        except grpc.aio.AioRpcError as error:
            ended = _End(status=error.code().name, detail=error.details() or "")
        else:
            ended = _End(
                answer=_answer(response, payload.expected),
                queue_s=_seconds(response, "queue_us"),
                service_s=_seconds(response, "service_us"),
            )
        return _row(arrival, service, trace, sent - t0, t0, ended)


def _answer(response: inference_pb2.ModelInferResponse, expected: Array) -> Array:
    """Give the first output as an array like `expected`, or an empty one if it is not of that size."""
    raw = response.raw_output_contents[0] if response.raw_output_contents else b""
    if len(raw) != expected.nbytes:
        return np.empty(0, expected.dtype)
    return np.frombuffer(raw, expected.dtype).reshape(expected.shape)


def _seconds(response: inference_pb2.ModelInferResponse, name: str) -> float | None:
    """Give a duration that the worker tells of; other servers of the protocol do not."""
    return response.parameters[name].int64_param / 1e6 if name in response.parameters else None


def _row(
    arrival: Arrival, service: Service, trace: BandwidthTrace | None, sent_s: float, t0: float, ended: _End
) -> Row:
    finished_s = time.monotonic() - t0
    payload = service.payloads[arrival.payload]
    deadline_s = arrival.at_s + service.slo_ms / 1000
    # From when it was sent: a generator that is late is no fault of the network's.
    network_s = trace.finish(sent_s, len(payload.request)) - sent_s if trace is not None else 0.0
    started_s = None if ended.service_s is None else finished_s - ended.service_s
    arrived_s = None if started_s is None or ended.queue_s is None else started_s - ended.queue_s
    row = Row(
        service=service.name,
        scheduled_s=arrival.at_s,
        sent_s=sent_s,
        finished_s=finished_s,
        deadline_s=deadline_s,
        slo_ms=service.slo_ms,
        size_bytes=len(payload.request),
        outcome=_outcome(ended, service, payload, on_time=finished_s <= deadline_s),
        budget_on_arrival_ms=service.slo_ms - 1000 * network_s,
        answered=ended.answer is not None,
        status=ended.status,
        detail=ended.detail,
        arrived_s=arrived_s,
        started_s=started_s,
    )
    return judge(row, service.minimum_service_ms)


def _outcome(ended: _End, service: Service, payload: Payload, *, on_time: bool) -> Outcome:
    match ended.status:
        case "OK":
            answer = ended.answer
            if answer is None or answer.size == 0 or not service.agrees(payload.expected, answer):
                return Outcome.WRONG
            return Outcome.ON_TIME if on_time else Outcome.LATE
        case "DEADLINE_EXCEEDED":
            return Outcome.LATE
        case "RESOURCE_EXHAUSTED":
            return Outcome.REFUSED
        case _:
            return Outcome.FAILED


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(model: Path, inputs: Sequence[Array], seconds: float) -> float:
    """Give the mean CPU seconds of one row, running the inputs [N, …] in turn on one thread for `seconds`.

    With a pause before each, as between requests: caches and clocks that have cooled meanwhile cost a small
    model a third of its time. Every input runs once before, unmeasured, and once at least measured.
    """
    session = direct.session(model)
    for rows in inputs:
        direct.run(session, rows)
    until, cpu_s, count = time.monotonic() + seconds, 0.0, 0
    for index, rows in enumerate(itertools.cycle(inputs)):
        if index >= len(inputs) and time.monotonic() >= until:
            break
        time.sleep(_PAUSE_S)
        began = time.thread_time()
        direct.run(session, rows)
        cpu_s += time.thread_time() - began
        count += len(rows)
    return cpu_s / count
