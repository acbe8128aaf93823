"""One server under one load for a while: closed loop, open loop, or the bare loop."""

import asyncio
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.process import StartError
from evaluation.serving import client
from evaluation.serving.client import Client, Unanswered
from evaluation.serving.running import Server
from evaluation.serving.sample import Closed, Load, Loop, Open, Sample, arrivals
from evaluation.serving.subjects import Array, Payload, Subject

# How long an answer is waited for where nobody has stated a deadline.
PATIENCE_S = 30.0
# How long after its deadline where giving up costs the connection.
_GRACE_S = 2.0
_RETRY_S = 0.02
START_S = 90.0


@dataclass(frozen=True, slots=True)
class _End:
    """How one request ended; times on the monotonic clock."""

    due_s: float
    sent_s: float
    ended_s: float
    payload: Payload
    answer: bytes | None
    deadline_s: float = math.inf


@dataclass(frozen=True, slots=True)
class _Reading:
    at_s: float
    cpu_s: float
    client_cpu_s: float


def _read(server: Server) -> _Reading:
    return _Reading(time.monotonic(), server.cpu_s(), time.process_time())


async def measure(server: Server, way: Client | None, load: Load, seconds: float, lead_s: float) -> Sample:
    """Put `load` on a server that runs, and watch for `seconds` once `lead_s` have passed.

    `way` is a connection to it, None for the bare loop.
    """
    if isinstance(load, Loop):
        return await _loop(server, load, seconds, lead_s)
    assert way is not None
    if isinstance(load, Closed):
        return await _closed(server, way, load, seconds, lead_s)
    return await _open(server, way, load, seconds, lead_s)


async def _loop(server: Server, load: Loop, seconds: float, lead_s: float) -> Sample:
    rows = batch(server.subject.payloads, load.rows)
    await client.loop(server.address, rows, lead_s, server.folder)
    before = _read(server)
    took, answer = await client.loop(server.address, rows, seconds, server.folder)
    after = _read(server)
    right = _agree(server.subject, rows, answer)
    count = load.rows * len(took)
    return Sample(
        seconds=sum(took),
        offered=count,
        latencies_s=tuple(second for second in took for _ in range(load.rows)) if right else (),
        in_time=count if right else 0,
        wrong=0 if right else count,
        unanswered=0,
        cpu_s=after.cpu_s - before.cpu_s,
        client_cpu_s=after.client_cpu_s - before.client_cpu_s,
    )


def batch(payloads: Sequence[Payload], rows: int) -> Array:
    """Rows of the payloads in turn."""
    return np.concatenate([payload.rows for payload in itertools.islice(itertools.cycle(payloads), rows)])


def _agree(subject: Subject, rows: Array, answer: Array) -> bool:
    expected = [
        payload.expected for payload in itertools.islice(itertools.cycle(subject.payloads), len(rows))
    ]
    return all(subject.agrees(one, row[None]) for one, row in zip(expected, answer, strict=True))


async def _closed(server: Server, way: Client, load: Closed, seconds: float, lead_s: float) -> Sample:
    ends: list[_End] = []
    payloads = itertools.cycle(server.subject.payloads)
    over = False

    async def ask() -> None:
        while not over:
            payload, sent_s = next(payloads), time.monotonic()
            try:
                answer = await way.infer(payload, PATIENCE_S)
            except Unanswered:
                ends.append(_End(sent_s, sent_s, time.monotonic(), payload, None))
                await asyncio.sleep(_RETRY_S)
            else:
                ends.append(_End(sent_s, sent_s, time.monotonic(), payload, answer))

    async with asyncio.TaskGroup() as clients:
        for _ in range(load.concurrency):
            clients.create_task(ask())
        await asyncio.sleep(lead_s)
        before = _read(server)
        await asyncio.sleep(seconds)
        after = _read(server)
        over = True
    counted = [end for end in ends if before.at_s <= end.ended_s < after.at_s]
    return _sample(server, way, counted, before, after)


