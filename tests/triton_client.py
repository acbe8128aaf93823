"""What tritonclient says of a worker, as JSON: its protobuf descriptors clash with ours in one process."""

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton


def main(address: str, model: str, options: str) -> None:
    """Ask everything that the tests want to know; `options` are of the client, headers and compression, in JSON."""
    chosen = json.loads(options)
    client = triton.InferenceServerClient(address, **chosen.get("client", {}))
    headers, compression = chosen.get("headers"), chosen.get("compression")
    tensor = triton.InferInput("x", [2, 4], "FP32")
    tensor.set_data_from_numpy(np.arange(8, dtype=np.float32).reshape(2, 4))
    answer = client.infer(
        model,
        [tensor],
        request_id="seven",
        timeout=5_000_000,
        client_timeout=30.0,
        headers=headers,
        compression_algorithm=compression,
    )
    metadata = client.get_model_metadata(model, headers=headers)
    streamed = stream(client, model, tensor, headers=headers, compression_algorithm=compression)
    statistics = client.get_inference_statistics(model, headers=headers).model_stats[0]
    config = client.get_model_config(model, headers=headers).config
    index = client.get_model_repository_index(headers=headers)
    print(
        json.dumps(
            {
                "live": client.is_server_live(headers=headers),
                "ready": client.is_server_ready(headers=headers),
                "model_ready": client.is_model_ready(model, headers=headers),
                "other_ready": client.is_model_ready("another", headers=headers),
                "server": client.get_server_metadata(headers=headers).name,
                "inputs": [[t.name, t.datatype, list(t.shape)] for t in metadata.inputs],
                "outputs": [[t.name, t.datatype, list(t.shape)] for t in metadata.outputs],
                "id": answer.get_response().id,
                "spent": sorted(answer.get_response().parameters),
                "batch_rows": answer.get_response().parameters["batch_rows"].int64_param,
                "y": answer.as_numpy("y").tolist(),
                "streamed": streamed,
                "succeeded": statistics.inference_stats.success.count,
                "rows": statistics.inference_count,
                "max_batch_size": config.max_batch_size,
                "dims": [list(config.input[0].dims), list(config.output[0].dims)],
                "index": [[m.name, m.version, m.state] for m in index.models],
            }
        )
    )


def stream(
    client: triton.InferenceServerClient, model: str, tensor: triton.InferInput, **options: Any
) -> dict[str, list[object]]:
    """What two requests of one stream come to, by their ids."""
    heard: queue.Queue[tuple[triton.InferResult | None, Exception | None]] = queue.Queue()
    client.start_stream(lambda result, error: heard.put((result, error)), **options)
    client.async_stream_infer(model, [tensor], request_id="good", enable_empty_final_response=True)
    result, error = heard.get(timeout=30)
    assert error is None, error
    client.async_stream_infer("another", [tensor], request_id="bad")
    _, refused = heard.get(timeout=30)
    client.stop_stream()
    response = result.get_response()
    final = response.parameters["triton_final_response"].bool_param
    return {response.id: [final, result.as_numpy("y").tolist()], "bad": [refused.message()]}


if __name__ == "__main__":
    main(*sys.argv[1:])
