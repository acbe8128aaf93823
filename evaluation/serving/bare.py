"""The limit: ONNX Runtime in a loop and nothing else, `python -m evaluation.serving.bare TASK.json`.

It listens only to be told what to loop over: a line of JSON [ROWS.npy, SECONDS, ANSWER.npy] runs the batch in the first
file over and over for so long, once at least, writes its last answer to the other file, and is answered by a line of
JSON: how many seconds each execution took.
"""

import argparse
import json
import socket
import time
from pathlib import Path

import numpy as np
import onnxruntime

from evaluation import direct
from evaluation.serving.task import Task


def _loop(
    session: onnxruntime.InferenceSession, rows: direct.Floats, seconds: float
) -> tuple[list[float], direct.Floats]:
    name = session.get_inputs()[0].name
    took: list[float] = []
    before = time.perf_counter()
    until = before + seconds
    while True:
        outputs: list[direct.Floats] = session.run(None, {name: rows})
        now = time.perf_counter()
        took.append(now - before)
        before = now
        if now >= until:
            return took, outputs[0]


def main() -> None:
    """Answer one connection after the other, until killed."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.serving.bare", description=__doc__)
    parser.add_argument("task", type=Path, metavar="TASK.json")
    task = Task.read(parser.parse_args().task)
    session = direct.session(Path(task.path))
    with socket.create_server((task.host, task.port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection, connection.makefile("rw") as stream:
                for line in stream:
                    source, seconds, answer = json.loads(line)
                    took, output = _loop(session, np.load(source), seconds)
                    np.save(answer, output)
                    print(json.dumps(took), file=stream, flush=True)


if __name__ == "__main__":
    main()
