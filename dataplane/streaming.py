"""ModelStreamInfer: many requests on one call, each answered when it is done."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from dataplane.datatypes import led
from dataplane.inference import Inference
from dataplane.message import Parsed
from dataplane.refusal import Refusal
from protos import inference_pb2 as pb

_INFER_RESPONSE = pb.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
_FINAL = pb.ModelStreamInferResponse(
    infer_response=pb.ModelInferResponse(
        parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
    )
).SerializeToString()

log = structlog.get_logger()


class Stream:
    """One call.

    At most `limit` requests are read and not yet answered, answers that the client does not take included: it
    is the network that stops a client which asks faster than it listens, and not this process's memory.
    """

    def __init__(
        self,
        inference: Inference,
        write: Callable[[bytes], Awaitable[None]],
        limit: int,
        clock: Callable[[], float],
    ) -> None:
        self._inference = inference
        self._write = write
        self._clock = clock
        self._free = asyncio.Semaphore(limit)
        self._writing = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def run(self, bodies: AsyncIterator[bytes]) -> None:
        """Read until the client has said all or `close` is called, and answer all that was read."""
        async with asyncio.TaskGroup() as tasks:
            self._reading = tasks.create_task(self._read(bodies, tasks))

    def close(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, bodies: AsyncIterator[bytes], tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._free.acquire()
            body = await anext(bodies, None)
            if body is None:
                return
            tasks.create_task(self._respond(body, self._clock()))

    async def _respond(self, body: bytes, received_at: float) -> None:
        try:
            response = await self._response(body, received_at)
            async with self._writing:
                await self._write(response)
        finally:
            self._free.release()

    async def _response(self, body: bytes, received_at: float) -> bytes:
        parsed = None
        self._inference.announce()
        try:
            parsed = self._inference.decode(body, received_at)
            answer = await self._inference.answer(parsed, received_at, received_at, remaining_s=None)
        except Refusal as refusal:
            error = _error(parsed, refusal.text, refusal.code.name, refusal.trailers)
        except Exception:
            log.exception("request of a stream failed")
            error = _error(parsed, "internal error", "INTERNAL")
        else:
            # Protobuf merges what comes twice, here the answer and the parameter.
            return b"".join((*led(_INFER_RESPONSE, answer), _FINAL))
        return error.SerializeToString() + _FINAL


def _error(
    parsed: Parsed | None, text: str, status: str, trailers: tuple[tuple[str, str], ...] = ()
) -> pb.ModelStreamInferResponse:
    """An error as Triton has it, and its status, which Triton's lacks."""
    response = pb.ModelStreamInferResponse(error_message=text)
    told = response.infer_response
    told.id = parsed.message.id if parsed is not None else ""
    told.parameters["sponge-status"].string_param = status
    for key, value in trailers:
        if key.startswith("sponge-"):
            told.parameters[key].string_param = value
    return response
