"""Requests for tests of what orders and batches them."""

from itertools import count

from dataplane.request import Request

_sequence = count()


def request(
    deadline_at,
    *,
    rows=1,
    shape="a",
    grace_s=0.0,
    priority=0,
    arrived_at=0.0,
    queued_at=None,
    rank_at=None,
    inputs=None,
    generation=0,
):
    """A request, without inputs unless they are given, later in sequence than any before."""
    return Request(
        sequence=next(_sequence),
        rows=rows,
        shape_key=shape,
        arrived_at=arrived_at,
        queued_at=arrived_at if queued_at is None else queued_at,
        deadline_at=deadline_at,
        expires_at=deadline_at + grace_s,
        rank_at=deadline_at if rank_at is None else rank_at,
        priority=priority,
        inputs=inputs,
        cost_key=shape,
        generation=generation,
    )
