"""What tritonclient says of a worker, as JSON: its protobuf descriptors clash with ours in one process."""

import json
import sys

import numpy as np
import tritonclient.grpc as triton


def main(address: str, model: str) -> None:
    """Ask everything that the tests want to know."""
    client = triton.InferenceServerClient(address)
    tensor = triton.InferInput("x", [2, 4], "FP32")
    tensor.set_data_from_numpy(np.arange(8, dtype=np.float32).reshape(2, 4))
    answer = client.infer(model, [tensor], request_id="seven", timeout=5_000_000, client_timeout=30.0)
    metadata = client.get_model_metadata(model)
    print(
        json.dumps(
            {
                "live": client.is_server_live(),
                "ready": client.is_server_ready(),
                "model_ready": client.is_model_ready(model),
                "other_ready": client.is_model_ready("another"),
                "server": client.get_server_metadata().name,
                "inputs": [[t.name, t.datatype, list(t.shape)] for t in metadata.inputs],
                "outputs": [[t.name, t.datatype, list(t.shape)] for t in metadata.outputs],
                "id": answer.get_response().id,
                "spent": sorted(answer.get_response().parameters),
                "batch_rows": answer.get_response().parameters["batch_rows"].int64_param,
                "y": answer.as_numpy("y").tolist(),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