async def _open(server: Server, way: Client, load: Open, seconds: float, lead_s: float) -> Sample:
    due = arrivals(load, lead_s + seconds)
    grace_s = 0.0 if way.gives_up else _GRACE_S
    ends: list[_End] = []

    async def ask(payload: Payload, due_s: float) -> None:
        sent_s, deadline_s = time.monotonic(), due_s + load.deadline_ms / 1000
        try:
            answer = await way.infer(payload, max(0.001, deadline_s + grace_s - sent_s))
        except Unanswered:
            ends.append(_End(due_s, sent_s, time.monotonic(), payload, None, deadline_s))
        else:
            ends.append(_End(due_s, sent_s, time.monotonic(), payload, answer, deadline_s))

    readings: list[_Reading] = []
    t0 = time.monotonic()
    async with asyncio.TaskGroup() as requests:
        for offset_s, payload in zip(due, itertools.cycle(server.subject.payloads), strict=False):
            delay_s = t0 + offset_s - time.monotonic()
            if delay_s > 0:
                await asyncio.sleep(delay_s)
            if not readings and offset_s >= lead_s:
                readings.append(_read(server))
            requests.create_task(ask(payload, t0 + offset_s))
        await asyncio.sleep(max(0.0, t0 + lead_s + seconds - time.monotonic()))
        readings.append(_read(server))
    before, after = readings[0], readings[-1]
    counted = [end for end in ends if end.due_s >= t0 + lead_s]
    return _sample(server, way, counted, before, after)


def _sample(server: Server, way: Client, ends: Sequence[_End], before: _Reading, after: _Reading) -> Sample:
    """Look at the answers, now that nothing is measured any more."""
    right = [
        end for end in ends if end.answer is not None and _right(server, end.payload, way.decode(end.answer))
    ]
    unanswered = sum(end.answer is None for end in ends)
    lags_s = [end.sent_s - end.due_s for end in ends]
    return Sample(
        seconds=after.at_s - before.at_s,
        offered=len(ends),
        latencies_s=tuple(end.ended_s - end.due_s for end in right),
        in_time=sum(end.ended_s <= end.deadline_s for end in right),
        wrong=len(ends) - unanswered - len(right),
        unanswered=unanswered,
        cpu_s=after.cpu_s - before.cpu_s,
        client_cpu_s=after.client_cpu_s - before.client_cpu_s,
        lag_s=float(np.quantile(lags_s, 0.99)) if lags_s else 0.0,
    )


def _right(server: Server, payload: Payload, answer: Array) -> bool:
    expected = payload.expected
    if answer.size != expected.size:
        return False
    if not server.recipe.right:
        return not answer.any()
    return server.subject.agrees(expected, answer.reshape(expected.shape))


async def wait_until_right(server: Server, way: Client | None, patience_s: float = START_S) -> None:
    """Wait until a server answers, then hold its answers to a direct run. Raises StartError."""
    subject, name = server.subject, server.recipe.name
    until = time.monotonic() + patience_s
    while True:
        if not await server.process.running():
            raise StartError(f"{name}: exited: {await server.process.last_line()}")
        try:
            answers = await _answers(server, way)
            break
        except (Unanswered, OSError) as error:
            if time.monotonic() > until:
                raise StartError(f"{name}: no answer after {patience_s:.0f} s: {error}") from error
        await asyncio.sleep(0.1)
    for payload, answer in zip(subject.payloads, answers, strict=False):
        if not _right(server, payload, answer):
            raise StartError(f"{name}: {subject.name}: expected what a direct run answers, got {answer[:8]}")


async def _answers(server: Server, way: Client | None) -> list[Array]:
    """To two payloads, of the bare loop to one. Raises Unanswered, OSError."""
    payloads = server.subject.payloads
    if way is None:
        return [(await client.loop(server.address, payloads[0].rows, 0.0, server.folder))[1]]
    return [way.decode(await way.infer(payload, PATIENCE_S)) for payload in payloads[:2]]
