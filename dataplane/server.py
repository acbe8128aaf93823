"""The gRPC edge: the Open Inference Protocol, its errors, and the deadline of every request."""

import asyncio
import enum
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.metadata import version
from itertools import count
from typing import NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from dataplane import deadline, tensors
from dataplane.connections import Connections
from dataplane.execution import EngineError
from dataplane.metrics import Metrics
from dataplane.request import Completion, Outcome, Request
from dataplane.tensors import InvalidRequest, ModelSignature
from dataplane.worker import Observer, Unanswered, Worker
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc

SERVICE = "inference.GRPCInferenceService"
# A refusal must not be retried by the client's channel: it would only add load.
_NO_RETRY = ("grpc-retry-pushback-ms", "-1")
# gRPC cancels the handler of a call that is over at its next turn.
_CANCELLATION_S = 0.010
# A client gives up by its own clock, which ran before ours by the way of the header and the rounding of the
# timeout, up to 10 ms.
_CLIENT_EARLY_S = 0.050
# Clients may state any deadline; in microseconds it has to fit 64 bits.
_LONG_S = 1e9


class UnknownModel(Exception):
    """A model name or version that is not the one served; the text is for the client."""


class State(enum.Enum):
    """Whether requests are taken."""

    LOADING = "the model is still loading"
    SERVING = "serving"
    DRAINING = "the server is draining"


Context = grpc.aio.ServicerContext[pb.ModelInferRequest, pb.ModelInferResponse]


class InferenceServer(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers the protocol's calls for the one model of a worker."""

    def __init__(
        self,
        worker: Worker,
        signature: ModelSignature,
        policy: deadline.Policy,
        max_batch: int,
        metrics: Metrics,
        observers: tuple[Observer, ...],
        clock: Callable[[], float],
    ) -> None:
        self._worker = worker
        self._signature = signature
        self._policy = policy
        self._max_batch = max_batch
        self._metrics = metrics
        self._observers = observers
        self._clock = clock
        self._connections = Connections()
        self._sequence = count()
        self.state = State.LOADING

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.state is State.SERVING)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        known = request.name == self._signature.name and request.version in ("", self._signature.version)
        return pb.ModelReadyResponse(ready=self.state is State.SERVING and known)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="sponge", version=version("sponge-serving"))

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        try:
            self._check_model(request.name, request.version)
        except UnknownModel as error:
            await context.abort(_code_of(error), str(error))
        return tensors.metadata(self._signature)

    async def ModelInfer(  # type: ignore[override]  # see add_to
        self, messages: AsyncIterator[bytes], context: Context
    ) -> pb.ModelInferResponse:
        """Answer one request, beginning when its header has arrived."""
        received_at = self._clock()
        remaining_s = context.time_remaining()
        header = self._connections.header(context.peer(), _sent_s(context), received_at)
        if header.uncertain:
            self._metrics.uncertain_deadline()
        for observer in self._observers:
            observer.announced()
        try:
            body = await anext(messages, None)
            if body is None:
                # The stream of a call that is over just ends; its cancellation follows.
                await asyncio.sleep(_CANCELLATION_S)
        except asyncio.CancelledError:
            left_s = context.time_remaining()
            expired = left_s is not None and left_s <= _CLIENT_EARLY_S
            self._observe(Outcome.EXPIRED_IN_UPLOAD if expired else Outcome.CANCELLED, received_at)
            raise
        finally:
            complete_at = self._clock()
            self._connections.complete(context.peer(), header.upload, complete_at)
        if self.state is not State.SERVING:
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.state.value)
        try:
            message = _message(body)
            self._check_model(message.model_name, message.model_version)
            decoded = tensors.decode(message, self._signature)
            if decoded.rows > self._max_batch:
                raise InvalidRequest(
                    f"inputs: expected at most {self._max_batch} rows (engine.max_batch), got {decoded.rows}"
                )
            stated, priority = _stated(message, remaining_s, header.delay_s)
        except (InvalidRequest, UnknownModel) as error:
            self._observe(Outcome.FAILED, received_at)
            await context.abort(_code_of(error), str(error))
        resolved = deadline.resolve(stated, self._policy, received_at)
        request = Request(
            sequence=next(self._sequence),
            rows=decoded.rows,
            shape_key=decoded.shape_key,
            arrived_at=received_at,
            queued_at=complete_at,
            deadline_at=resolved.deadline_at,
            expires_at=resolved.expires_at,
            rank_at=resolved.rank_at,
            priority=priority,
            inputs=decoded.inputs,
        )
        try:
            answer = await self._worker.infer(request)
        except Unanswered as unanswered:
            await _refuse(unanswered, request, self._clock(), context)
        except EngineError:
            await context.abort(grpc.StatusCode.INTERNAL, "the model failed on this request")
        response = tensors.encode(answer.outputs, decoded, self._signature, message.id)
        for name, value in _spent(request, complete_at, answer.completion).items():
            response.parameters[name].int64_param = value
        return response

    def _check_model(self, name: str, version: str) -> None:
        if name != self._signature.name:
            raise UnknownModel(f"model_name: expected {self._signature.name!r}, got {name[:100]!r}")
        if version not in ("", self._signature.version):
            raise UnknownModel(f"model_version: expected {self._signature.version!r}, got {version[:100]!r}")

    def _observe(self, outcome: Outcome, received_at: float) -> None:
        completion = Completion(outcome, 0, received_at, self._clock())
        for observer in self._observers:
            observer.completed(completion)


