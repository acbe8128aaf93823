"""What was decided, as those who watch see it."""

import asyncio
from contextlib import aclosing

import pytest
from prometheus_client import CollectorRegistry

from controlplane.allocation import Allocation, Version
from controlplane.decisions import Decisions
from controlplane.metrics import Metrics
from controlplane.store import Decision, Store


def decision(epoch: int) -> Decision:
    before, after = Allocation(500, 1, 1, 1), Allocation(1100, 1, 1, 4)
    return Decision("w", "vision", Version(1, epoch), before, after, "grow", "needed", 7.5, 3, 0.25, False)


@pytest.mark.parametrize(("past", "first"), [(0, 4), (1, 3), (2, 2), (9, 1)])
async def test_who_watches_sees_the_newest_and_then_each_that_is_made(past, first):
    decisions = Decisions(Store(""), Metrics(CollectorRegistry()))
    for epoch in (1, 2, 3):
        await decisions.add(decision(epoch))
    async with aclosing(decisions.watch(past)) as watched:
        seen = [(await anext(watched)).version.epoch for _ in range(first, 4)]
        following = asyncio.ensure_future(anext(watched))
        await asyncio.sleep(0)  # until it waits
        assert not following.done()
        await decisions.add(decision(4))
        seen.append((await following).version.epoch)
    assert seen == list(range(first, 5))
