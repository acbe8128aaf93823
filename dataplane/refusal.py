"""How a request ends that has no answer, as clients see it."""

import grpc

from dataplane.request import Outcome, Request
from dataplane.served import UnknownModel
from dataplane.tensors import InvalidRequest
from dataplane.worker import Unanswered

# A refusal must not be retried by the client's channel: it would only add load.
_NO_RETRY = ("grpc-retry-pushback-ms", "-1")


class Refusal(Exception):
    """The status of a call, or of one request of a stream; the text is for the client."""

    def __init__(self, code: grpc.StatusCode, text: str, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.trailers = trailers


def of_mistake(error: InvalidRequest | UnknownModel) -> Refusal:
    """For a request that cannot be executed as it is."""
    unknown = isinstance(error, UnknownModel)
    code = grpc.StatusCode.NOT_FOUND if unknown else grpc.StatusCode.INVALID_ARGUMENT
    return Refusal(code, str(error))


def of_unanswered(unanswered: Unanswered, request: Request, now: float) -> Refusal:
    """For a request that was refused, or expired."""
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
            text = f"no answer in time: {(request.deadline_at - now) * 1000:.1f} ms left" + (
                f", predicted to end in {unanswered.predicted_s * 1000:.1f} ms"
                if unanswered.predicted_s is not None
                else ""
            )
    return Refusal(code, text, tuple(trailers))
