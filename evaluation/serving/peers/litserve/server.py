"""LitServe over HTTP with raw bytes, not JSON: `python server.py TASK.json`.

One API server and one worker, its fast queue. Batches are waited for 2 ms: without, 32 at a time got a quarter less,
and one at a time nothing more.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import litserve
import numpy as np
import onnxruntime
from fastapi import Body, Response


class Api(litserve.LitAPI):
    """One model of one input and one output."""

    def __init__(self, task: dict) -> None:
        batching = (
            {"max_batch_size": task["max_batch"], "batch_timeout": 0.002} if task["max_batch"] > 1 else {}
        )
        super().__init__(api_path="/predict", **batching)
        self._task = task

    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            self._task["path"], options, providers=["CPUExecutionProvider"]
        )

    # The argument must have this name.
    def decode_request(
        self, request: Annotated[bytes, Body(media_type="application/octet-stream")]
    ) -> np.ndarray:
        return np.frombuffer(request, self._task["dtype"]).reshape(1, *self._task["row"])

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(inputs)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        (answer,) = self._session.run([self._task["output"]], {self._task["input"]: rows})
        return answer

    def unbatch(self, answers: np.ndarray) -> list[np.ndarray]:
        return list(answers)

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    server = litserve.LitServer(
        Api(task), accelerator="cpu", devices=1, workers_per_device=1, timeout=False, fast_queue=True
    )
    server.run(
        host=task["host"],
        port=task["port"],
        num_api_servers=1,
        generate_client_file=False,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
