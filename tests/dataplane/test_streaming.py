"""One stream, its requests answered by a fake as the test says."""

import asyncio

import grpc
import pytest

from dataplane.message import Parsed
from dataplane.refusal import Refusal
from dataplane.streaming import Stream
from protos import inference_pb2 as pb

LIMIT = 3


class FakeInference:
    """Answers each request when its turn is given; bodies are ids."""

    def __init__(self):
        self.announced = 0
        self.cancelled = []
        self._turns = {}

    def announce(self):
        self.announced += 1

    def decode(self, body, received_at):
        if body == b"garbage":
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "request: expected a ModelInferRequest")
        return Parsed(pb.ModelInferRequest(id=body.decode()), [])

    async def answer(self, parsed, received_at, complete_at, remaining_s):
        message = parsed.message
        assert (received_at, complete_at, remaining_s) == (7.0, 7.0, None)
        try:
            await self._turn(message.id).wait()
        except asyncio.CancelledError:
            self.cancelled.append(message.id)
            raise
        if message.id.startswith("late"):
            trailers = (("grpc-retry-pushback-ms", "-1"), ("sponge-reason", "refused"))
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "no answer in time", trailers)
        if message.id.startswith("bug"):
            raise ZeroDivisionError("of ours")
        return pb.ModelInferResponse(id=message.id, model_name="m").SerializeToString()

    def let(self, *ids):
        for each in ids:
            self._turn(each).set()

    def _turn(self, number):
        return self._turns.setdefault(number, asyncio.Event())


class Client:
    """The other end: what it has asked, and what it has taken."""

    def __init__(self):
        self.taken = []
        self.takes = asyncio.Event()
        self.takes.set()
        self._asked = asyncio.Queue()

    def ask(self, *bodies):
        for body in bodies:
            self._asked.put_nowait(body.encode())

    def end(self):
        self._asked.put_nowait(None)

    def __aiter__(self):
        return self

    async def __anext__(self):
        body = await self._asked.get()
        if body is None:
            raise StopAsyncIteration
        return body

    @property
    def unread(self):
        return self._asked.qsize()

    async def write(self, response):
        await self.takes.wait()
        self.taken.append(pb.ModelStreamInferResponse.FromString(response))

    @property
    def ids(self):
        return [response.infer_response.id for response in self.taken]


class Bench:
    def __init__(self):
        self.inference = FakeInference()
        self.client = Client()
        self.stream = Stream(self.inference, self.client.write, LIMIT, lambda: 7.0)
        self.running = asyncio.create_task(self.stream.run(self.client))


@pytest.fixture
async def bench():
    made = Bench()
    yield made
    made.running.cancel()
    await asyncio.wait([made.running])


async def settle():
    """Let every task that can go on do so."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_each_is_answered_when_it_is_done(bench):
    bench.client.ask("a", "b", "c")
    for each in ("b", "c", "a"):
        bench.inference.let(each)
        await settle()
    assert bench.client.ids == ["b", "c", "a"]
    assert all(
        response.infer_response.parameters["triton_final_response"].bool_param
        for response in bench.client.taken
    )


async def test_it_ends_when_all_is_said_and_answered(bench):
    bench.client.ask("a", "b")
    bench.client.end()
    bench.inference.let("b")
    await settle()
    assert not bench.running.done()
    bench.inference.let("a")
    await bench.running
    assert bench.client.ids == ["b", "a"]


async def test_an_error_tells_whose_it_is_and_what_and_ends_nothing(bench):
    bench.client.ask("late")
    bench.inference.let("late", "a")
    await settle()
    (error,) = bench.client.taken
    assert error.error_message == "no answer in time"
    assert error.infer_response.id == "late"
    told = {name: value.string_param for name, value in error.infer_response.parameters.items()}
    assert told == {
        "sponge-status": "RESOURCE_EXHAUSTED",
        "sponge-reason": "refused",
        "triton_final_response": "",
    }
    bench.client.ask("a")
    await settle()
    assert bench.client.ids == ["late", "a"]


async def test_bytes_that_are_no_message_have_no_id(bench):
    bench.client.ask("garbage", "a")
    bench.inference.let("a")
    await settle()
    assert bench.client.ids == ["", "a"]
    assert bench.client.taken[0].error_message == "request: expected a ModelInferRequest"
    assert bench.inference.announced == 2


async def test_our_own_faults_are_not_told(bench):
    bench.client.ask("bug", "a")
    bench.inference.let("bug", "a")
    await settle()
    errors = {response.infer_response.id: response.error_message for response in bench.client.taken}
    assert errors == {"bug": "internal error", "a": ""}


async def test_no_more_is_read_than_may_be_outstanding(bench):
    bench.client.ask(*"abcdefgh")
    await settle()
    assert (bench.inference.announced, bench.client.unread) == (LIMIT, 8 - LIMIT)
    bench.inference.let("b")
    await settle()
    assert bench.inference.announced == LIMIT + 1


async def test_answers_that_nobody_takes_are_outstanding(bench):
    bench.client.takes.clear()
    bench.client.ask(*"abcdefgh")
    bench.inference.let(*"abcdefgh")
    await settle()
    assert (bench.inference.announced, bench.client.unread) == (LIMIT, 8 - LIMIT)
    bench.client.takes.set()
    await settle()
    assert sorted(bench.client.ids) == [*"abcdefgh"]


async def test_cancelled_it_cancels_all_that_waits(bench):
    bench.client.ask("a", "b")
    await settle()
    bench.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bench.running
    assert sorted(bench.inference.cancelled) == ["a", "b"]
    assert not bench.client.taken


async def test_closed_it_answers_what_it_has_read(bench):
    bench.client.ask("a")
    await settle()
    bench.stream.close()
    await settle()
    bench.client.ask("b")
    assert not bench.running.done()
    bench.inference.let("a", "b")
    await bench.running
    assert bench.client.ids == ["a"]
    assert bench.client.unread == 1
