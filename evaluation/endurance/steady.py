"""A load that goes on and on, and what came of it."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from evaluation.serving.client import Client, Unanswered
from evaluation.serving.subjects import Payload, Subject


@dataclass(slots=True)
class Answers:
    """Requests by what became of them; `failed` by the status, "wrong" for an answer that is."""

    right: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.right + self.failed.total()


async def offer(
    way: Client, subject: Subject, rate: float, timeout_s: float, seed: int, over: Callable[[Answers], bool]
) -> Answers:
    """Send requests as a Poisson process of `rate` a second, whatever comes of them, until `over`."""
    rng = np.random.default_rng(seed)
    answers = Answers()
    due_s = time.monotonic()
    async with asyncio.TaskGroup() as requests:
        for payload in itertools.cycle(subject.payloads):
            due_s += float(rng.exponential(1 / rate))
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if over(answers):
                break
            requests.create_task(_ask(way, subject, payload, timeout_s, answers))
    return answers


async def ask(
    way: Client, subject: Subject, clients: int, timeout_s: float, over: Callable[[Answers], bool]
) -> Answers:
    """Let so many clients send one request after the other, until `over`."""
    answers = Answers()
    payloads = itertools.cycle(subject.payloads)

    async def one() -> None:
        while not over(answers):
            await _ask(way, subject, next(payloads), timeout_s, answers)

    async with asyncio.TaskGroup() as asking:
        for _ in range(clients):
            asking.create_task(one())
    return answers


async def _ask(way: Client, subject: Subject, payload: Payload, timeout_s: float, answers: Answers) -> None:
    try:
        answer = way.decode(await way.infer(payload, timeout_s))
    except Unanswered as error:
        answers.failed[error.status] += 1
        return
    expected = payload.expected
    if answer.size == expected.size and subject.agrees(expected, answer.reshape(expected.shape)):
        answers.right += 1
    else:
        answers.failed["wrong"] += 1
