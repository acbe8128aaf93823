"""PyTriton: a real Triton core with its Python backend, `python server.py TASK.json`.

Triton's dynamic batcher without delay: it takes what has gathered while the model ran.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(task["path"], options, providers=["CPUExecutionProvider"])

    @batch
    def infer(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        (answer,) = session.run([task["output"]], {task["input"]: inputs[task["input"]]})
        return {task["output"]: answer}

    config = TritonConfig(
        allow_http=False,
        allow_metrics=False,
        grpc_address=task["host"],
        grpc_port=task["port"],
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=task["model"],
            infer_func=infer,
            inputs=[Tensor(name=task["input"], dtype=np.dtype(task["dtype"]).type, shape=task["row"])],
            outputs=[Tensor(name=task["output"], dtype=np.float32, shape=task["answer"])],
            config=ModelConfig(
                batching=True,
                max_batch_size=task["max_batch"],
                batcher=DynamicBatcher(max_queue_delay_microseconds=0),
            ),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
