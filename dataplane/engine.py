"""The ONNX Runtime engine: a warm session per number of threads, batches in, rows out."""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort

from dataplane import bfloat16
from dataplane.execution import EngineError, Executed, ModelError, Timing
from dataplane.modelfile import ModelFile
from dataplane.resources import resident_bytes
from dataplane.tensors import Array, ModelSignature, TensorSpec
from dataplane.warmup import Shapes, Warmup

__all__ = ["Engine", "ModelError"]

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    bfloat16.NAME: "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

# tf2onnx and its kin name every unknown size anew, also where sizes are the same.
_GENERATED_NAME = "unk__"

_FATAL = 4

# Executions that a batch size is timed by, at most, and for how long.
_TIMED, _TIMED_S = 5, 0.05


@dataclass(slots=True, eq=False)
class _Rung:
    """The session of one number of threads; `in_use` counts executions and preparations under way."""

    session: ort.InferenceSession
    in_use: int = 0
    memory_bytes: int = 0
    timings: dict[tuple[int, int], Timing] = field(default_factory=dict)  # by rows and bucket


class Engine:
    """One model, run by ONNX Runtime on the CPU.

    A session's thread count cannot change, and making one takes 20 to 400 ms and a copy of the weights. So
    each number of threads asked for has a session, here a rung, that any number of executions share; beyond
    `max_rungs` the one least recently used goes, unless it is in use. Executions at the same time on one
    rung of t > 1 threads share its t − 1 helpers: n of them have n + t − 1 threads between them, not n·t.

    `warmup_shapes` as in Warmup, `keep_copy` as `keep` in ModelFile. Raises ModelError, with the file's path in
    its text.
    """

    def __init__(
        self,
        path: Path | str,
        name: str,
        version: str,
        warmup_shapes: Shapes | Sequence[Shapes] = (),
        max_rungs: int = 3,
        *,
        keep_copy: bool = False,
    ) -> None:
        self._path = Path(path)
        self._max_rungs = max_rungs
        self._lock = threading.Lock()  # held for moments: guards the rungs and their counts
        self._building = threading.Lock()  # held while a session is made, so that none is made twice
        self._rungs: OrderedDict[int, _Rung] = OrderedDict()  # least recently used first
        self._file = ModelFile(self._path, keep=keep_copy)
        try:
            self._load(name, version, warmup_shapes or {})
        except ModelError:
            self._file.close()
            raise

    def _load(self, name: str, version: str, warmup_shapes: Shapes | Sequence[Shapes]) -> None:
        before = resident_bytes()
        try:
            session = _session(self._file, threads=1)
        except Exception as error:
            raise ModelError(
                f"{self._path}: not a model ONNX Runtime can load: {_one_line(error)}",
                "it is not a model that ONNX Runtime can load",
            ) from error
        inputs = _specs(session.get_inputs(), self._path)
        outputs = _specs(session.get_outputs(), self._path)
        try:
            self._warmup = Warmup(inputs, warmup_shapes)
        except ModelError as error:
            raise ModelError(f"{self._path}: {error}", error.reason) from error
        batched = _is_batched(session, self._warmup, self._path)
        self._signature = ModelSignature(name, version, inputs, outputs, batched)
        self._output_names = [spec.name for spec in outputs]
        self._rungs[1] = _Rung(session, 0, max(0, resident_bytes() - before))

    def __repr__(self) -> str:
        return f"<Engine {self._signature.name}, rungs {sorted(self._rungs)}>"

    @property
    def signature(self) -> ModelSignature:
        """What the model takes and gives."""
        return self._signature

    @property
    def digest(self) -> str:
        """SHA-256 of the model file, in hexadecimal."""
        return self._file.digest

    def has(self, threads: int) -> bool:
        """Whether there is a session of this many threads."""
        with self._lock:
            return threads in self._rungs

    def rung_bytes(self) -> dict[int, int]:
        """Memory of each session that there is, by threads; see `Runs`."""
        with self._lock:
            return {threads: rung.memory_bytes for threads, rung in self._rungs.items()}

    def prepare(self, threads: int, batches: Sequence[int]) -> list[Timing]:
        """Make and warm the session of this many threads, and time these batch sizes, smallest first.

        Each size runs on zeros, in every bucket: once to warm up, then up to five times while that takes no longer
        than 50 ms. The least time counts, as a machine's other work only ever adds. What was done before is not
        done again: the times are then the old ones. A model without a batch dimension knows only batch 1.
        Raises EngineError.
        """
        sizes = sorted(set(batches)) if self._signature.batched else [1]
        cells = [(rows, bucket) for rows in sizes for bucket in range(self._warmup.buckets)]
        rung = self._hold(threads)
        before = resident_bytes()
        try:
            for rows, bucket in cells:
                if (rows, bucket) not in rung.timings:
                    feed = self._warmup.zeros(rows, bucket)
                    self._execute(rung.session, feed, rows)
                    wall_s, cpu_s = self._least(rung.session, feed, rows)
                    elements = sum(array.size for array in feed.values()) // rows
                    rung.timings[rows, bucket] = Timing(rows, threads, wall_s, cpu_s, elements)
            rung.memory_bytes += max(0, resident_bytes() - before)
            return [rung.timings[cell] for cell in cells]
        finally:
            self._release(rung)

    def run(self, threads: int, batch: Sequence[Mapping[str, Array]]) -> Executed:
        """Execute requests as one batch: inputs joined along the first axis, outputs split as views.

        A session that is not there, never made or gone since, is made first: slow, but right.
        Raises EngineError.
        """
        if len(batch) > 1 and not self._signature.batched:
            raise EngineError(
                f"{self._path}: a batch of {len(batch)} requests, but the model has no batch dimension"
            )
        counts = [1]
        if self._signature.batched:
            first = self._signature.inputs[0].name
            counts = [len(inputs[first]) for inputs in batch]
        if len(batch) == 1:
            feed = batch[0]
        else:
            feed = {
                spec.name: np.concatenate([inputs[spec.name] for inputs in batch])
                for spec in self._signature.inputs
            }
        rung = self._hold(threads)
        try:
            outputs, wall_s, cpu_s = self._execute(rung.session, feed, sum(counts))
        finally:
            self._release(rung)
        return Executed(_split(outputs, counts), wall_s, cpu_s)

    def _least(
        self, session: ort.InferenceSession, feed: Mapping[str, Array], rows: int
    ) -> tuple[float, float]:
        """Wall and CPU seconds of the shortest of some executions."""
        times: list[tuple[float, float]] = []
        while len(times) < _TIMED and sum(wall_s for wall_s, _ in times) < _TIMED_S:
            _, wall_s, cpu_s = self._execute(session, feed, rows)
            times.append((wall_s, cpu_s))
        return min(times)

    def close(self) -> None:
        """Give up sessions and file; what runs is finished on what it holds."""
        with self._lock:
            dropped = [self._rungs.pop(threads) for threads in list(self._rungs)]
        del dropped
        self._file.close()

    def _hold(self, threads: int) -> _Rung:
        """The rung of this many threads, made if need be, and kept until released."""
        rung = self._take(threads)
        if rung is None:
            with self._building:
                # Another thread may have made it meanwhile.
                rung = self._take(threads) or self._add(threads)
        return rung

    def _release(self, rung: _Rung) -> None:
        with self._lock:
            rung.in_use -= 1
            dropped = self._drop_idle()
        # Sessions are torn down outside the lock.
        del dropped

    def _take(self, threads: int) -> _Rung | None:
        with self._lock:
            rung = self._rungs.get(threads)
            if rung is not None:
                rung.in_use += 1
                self._rungs.move_to_end(threads)
            return rung

    def _add(self, threads: int) -> _Rung:
        before = resident_bytes()
        try:
            session = _session(self._file, threads)
            intact = self._file.intact()
        except Exception as error:
            raise EngineError(f"{self._path}: no session of {threads} threads: {_one_line(error)}") from error
        if not intact:
            raise EngineError(
                f"{self._path}: has changed since it was loaded; restart to serve the new model, or set"
                " server.allow_repository_control to have it loaded while serving"
            )
        rung = _Rung(session, 1, max(0, resident_bytes() - before))
        with self._lock:
            self._rungs[threads] = rung
            dropped = self._drop_idle()
        del dropped
        return rung

    def _drop_idle(self) -> list[_Rung]:
        """Take the rungs out that are too many; the caller holds the lock."""
        excess = len(self._rungs) - self._max_rungs
        if excess <= 0:
            return []
        idle = [threads for threads, rung in self._rungs.items() if not rung.in_use]
        return [self._rungs.pop(threads) for threads in idle[:excess]]

    def _execute(
        self, session: ort.InferenceSession, feed: Mapping[str, Array], rows: int
    ) -> tuple[dict[str, Array], float, float]:
        """Outputs by name, wall and CPU seconds."""
        cpu_before, before = time.thread_time(), time.perf_counter()
        try:
            results = session.run(self._output_names, feed)
        except Exception as error:
            raise EngineError(f"{self._path}: execution of {rows} rows failed: {_one_line(error)}") from error
        wall_s, cpu_s = time.perf_counter() - before, time.thread_time() - cpu_before
        outputs = dict(zip(self._output_names, results, strict=True))
        for name, output in outputs.items():
            if self._signature.batched and (not output.ndim or len(output) != rows):
                raise EngineError(f"{self._path}: output {name} has shape {output.shape} for {rows} rows")
        return outputs, wall_s, cpu_s


