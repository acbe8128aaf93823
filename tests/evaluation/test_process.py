"""Commands that start planes end in order, however they are ended."""

import asyncio
import os
import signal

import pytest

from evaluation import process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_lets_what_runs_end_in_order(number: signal.Signals) -> None:
    ended = []

    async def work() -> None:
        os.kill(os.getpid(), number)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    with pytest.raises(KeyboardInterrupt):
        process.run(work())
    assert ended == [number]


def test_what_ends_by_itself_gives_its_result() -> None:
    async def work() -> int:
        return 3

    assert process.run(work()) == 3
