"""Ray Serve over HTTP with raw bytes, not JSON: `python server.py TASK.json`.

One replica, batches without a wait: it takes what has gathered while the model ran. No dashboard, no usage reports.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


def deployment(task: dict) -> serve.Application:
    import numpy as np
    import onnxruntime

    @serve.deployment(num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    class Model:
        def __init__(self) -> None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._session = onnxruntime.InferenceSession(
                task["path"], options, providers=["CPUExecutionProvider"]
            )

        @serve.batch(max_batch_size=task["max_batch"], batch_wait_timeout_s=0.0)
        async def infer(self, bodies: list[bytes]) -> list[bytes]:
            rows = np.frombuffer(b"".join(bodies), task["dtype"]).reshape(len(bodies), *task["row"])
            (answer,) = self._session.run([task["output"]], {task["input"]: rows})
            return [row.tobytes() for row in answer]

        async def __call__(self, request: Request) -> Response:
            body = await request.body()
            return Response(await self.infer(body), media_type="application/octet-stream")

    return Model.bind()


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": task["host"], "port": task["port"], "access_log": False})
    serve.run(deployment(task), logging_config={"enable_access_log": False, "log_level": "WARNING"})
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
