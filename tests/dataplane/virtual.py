"""A worker in virtual time: a batcher, requests that arrive, and executions that take what they are said to."""

from collections.abc import Callable, Iterable
from math import inf

from dataplane.batcher import Batcher, Execution
from dataplane.request import Outcome, Request


def serve(
    batcher: Batcher,
    arrivals: Iterable[Request],
    duration: Callable[[Execution], float],
    until: float = inf,
) -> dict[Request, Outcome]:
    """How each request ended that did by `until`; `arrivals` in the order of `queued_at`."""
    coming = iter(arrivals)
    ended: dict[Request, Outcome] = {}
    ends: dict[Execution, float] = {}
    wake_at = inf
    arriving = next(coming, None)
    while (now := min([*ends.values(), wake_at, inf if arriving is None else arriving.queued_at])) < until:
        for execution in [execution for execution, end in ends.items() if end <= now]:
            del ends[execution]
            batcher.finish(execution, now)
            if not execution.mixed:
                batcher.times.observe(execution.rows, now - execution.started_at, execution.requests[0])
            for request in execution.requests:
                ended[request] = Outcome.ON_TIME if now <= request.deadline_at else Outcome.LATE
        while arriving is not None and arriving.queued_at <= now:
            if not batcher.add(arriving):
                ended[arriving] = Outcome.QUEUE_FULL
            arriving = next(coming, None)
        step = batcher.step(now)
        ended |= {drop.request: drop.outcome for drop in step.drop}
        ends |= {execution: now + duration(execution) for execution in step.start}
        wake_at = step.wake_at or inf
    return ended
