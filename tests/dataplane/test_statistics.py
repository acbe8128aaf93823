from dataplane.request import Completion, ExecutionRecord, Outcome
from dataplane.statistics import Statistics
from dataplane.tensors import ModelSignature

SIGNATURE = ModelSignature("m", "3", (), (), batched=True)


def answered(rows, queued_at, started_at, finished_at, batch_rows, outcome=Outcome.ON_TIME, generation=1):
    return Completion(
        outcome, rows, queued_at - 0.5, finished_at, started_at, batch_rows, queued_at, generation
    )


def ended(outcome, queued_at=None, generation=1):
    return Completion(outcome, 0, 1.0, 1.25, queued_at=queued_at, generation=generation)


def executed(rows, wall_s, generation=1):
    return ExecutionRecord(rows, 1, wall_s, wall_s, 1.0, mixed=False, generation=generation)


def told(statistics, generation=1):
    return statistics.message(generation, SIGNATURE, unix_minus_clock_s=1000.0)


def duration(message):
    return (message.count, message.ns)


def begun():
    statistics = Statistics()
    statistics.begin(1)
    return statistics


def test_nothing_yet():
    message = told(begun())
    assert (message.name, message.version) == ("m", "3")
    assert (message.last_inference, message.inference_count, message.execution_count) == (0, 0, 0)
    assert duration(message.inference_stats.success) == (0, 0)
    assert not message.batch_stats


def test_a_batch_of_two_requests():
    statistics = begun()
    first = answered(1, queued_at=1.0, started_at=1.25, finished_at=1.5, batch_rows=3)
    second = answered(
        2, queued_at=1.125, started_at=1.25, finished_at=1.5, batch_rows=3, outcome=Outcome.LATE
    )
    statistics.executed(executed(3, wall_s=0.125))
    for completion, output_s in ((first, 0.25), (second, 0.5)):
        statistics.completed(completion)
        statistics.converted(completion, input_s=0.0625, output_s=output_s)
    message = told(statistics)
    assert message.last_inference == 1_001_500
    assert (message.inference_count, message.execution_count) == (3, 1)
    stats = message.inference_stats
    assert duration(stats.queue) == (2, 375_000_000)
    assert duration(stats.compute_infer) == (2, 500_000_000)
    assert duration(stats.compute_input) == (2, 125_000_000)
    assert duration(stats.compute_output) == (2, 750_000_000)
    # From the whole request to its answer: the parts above and nothing else.
    assert duration(stats.success) == (2, 375_000_000 + 500_000_000 + 125_000_000 + 750_000_000)
    assert duration(stats.fail) == (0, 0)
    (batch,) = message.batch_stats
    assert batch.batch_size == 3
    assert duration(batch.compute_infer) == (1, 125_000_000)
    assert duration(batch.compute_input) == (1, 125_000_000)
    assert duration(batch.compute_output) == (1, 750_000_000)


def test_sizes_in_order():
    statistics = begun()
    for rows in (4, 1, 4, 2):
        statistics.executed(executed(rows, wall_s=0.5))
    message = told(statistics)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in message.batch_stats] == [
        (1, 1),
        (2, 1),
        (4, 2),
    ]
    assert message.execution_count == 4


def test_whatever_has_no_answer_has_failed():
    statistics = begun()
    for outcome in Outcome:
        if outcome not in (Outcome.ON_TIME, Outcome.LATE):
            statistics.completed(ended(outcome))
    assert duration(told(statistics).inference_stats.fail) == (6, 6 * 250_000_000)
    statistics.completed(ended(Outcome.EXPIRED, queued_at=1.125))
    assert duration(told(statistics).inference_stats.fail) == (7, 6 * 250_000_000 + 125_000_000)


def test_each_generation_counts_for_itself():
    statistics = begun()
    statistics.begin(2)
    for generation in (1, 2, 2, 7):
        statistics.completed(answered(1, 1.0, 1.0, 1.5, 1, generation=generation))
        statistics.executed(executed(1, 0.5, generation=generation))
    assert [told(statistics, generation).inference_count for generation in (1, 2, 7)] == [1, 2, 0]
    statistics.end(1)
    statistics.executed(executed(1, 0.5))
    assert told(statistics).execution_count == 0
