"""How each server is started for a task, by name; peers in `peers` beside these."""

import enum
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.serving.task import Task

SPONGE, BARE, ECHO, ECHO_MODEL, ECHO_UVLOOP = "sponge", "bare", "echo", "echo-model", "echo-uvloop"


class Dialect(enum.Enum):
    """What a server speaks."""

    GRPC = "Open Inference Protocol over gRPC"
    HTTP = "POST of a row's bytes, answered by those of the answer"
    LOOP = "commands to the bare loop"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One kind of server.

    `command` is given the path of a task's file, may write more beside it, and gives the program to run.
    """

    name: str
    title: str
    dialect: Dialect
    command: Callable[[Path], Sequence[str]]
    right: bool = True  # whether it answers as the model does; else zeros
    settle_s: float = 0.0  # under load, until it is itself again after it has stood still


def sponge(task_file: Path, slo_ms: float = 30_000.0, rest: str = "") -> Sequence[str]:
    """One worker without a control plane: one instance of one thread, batches as large as the task's.

    Deadlines are the clients' own, up to `slo_ms`. `rest` is more worker.toml, to go at its end.
    """
    task = Task.read(task_file)
    config = task_file.with_name("worker.toml")
    config.write_text(
        f'[model]\npath = "{task.path}"\nname = "{task.model}"\n'
        f"warmup_shapes = {{{task.input} = {list(task.row)}}}\n"
        f"[service]\nslo_ms = {slo_ms}\n"
        f'[server]\nlisten = "{task.address}"\nmetrics_listen = ""\n'
        f"[engine]\ninstances = 1\nthreads = 1\nbatch = {task.max_batch}\nmax_batch = {task.max_batch}\n"
        f"{rest}"
    )
    return (sys.executable, "-m", "dataplane", "--config", str(config))


def _bare(task_file: Path) -> Sequence[str]:
    return (sys.executable, "-m", "evaluation.serving.bare", str(task_file))


def _echo(task_file: Path) -> Sequence[str]:
    return (sys.executable, "-m", "evaluation.serving.echo", str(task_file))


def _echo_model(task_file: Path) -> Sequence[str]:
    return (*_echo(task_file), "--model")


def _echo_uvloop(task_file: Path) -> Sequence[str]:
    return (*_echo_model(task_file), "--uvloop")


OURS = {
    recipe.name: recipe
    for recipe in (
        Recipe(SPONGE, "Sponge", Dialect.GRPC, sponge),
        Recipe(BARE, "ONNX Runtime in a loop", Dialect.LOOP, _bare),
        Recipe(ECHO, "grpc.aio echo", Dialect.GRPC, _echo, right=False),
        Recipe(ECHO_MODEL, "grpc.aio echo that runs the row", Dialect.GRPC, _echo_model),
        Recipe(ECHO_UVLOOP, "grpc.aio echo that runs the row, on uvloop", Dialect.GRPC, _echo_uvloop),
    )
}
