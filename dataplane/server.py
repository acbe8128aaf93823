"""The gRPC edge: the Open Inference Protocol, its errors, and the deadline of every request."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from importlib.metadata import version
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from core.handlers import body_of
from dataplane import modelconfig, refusal, tensors
from dataplane.config import Server
from dataplane.connections import Connections
from dataplane.deadline import CLIENT_EARLY_S
from dataplane.inference import Inference
from dataplane.metrics import Metrics
from dataplane.refusal import Refusal
from dataplane.repository import Repository
from dataplane.request import Outcome
from dataplane.served import Model, Served, State, UnknownModel
from dataplane.statistics import Statistics
from dataplane.streaming import Stream
from dataplane.tensors import InvalidRequest
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc

SERVICE = "inference.GRPCInferenceService"

# Triton's names of what else there is than the protocol's core.
_EXTENSIONS = ("statistics", "model_repository", "model_configuration")

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServer(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers the protocol's calls for the one model of a worker."""

    def __init__(
        self,
        inference: Inference,
        served: Served,
        repository: Repository,
        statistics: Statistics,
        metrics: Metrics,
        config: Server,
        clock: Callable[[], float],
    ) -> None:
        self._inference = inference
        self._served = served
        self._repository = repository
        self._statistics = statistics
        self._metrics = metrics
        self._allow_control = config.allow_repository_control
        self._max_stream_requests = config.max_stream_requests
        self._clock = clock
        self._connections = Connections()
        self._streams: set[Stream] = set()

    def drain(self) -> None:
        """Take no more requests; streams end when what they have read is answered."""
        self._served.state = State.DRAINING
        for stream in self._streams:
            stream.close()

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._served.state is State.SERVING)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            self._served.model.check(request.name, request.version)
        except UnknownModel:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._served.state is State.SERVING)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name="sponge", version=version("sponge-serving"), extensions=_EXTENSIONS
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        return tensors.metadata((await self._model(request.name, request.version, context)).signature)

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        model = await self._model(request.name, request.version, context)
        return pb.ModelConfigResponse(config=modelconfig.config(model))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        if not request.name and self._served.state is State.UNLOADED:
            return pb.ModelStatisticsResponse()
        name = request.name or self._served.model.signature.name
        model = await self._model(name, request.version, context)
        told = self._statistics.message(model.generation, model.signature, time.time() - self._clock())
        return pb.ModelStatisticsResponse(model_stats=[told])

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        name = self._served.model.signature.name
        index = pb.RepositoryIndexResponse()
        for entry in await self._repository.index():
            if entry.state == "READY" or not request.ready:
                index.models.add(name=name, version=entry.version, state=entry.state, reason=entry.reason)
        return index

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        await self._control(request, (), self._repository.load, context)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        # No model depends on this one.
        await self._control(request, ("unload_dependents",), self._repository.unload, context)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(  # type: ignore[override]  # see add_to
        self, messages: object, context: Context
    ) -> bytes:
        """Answer one request, beginning when its header has arrived."""
        received_at = self._clock()
        remaining_s = context.time_remaining()
        peer = context.peer()
        header = self._connections.header(peer, _sent_s(context), received_at)
        if header.uncertain:
            self._metrics.uncertain_deadline()
        self._inference.announce()
        try:
            body = await body_of(context)
        except asyncio.CancelledError:
            left_s = context.time_remaining()
            expired = left_s is not None and left_s <= CLIENT_EARLY_S
            self._inference.abandon(Outcome.EXPIRED_IN_UPLOAD if expired else Outcome.CANCELLED, received_at)
            raise
        finally:
            complete_at = self._clock()
            self._connections.complete(peer, header.upload, complete_at)
        if remaining_s is not None:
            remaining_s -= header.delay_s
        try:
            parsed = self._inference.decode(body, received_at)
            return await self._inference.answer(parsed, received_at, complete_at, remaining_s)
        except Refusal as refused:
            await self._abort(refused, context)

    async def ModelStreamInfer(  # type: ignore[override]  # gRPC takes this form as well
        self, messages: AsyncIterator[bytes], context: Context
    ) -> None:
        """Answer the requests of a stream until the client has no more, or the server drains."""
        stream = Stream(self._inference, context.write, self._max_stream_requests, self._clock)
        self._streams.add(stream)
        try:
            await stream.run(messages)
        finally:
            self._streams.discard(stream)
        if self._served.state is State.DRAINING:
            # Whatever is still on its way was not read.
            await context.abort(grpc.StatusCode.UNAVAILABLE, State.DRAINING.value)

    async def _control(
        self,
        request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest,
        known: Collection[str],
        change: Callable[[], Awaitable[None]],
        context: Context,
    ) -> None:
        """Change what is loaded, if this client may and means this model; ends the call if not."""
        try:
            if not self._allow_control:
                raise Refusal(
                    grpc.StatusCode.PERMISSION_DENIED,
                    "server.allow_repository_control: expected true to load and unload models, it is false",
                )
            self._served.model.check(request.model_name, "")
            if request.repository_name:
                raise InvalidRequest("repository_name: expected none, there is one repository")
            for name in request.parameters:
                if name not in known:
                    raise InvalidRequest(
                        f"parameters.{name[:100]}: expected none, models are as the repository has them"
                    )
            await change()
        except (InvalidRequest, UnknownModel) as error:
            await self._abort(refusal.of_mistake(error), context)
        except Refusal as refused:
            await self._abort(refused, context)

    async def _model(self, name: str, version: str, context: Context) -> Model:
        """The model that a client means; ends the call if there is no such, or none is loaded."""
        served = self._served
        try:
            served.model.check(name, version)
            if served.state is State.UNLOADED:
                raise Refusal(grpc.StatusCode.UNAVAILABLE, served.state.value)
        except UnknownModel as error:
            await self._abort(refusal.of_mistake(error), context)
        except Refusal as refused:
            await self._abort(refused, context)
        return served.model

    async def _abort(self, refused: Refusal, context: Context) -> NoReturn:
        await context.abort(refused.code, refused.text, refused.trailers)


def add_to(server: grpc.aio.Server, servicer: InferenceServer) -> None:
    """Register all calls of the service.

    ModelInfer is registered as a call with a request stream: on the wire that is the same as one without,
    and it begins when the header has arrived instead of when the body has. It decodes the body itself, as
    ModelStreamInfer does, so that one that cannot be decoded is counted. Both encode their answers.
    """
    handlers = {}
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        decode: Callable[[bytes], Message] | None = GetMessageClass(method.input_type).FromString
        encode: Callable[[Any], bytes] | None = GetMessageClass(method.output_type).SerializeToString
        kind = grpc.unary_unary_rpc_method_handler
        if method.name == "ModelInfer":
            kind, decode, encode = grpc.stream_unary_rpc_method_handler, None, None
        elif method.name == "ModelStreamInfer":
            kind, decode, encode = grpc.stream_stream_rpc_method_handler, None, None
        handlers[method.name] = kind(
            getattr(servicer, method.name),
            request_deserializer=decode,
            response_serializer=encode,
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


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
