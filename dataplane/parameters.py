"""Parameters of requests and answers, as inference.proto lists them."""

import math
import time
from collections.abc import Mapping

from dataplane.deadline import Stated
from dataplane.request import Completion, Request
from dataplane.tensors import InvalidRequest
from protos import inference_pb2 as pb

# Clients may state any duration, and some state the largest number there is: those beyond 30 years are all one.
_LONG_S = 1e9


def stated(message: pb.ModelInferRequest, remaining_s: float | None) -> tuple[Stated, int]:
    """What a request says of its time, and its priority; `remaining_s` as in Stated. Raises InvalidRequest."""
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
    time_stated = Stated(
        remaining_s=remaining_s,
        budget_s=_seconds(min(budgets_ms)) if budgets_ms else None,
        grace_s=_seconds(grace_ms),
    )
    return time_stated, int(_number(parameters, "priority") or 0)


def spent(request: Request, complete_at: float, completion: Completion) -> dict[str, int]:
    """Where an answered request's time went.

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


def _seconds(ms: float) -> float:
    return max(-_LONG_S, min(ms / 1000, _LONG_S))


def _us(seconds: float) -> int:
    return round(1e6 * min(seconds, _LONG_S))


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