def _session(file: ModelFile, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Spinning at 20 requests/s burns 46 % of a core, blocking 3 %.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Errors are raised; ONNX Runtime need not also write them to our log.
    options.log_severity_level = _FATAL
    # Denormals are left alone: flushing them would answer otherwise than a plain run of the same file.
    if file.path != file.source:
        # Where a copy finds the weights that are in files of their own.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(file.source.parent)
        )
    session = ort.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
    # Passes for one, as far as is needed here.
    return bfloat16.Bfloat16Session(session) if bfloat16.is_needed(session) else session


def _specs(arguments: Sequence[ort.NodeArg], path: Path) -> tuple[TensorSpec, ...]:
    specs = []
    for argument in arguments:
        if argument.type not in _DATATYPES:
            raise ModelError(
                f"{path}: {argument.name} is a {argument.type}, which cannot be served",
                f"{argument.name} is of a type that cannot be served",
            )
        shape = tuple(size if isinstance(size, int) else None for size in argument.shape)
        specs.append(TensorSpec(argument.name, _DATATYPES[argument.type], shape))
    return tuple(specs)


def _is_batched(session: ort.InferenceSession, warmup: Warmup, path: Path) -> bool:
    """Whether the first dimension of every tensor counts rows: as the file declares it, and then tried.

    Exporters declare more than holds (a Reshape to a constant 1), and name the sizes of outputs as they
    like, so one row is run, and two. Raises ModelError if not even one row of zeros runs.
    """
    try:
        one = session.run(None, warmup.zeros(1))
    except Exception as error:
        advice = "".join(
            f"; set model.warmup_shapes.{name} to the size of one row" for name in warmup.guessed
        )
        raise ModelError(
            f"{path}: does not run on zeros: {_one_line(error)}{advice}", "it does not run on zeros"
        ) from error
    if not _declares_batch(session):
        return False
    try:
        two = session.run(None, warmup.zeros(2))
    except Exception:  # noqa: BLE001 - whatever it is, two rows do not run
        return False
    return all(a.shape[:1] == (1,) and b.shape == (2, *a.shape[1:]) for a, b in zip(one, two, strict=True))


def _declares_batch(session: ort.InferenceSession) -> bool:
    """Whether first dimensions can mean rows: all free, and the inputs' names for it agree.

    Nor may that name stand in another place: [N, d] → [N, N] compares rows with each other.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if not inputs or not all(tensor.shape for tensor in inputs):
        return False
    # An empty shape may also be one that is not known.
    if any(isinstance(size, int) for tensor in (*inputs, *outputs) for size in tensor.shape[:1]):
        return False
    names = {tensor.shape[0] for tensor in inputs if tensor.shape[0] is not None}
    names = {name for name in names if not name.startswith(_GENERATED_NAME)}
    return len(names) <= 1 and not any(names & set(tensor.shape[1:]) for tensor in (*inputs, *outputs))


def _split(outputs: Mapping[str, Array], counts: Sequence[int]) -> list[dict[str, Array]]:
    """Outputs of a batch, as views, to those of its requests of `counts` rows."""
    if len(counts) == 1:
        return [dict(outputs)]
    split = []
    start = 0
    for count in counts:
        split.append({name: output[start : start + count] for name, output in outputs.items()})
        start += count
    return split


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
