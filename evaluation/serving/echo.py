"""The least that a server in Python can do: grpc.aio alone, no checks, no queue, no batches, no metrics.

`python -m evaluation.serving.echo TASK.json` answers zeros; with --model it runs the row in the handler first, with
--uvloop it does either on the event loop that Sponge runs on.
"""

import argparse
import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import uvloop

from evaluation import direct
from evaluation.serving.task import Task
from protos import inference_pb2 as pb

_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def _handlers(task: Task, answer: Callable[[bytes], bytes]) -> grpc.GenericRpcHandler:
    """Of the one call that is measured."""

    async def infer(request: pb.ModelInferRequest, _context: object) -> pb.ModelInferResponse:
        raw = answer(request.raw_input_contents[0])
        response = pb.ModelInferResponse(model_name=task.model, raw_output_contents=[raw])
        response.outputs.add(name=task.output, datatype="FP32", shape=(1, *task.answer))
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})


def _zeros(task: Task) -> Callable[[bytes], bytes]:
    zeros = np.zeros(task.answer, np.float32).tobytes()
    return lambda _row: zeros


def _model(task: Task) -> Callable[[bytes], bytes]:
    session = direct.session(Path(task.path))

    def answer(row: bytes) -> bytes:
        rows = np.frombuffer(row, task.dtype).reshape(1, *task.row)
        outputs: list[direct.Floats] = session.run([task.output], {task.input: rows})
        return outputs[0].tobytes()

    return answer


async def _serve(task: Task, answer: Callable[[bytes], bytes]) -> None:
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_handlers(task, answer),))
    server.add_insecure_port(task.address)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(None)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.serving.echo", description=__doc__)
    parser.add_argument("task", type=Path, metavar="TASK.json")
    parser.add_argument("--model", action="store_true", help="run the model on each row")
    parser.add_argument("--uvloop", action="store_true", help="instead of asyncio's own loop")
    parsed = parser.parse_args()
    task = Task.read(parsed.task)
    run = uvloop.run if parsed.uvloop else asyncio.run
    run(_serve(task, _model(task) if parsed.model else _zeros(task)))


if __name__ == "__main__":
    main()
