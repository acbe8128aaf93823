"""What tritonclient's asynchronous client says of a worker, as JSON; see tests.triton_client for why in a process."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException


def tensor(value: float) -> triton.InferInput:
    """One row of that value."""
    made = triton.InferInput("x", [1, 4], "FP32")
    made.set_data_from_numpy(np.full((1, 4), value, np.float32))
    return made


async def main(address: str) -> None:
    """Ask for many answers at once, for a stream of some, for only one output, and for the model to go and come."""
    async with triton.InferenceServerClient(address) as client:
        answers = await asyncio.gather(*(client.infer("scale", [tensor(value)]) for value in range(20)))
        streamed = await stream(client)
        wanted = [triton.InferRequestedOutput("y")]
        chosen = await client.infer("scale", [tensor(5)], outputs=wanted, request_id="chosen")
        await client.unload_model("scale")
        unloaded = await refused(client)
        await client.load_model("scale")
        again = await client.infer("scale", [tensor(6)])
        index = await client.get_model_repository_index(as_json=True)
    print(
        json.dumps(
            {
                "answers": [float(answer.as_numpy("y")[0, 0]) for answer in answers],
                "streamed": streamed,
                "chosen": [chosen.get_response().id, float(chosen.as_numpy("y")[0, 0])],
                "unloaded": unloaded,
                "again": float(again.as_numpy("y")[0, 0]),
                "index": [[each["name"], each["state"]] for each in index["models"]],
            }
        )
    )


async def stream(client: triton.InferenceServerClient) -> dict[str, float | str]:
    """Answers by id, and the text of what was refused."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for value in range(5):
            yield {"model_name": "scale", "inputs": [tensor(value)], "request_id": f"{value}"}
        yield {"model_name": "another", "inputs": [tensor(0)], "request_id": "bad"}

    heard: dict[str, float | str] = {}
    async for result, error in client.stream_infer(requests()):
        if error is not None:
            heard["bad"] = error.message()
        else:
            heard[result.get_response().id] = float(result.as_numpy("y")[0, 0])
    return heard


async def refused(client: triton.InferenceServerClient) -> list[str]:
    """Status and text of a request that has no answer."""
    try:
        await client.infer("scale", [tensor(1)])
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return []


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
