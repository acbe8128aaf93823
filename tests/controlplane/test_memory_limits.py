"""Memory limits are raised while one waits, and lowered when nobody does."""

import asyncio

import pytest
from structlog.testing import capture_logs

from controlplane.actuators import ActuationError
from controlplane.actuators.memory import MemoryLimits


class Engine:
    """Limits of containers, which take their time to be lowered, or to be raised, while told to."""

    def __init__(self) -> None:
        self.limits = {"c": 500}
        self.failure = ""
        self.began = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def put(self, container_id: str, limit_bytes: int, may_lower: bool) -> int | None:
        if self.failure:
            raise ActuationError(self.failure)
        if limit_bytes < self.limits[container_id] and not may_lower:
            return None
        if may_lower:
            self.began.set()
            await self.open.wait()
        self.limits[container_id] = max(limit_bytes, 200)  # which is in use
        return self.limits[container_id]


async def test_a_limit_is_raised_on_return_and_lowered_after():
    engine = Engine()
    limits = MemoryLimits(engine.put)
    await limits.write("c", 800)
    assert engine.limits == {"c": 800}
    await limits.write("c", 300)
    assert engine.limits == {"c": 800}
    await limits.settle()
    assert engine.limits == {"c": 300}


async def test_a_limit_that_is_raised_again_is_not_lowered():
    engine = Engine()
    limits = MemoryLimits(engine.put)
    await limits.write("c", 300)
    await limits.write("c", 800)
    await limits.settle()
    assert engine.limits == {"c": 800}


async def test_what_is_raised_waits_for_what_is_being_lowered_and_nothing_else_does():
    engine = Engine()
    limits = MemoryLimits(engine.put)
    engine.open.clear()
    await limits.write("c", 300)
    await engine.began.wait()
    await limits.write("c", 300)  # as each time only CPU changes
    raising = asyncio.create_task(limits.write("c", 800))
    done, _ = await asyncio.wait([raising], timeout=0.01)
    assert not done
    engine.open.set()
    await raising
    await limits.settle()
    assert engine.limits == {"c": 800}


async def test_a_limit_that_cannot_be_raised_is_a_failure_and_asked_for_again():
    engine = Engine()
    limits = MemoryLimits(engine.put)
    engine.failure = "Docker refused"
    for _ in range(2):
        with pytest.raises(ActuationError, match="Docker refused"):
            await limits.write("c", 800)
    engine.failure = ""
    await limits.write("c", 800)
    assert engine.limits == {"c": 800}


async def test_a_limit_that_cannot_be_lowered_is_none_and_asked_for_again():
    engine = Engine()
    limits = MemoryLimits(engine.put)
    with capture_logs() as logs:
        await limits.write("c", 300)
        engine.failure = "Docker engine unreachable"
        await limits.settle()
    assert [line["event"] for line in logs] == ["memory limit not lowered"]
    engine.failure = ""
    await limits.write("c", 300)
    await limits.settle()
    assert engine.limits == {"c": 300}


async def test_what_somebody_else_may_have_changed_is_written_again():
    engine = Engine()
    limits = MemoryLimits(engine.put)
    await limits.write("c", 800)
    engine.limits["c"] = 600
    await limits.write("c", 800)
    assert engine.limits == {"c": 600}
    assert limits.read("c", engine.limits["c"]) == 600
    await limits.write("c", 800)
    assert engine.limits == {"c": 800}


async def test_a_limit_that_is_as_low_as_it_may_be_counts_as_what_was_asked_for():
    engine = Engine()
    limits = MemoryLimits(engine.put)
    assert limits.read("c", 500) == 500
    await limits.write("c", 100)
    assert limits.read("c", 500) == 100  # about to be lowered
    await limits.settle()
    assert engine.limits == {"c": 200}
    assert limits.read("c", 200) == 100
    assert limits.read("c", 300) == 300  # somebody else was there


async def test_what_is_forgotten_is_looked_at_anew_but_not_while_it_changes():
    engine = Engine()
    limits = MemoryLimits(engine.put)
    engine.open.clear()
    await limits.write("c", 100)
    await engine.began.wait()
    limits.forget("c".__eq__)
    assert limits.read("c", 500) == 100
    engine.open.set()
    await limits.settle()
    limits.forget("d".__eq__)
    assert limits.read("c", 200) == 100
    limits.forget("c".__eq__)
    assert limits.read("c", 200) == 200