def add_to(server: grpc.aio.Server, servicer: InferenceServer) -> None:
    """Register all calls of the service.

    ModelInfer is registered as a call with a request stream: on the wire that is the same as one without,
    and it begins when the header has arrived instead of when the body has. It decodes the body itself, so
    that one that cannot be decoded is counted.
    """
    handlers = {}
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        infer = method.name == "ModelInfer"
        kind = grpc.stream_unary_rpc_method_handler if infer else grpc.unary_unary_rpc_method_handler
        handlers[method.name] = kind(
            getattr(servicer, method.name),
            request_deserializer=None if infer else GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _message(body: bytes | None) -> pb.ModelInferRequest:
    """Raises InvalidRequest."""
    if body is None:
        raise InvalidRequest("request: expected one message, got none")
    try:
        return pb.ModelInferRequest.FromString(body)
    except DecodeError as error:
        raise InvalidRequest("request: expected a ModelInferRequest") from error


def _code_of(error: InvalidRequest | UnknownModel) -> grpc.StatusCode:
    return grpc.StatusCode.NOT_FOUND if isinstance(error, UnknownModel) else grpc.StatusCode.INVALID_ARGUMENT


def _spent(request: Request, complete_at: float, completion: Completion) -> dict[str, int]:
    """Where an answered request's time went, as its response tells (see inference.proto).

    In whole microseconds: not every dialect of the protocol knows fractions.
    """
    assert completion.started_at is not None
    return {
        "upload_us": _us(complete_at - request.arrived_at),
        "queue_us": _us(completion.started_at - complete_at),
        "service_us": _us(completion.finished_at - completion.started_at),
        "remaining_us": _us(request.deadline_at - completion.finished_at),
        "batch_rows": completion.batch_rows,
    }


def _us(seconds: float) -> int:
    return round(1e6 * min(seconds, _LONG_S))


async def _refuse(unanswered: Unanswered, request: Request, now: float, context: Context) -> NoReturn:
    left_ms = (request.deadline_at - now) * 1000
    trailers = [_NO_RETRY, ("sponge-reason", unanswered.outcome.value)]
    if unanswered.predicted_s is not None:
        trailers.append(("sponge-predicted-ms", f"{unanswered.predicted_s * 1000:.1f}"))
    match unanswered.outcome:
        case Outcome.EXPIRED:
            code, text = grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed while the request was queued"
        case Outcome.QUEUE_FULL:
            code, text = grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full"
        case _:
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            text = f"no answer in time: {left_ms:.1f} ms left" + (
                f", predicted to end in {unanswered.predicted_s * 1000:.1f} ms"
                if unanswered.predicted_s is not None
                else ""
            )
    await context.abort(code, text, tuple(trailers))


def _sent_s(context: Context) -> float | None:
    """The metadata `sent-s`: the client's own clock, in seconds, when it began to send."""
    for key, value in context.invocation_metadata() or ():
        if key == "sent-s":
            try:
                sent_s = float(value)
            except ValueError:
                return None
            return sent_s if abs(sent_s) < 1e12 else None
    return None


def _stated(
    message: pb.ModelInferRequest, remaining_s: float | None, delay_s: float
) -> tuple[deadline.Stated, int]:
    """What the request says of its time, and its priority. Raises InvalidRequest."""
    parameters = message.parameters
    grace_ms = _number(parameters, "grace_ms") or 0.0
    if grace_ms < 0:
        raise InvalidRequest("parameters.grace_ms: expected a duration of at least 0")
    budgets_ms = []
    slo_ms = _number(parameters, "slo_ms")
    if slo_ms is not None:
        sent_unix_ms = _number(parameters, "sent_unix_ms")
        # A client whose clock is ahead of ours has not sent from the future.
        age_ms = 0.0 if sent_unix_ms is None else max(0.0, time.time() * 1000 - sent_unix_ms)
        budgets_ms.append(slo_ms - age_ms)
    timeout_us = _number(parameters, "timeout")
    # Triton reads 0 as no timeout.
    if timeout_us:
        budgets_ms.append(timeout_us / 1000)
    stated = deadline.Stated(
        remaining_s=None if remaining_s is None else remaining_s - delay_s,
        budget_s=min(budgets_ms) / 1000 if budgets_ms else None,
        grace_s=grace_ms / 1000,
    )
    return stated, int(_number(parameters, "priority") or 0)


def _number(parameters: Mapping[str, pb.InferParameter], name: str) -> float | None:
    """The numeric parameter `name`, None where it is absent. Raises InvalidRequest for any other kind."""
    if name not in parameters:
        return None
    parameter = parameters[name]
    match parameter.WhichOneof("parameter_choice"):
        case "int64_param":
            return parameter.int64_param
        case "uint64_param":
            return parameter.uint64_param
        case "double_param" if math.isfinite(parameter.double_param):
            return parameter.double_param
        case _:
            raise InvalidRequest(f"parameters.{name}: expected a finite number")
