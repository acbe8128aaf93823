"""What became of the requests of each loaded model, as ModelStatistics tells it."""

from dataclasses import dataclass, field

from dataplane.request import Completion, ExecutionRecord, Outcome, Request
from dataplane.tensors import ModelSignature
from protos import inference_pb2 as pb


@dataclass(slots=True)
class _Sum:
    """So many durations, and their total in seconds."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds

    def message(self) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=self.count, ns=round(1e9 * max(0.0, self.seconds)))


@dataclass(slots=True)
class _Batches:
    """Executions of one size."""

    input: _Sum = field(default_factory=_Sum)
    infer: _Sum = field(default_factory=_Sum)
    output: _Sum = field(default_factory=_Sum)


@dataclass(slots=True)
class _Totals:
    """Everything of one generation."""

    rows: int = 0
    last_at: float | None = None
    success: _Sum = field(default_factory=_Sum)
    fail: _Sum = field(default_factory=_Sum)
    queue: _Sum = field(default_factory=_Sum)
    input: _Sum = field(default_factory=_Sum)
    infer: _Sum = field(default_factory=_Sum)
    output: _Sum = field(default_factory=_Sum)
    batches: dict[int, _Batches] = field(default_factory=dict)

    def batch(self, rows: int) -> _Batches:
        found = self.batches.get(rows)
        if found is None:
            found = self.batches[rows] = _Batches()
        return found


class Statistics:
    """Adds up by generation; an observer of the worker. What it hears of others than `begin` told of is lost."""

    def __init__(self) -> None:
        self._totals: dict[int, _Totals] = {}

    def begin(self, generation: int) -> None:
        """Count from now on."""
        self._totals[generation] = _Totals()

    def end(self, generation: int) -> None:
        """Count no more, and forget."""
        self._totals.pop(generation, None)

    def announced(self) -> None:
        pass

    def arrived(self, request: Request, now: float) -> None:
        pass

    def completed(self, completion: Completion) -> None:
        totals = self._totals.get(completion.generation)
        if totals is None:
            return
        if completion.outcome not in (Outcome.ON_TIME, Outcome.LATE):
            began_at = completion.arrived_at if completion.queued_at is None else completion.queued_at
            totals.fail.add(completion.finished_at - began_at)
            return
        assert completion.queued_at is not None
        assert completion.started_at is not None
        totals.rows += completion.rows
        totals.last_at = completion.finished_at
        totals.success.add(completion.finished_at - completion.queued_at)
        totals.queue.add(completion.started_at - completion.queued_at)
        totals.infer.add(completion.finished_at - completion.started_at)

    def executed(self, record: ExecutionRecord) -> None:
        totals = self._totals.get(record.generation)
        if totals is not None:
            totals.batch(record.rows).infer.add(record.wall_s)

    def converted(self, completion: Completion, input_s: float, output_s: float) -> None:
        """An answered request took so long to be decoded before it was queued, and its answer to be encoded."""
        totals = self._totals.get(completion.generation)
        if totals is None:
            return
        totals.input.add(input_s)
        totals.output.add(output_s)
        totals.success.seconds += input_s + output_s
        batch = totals.batch(completion.batch_rows)
        batch.input.seconds += input_s
        batch.output.seconds += output_s

    def message(
        self, generation: int, signature: ModelSignature, unix_minus_clock_s: float
    ) -> pb.ModelStatistics:
        """All of one generation; the last argument makes the completions' clock one that starts in 1970."""
        totals = self._totals.get(generation) or _Totals()
        return pb.ModelStatistics(
            name=signature.name,
            version=signature.version,
            last_inference=0
            if totals.last_at is None
            else round(1e3 * (totals.last_at + unix_minus_clock_s)),
            inference_count=totals.rows,
            execution_count=sum(batch.infer.count for batch in totals.batches.values()),
            inference_stats=pb.InferStatistics(
                success=totals.success.message(),
                fail=totals.fail.message(),
                queue=totals.queue.message(),
                compute_input=totals.input.message(),
                compute_infer=totals.infer.message(),
                compute_output=totals.output.message(),
            ),
            batch_stats=[
                pb.InferBatchStatistics(
                    batch_size=rows,
                    # One for each execution, although decoding and encoding are done request by request.
                    compute_input=_Sum(batch.infer.count, batch.input.seconds).message(),
                    compute_infer=batch.infer.message(),
                    compute_output=_Sum(batch.infer.count, batch.output.seconds).message(),
                )
                for rows, batch in sorted(totals.batches.items())
            ],
        )
