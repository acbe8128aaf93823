"""One request to its answer, whichever call brought it."""

from collections.abc import Callable
from itertools import count

import grpc

from dataplane import deadline, parameters, refusal
from dataplane.execution import EngineError
from dataplane.message import Parsed, parse
from dataplane.refusal import Refusal
from dataplane.request import Completion, Outcome, Request
from dataplane.served import Served, State, UnknownModel
from dataplane.statistics import Statistics
from dataplane.tensors import InvalidRequest
from dataplane.worker import Observer, Unanswered, Worker


class Inference:
    """Has requests executed as `served` says at their time."""

    def __init__(
        self,
        worker: Worker,
        served: Served,
        policy: deadline.Policy,
        max_typed_bytes: int,
        statistics: Statistics,
        observers: tuple[Observer, ...],
        clock: Callable[[], float],
    ) -> None:
        self._worker = worker
        self._served = served
        self._policy = policy
        self._max_typed_bytes = max_typed_bytes
        self._statistics = statistics
        self._observers = observers
        self._clock = clock
        self._sequence = count()

    def announce(self) -> None:
        """A request is on its way."""
        for observer in self._observers:
            observer.announced()

    def abandon(self, outcome: Outcome, received_at: float) -> None:
        """A request that was announced, header at `received_at`, ends before it could be queued."""
        completion = Completion(
            outcome, 0, received_at, self._clock(), generation=self._served.model.generation
        )
        for observer in self._observers:
            observer.completed(completion)

    def decode(self, body: bytes | None, received_at: float) -> Parsed:
        """What is in a body, None for a call without one. Raises Refusal."""
        try:
            if body is None:
                raise InvalidRequest("request: expected one message, got none")
            return parse(body, self._max_typed_bytes)
        except InvalidRequest as error:
            self.abandon(Outcome.FAILED, received_at)
            raise refusal.of_mistake(error) from None

    async def answer(
        self,
        parsed: Parsed,
        received_at: float,
        complete_at: float,
        remaining_s: float | None,
    ) -> bytes:
        """Execute one request; returns its ModelInferResponse, serialised.

        It began to arrive at `received_at`, `remaining_s` before gRPC's deadline if it has one, and was there
        at `complete_at`. Raises Refusal. Cancelling takes it out of the queue.
        """
        served = self._served
        if served.state is not State.SERVING:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, served.state.value)
        model = served.model
        message = parsed.message
        try:
            model.check(message.model_name, message.model_version)
            decoded = model.codec.decode(parsed)
            stated, priority = parameters.stated(message, remaining_s)
        except (InvalidRequest, UnknownModel) as error:
            self.abandon(Outcome.FAILED, received_at)
            raise refusal.of_mistake(error) from None
        resolved = deadline.resolve(stated, self._policy, received_at)
        sequence = next(self._sequence)
        queued_at = self._clock()
        request = Request(
            sequence=sequence,
            rows=decoded.rows,
            # What shares a batch is of one generation, and alone where the model knows no batches.
            shape_key=(model.generation, decoded.shape_key if model.signature.batched else sequence),
            arrived_at=received_at,
            queued_at=queued_at,
            deadline_at=resolved.deadline_at,
            expires_at=resolved.expires_at,
            rank_at=resolved.rank_at,
            priority=priority,
            inputs=decoded.inputs,
            generation=model.generation,
            cost_key=decoded.shape_key,
        )
        try:
            answer = await self._worker.infer(request)
        except Unanswered as unanswered:
            raise refusal.of_unanswered(unanswered, request, self._clock()) from None
        except EngineError:
            raise Refusal(grpc.StatusCode.INTERNAL, "the model failed on this request") from None
        encoding_at = self._clock()
        spent = parameters.spent(request, complete_at, answer.completion)
        response = model.codec.encode(answer.outputs, decoded, message.id, spent)
        self._statistics.converted(
            answer.completion, input_s=queued_at - complete_at, output_s=self._clock() - encoding_at
        )
        return response
