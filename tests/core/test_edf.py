"""EDF list scheduling, exact by hand and against a slow reference."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.edf import Check, completions, completions_by_shape, latest

FLAT = (0.0, 1.0, 1.5, 2.0, 2.5)  # seconds for 1 to 4 rows


def test_nothing_waits():
    assert completions([0.0], [], FLAT, 4) == []


def test_one_slot_serves_in_order():
    assert completions([0.5], [1, 1, 1], FLAT, 1) == [1.5, 2.5, 3.5]


def test_a_batch_completes_together():
    assert completions([0.0], [1, 1, 1], FLAT, 2) == [1.5, 1.5, 2.5]


def test_idle_slots_get_work_before_batches_grow():
    assert completions([0.0, 0.0], [1, 1], FLAT, 4) == [1.0, 1.0]
    assert completions([0.0, 0.0], [1, 1, 1], FLAT, 4) == [1.5, 1.5, 1.0]
    assert completions([0.0, 0.0, 0.0], [1, 1], FLAT, 4) == [1.0, 1.0]


def test_a_busy_slot_is_not_waited_for():
    # The idle slot takes all that fits; the other is busy for longer than that takes.
    assert completions([0.0, 9.0], [1, 1, 1, 1, 1], FLAT, 4) == [2.5, 2.5, 2.5, 2.5, 3.5]


def test_overdue_slots_count_as_idle():
    assert completions([-3.0], [1], FLAT, 1) == [1.0]


def test_a_request_above_the_batch_limit_runs_alone():
    assert completions([0.0], [1, 3, 1], FLAT, 2) == [1.0, 3.0, 4.0]


def test_rows_beyond_the_table_cost_as_much_per_row_as_its_end():
    assert completions([0.0], [8], FLAT, 2) == [5.0]


def test_rows_do_not_overtake_to_fill_a_batch():
    assert completions([0.0], [1, 2, 1], FLAT, 2) == [1.0, 2.5, 3.5]


def by_shape(free_at, rows, shapes, max_batch, costs=None, remaining=None):
    """Completions of requests that are as dear as others and never due, unless said otherwise."""
    costs = costs or [1.0] * len(rows)
    remaining = remaining or [math.inf] * len(rows)
    return completions_by_shape(free_at, rows, shapes, costs, remaining, FLAT, max_batch)


def test_only_equal_shapes_share_a_batch():
    assert by_shape([0.0], [1, 1, 1, 1], "abab", 4) == [1.5, 3.0, 1.5, 3.0]
    assert by_shape([0.0], [1, 1, 1, 1], "abab", 1) == [1.0, 2.0, 3.0, 4.0]
    assert by_shape([0.0, 0.0], [1, 1, 1, 1], "abab", 4) == [1.5, 1.5, 1.5, 1.5]
    assert by_shape([0.0], [], "", 4) == []


def test_a_batch_takes_as_long_as_its_shape_costs():
    assert by_shape([0.0], [1, 1, 1], "aba", 4, costs=[2.0, 0.5, 2.0]) == [3.0, 3.5, 3.0]
    assert by_shape([0.0], [8, 1], "ab", 4, costs=[0.5, 1.0]) == [2.5, 3.5]


def test_a_batch_leaves_time_to_those_that_it_passes():
    assert by_shape([0.0], [1, 1, 1], "aba", 4, remaining=[9.0, 2.4, 9.0]) == [1.0, 2.0, 3.0]
    assert by_shape([0.0], [1, 1, 1], "aba", 4, remaining=[9.0, 2.5, 9.0]) == [1.5, 2.5, 1.5]
    # They are late anyway, or another idle slot takes them.
    assert by_shape([0.0], [1, 1, 1], "aba", 4, remaining=[9.0, 1.5, 9.0]) == [1.5, 2.5, 1.5]
    assert by_shape([0.0, 0.0], [1, 1, 1], "aba", 4, remaining=[9.0, 1.0, 9.0]) == [1.5, 1.0, 1.5]


@given(
    st.lists(st.floats(-1, 5), min_size=1, max_size=4),
    st.lists(st.integers(1, 6), max_size=20),
    st.integers(1, 6),
    st.sampled_from([0.5, 1.0, 4.0]),
)
def test_of_one_shape_it_is_as_without_shapes(free_at, rows, max_batch, cost):
    dear = [cost * seconds for seconds in FLAT]
    expected = completions(free_at, rows, dear, max_batch)
    ends = by_shape(free_at, rows, ["a"] * len(rows), max_batch, costs=[cost] * len(rows))
    assert ends == pytest.approx(expected)


def saved(free_at, rows, remaining, service_time, max_batch) -> int:
    """Count those that do not miss."""
    return len(rows) - Check(free_at, rows, remaining, [1.0] * len(rows), service_time).missed(max_batch)


def test_saved_counts_what_is_on_time():
    assert saved([0.0], [], [], FLAT, 1) == 0
    assert saved([0.0], [1, 1, 1], [1.0, 2.0, 2.5], FLAT, 1) == 2


def test_what_would_be_late_takes_no_time():
    assert saved([0.0], [1, 1, 1], [0.5, 1.0, 2.0], FLAT, 1) == 2


def test_batches_grow_while_the_earliest_deadline_allows():
    assert saved([0.0], [1, 1, 1], [1.0, 2.0, 2.0], FLAT, 4) == 2  # one by one
    assert saved([0.0], [1, 1, 1], [1.0, 2.5, 2.5], FLAT, 4) == 3
    assert saved([0.0], [1, 1, 1], [2.0, 2.0, 2.0], FLAT, 4) == 3
    assert saved([0.0], [1, 1, 1], [2.0, 2.0, 2.0], FLAT, 1) == 2


def test_a_higher_limit_goes_on_from_where_a_lower_one_first_held_a_batch_back():
    check = Check([0.0], [1] * 6, [2.0, 2.0, 2.0, 4.0, 4.0, 4.0], [1.0] * 6, FLAT)
    assert [check.missed(limit) for limit in (1, 2, 4, 1, 4, 2, 4)] == [2, 1, 0, 2, 0, 1, 0]


def reference(free_at, rows, service_time, max_batch):
    """The same rule, step by step, with no concern for speed."""
    free = [max(0.0, at) for at in free_at]
    waiting = list(enumerate(rows))
    done = [0.0] * len(rows)
    while waiting:
        start = min(free)
        idle = [slot for slot, at in enumerate(free) if at == start]
        share = -(-len(waiting) // len(idle))
        batch = [waiting.pop(0)]
        while len(batch) < share and waiting:
            if sum(r for _, r in batch) + waiting[0][1] > max_batch:
                break
            batch.append(waiting.pop(0))
        size = sum(r for _, r in batch)
        longest = len(service_time) - 1
        cost = service_time[size] if size <= longest else service_time[longest] / longest * size
        for index, _ in batch:
            done[index] = start + cost
        free[idle[0]] = start + cost
    return done


@settings(deadline=None)
@given(
    free_at=st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.25, 0.5, 1.75]), min_size=1, max_size=5),
    rows=st.lists(st.integers(1, 5), max_size=20),
    service_time=st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=1, max_size=6),
    max_batch=st.integers(1, 8),
)
def test_equals_the_reference(free_at, rows, service_time, max_batch):
    table = [0.0]
    for step in service_time:
        table.append(table[-1] + step)
    assert completions(free_at, rows, table, max_batch) == reference(free_at, rows, table, max_batch)


@settings(deadline=None)
@given(
    free_at=st.lists(st.floats(0, 5), min_size=1, max_size=5),
    count=st.integers(0, 20),
    seconds=st.floats(0.01, 3),
)
def test_with_single_rows_completions_follow_the_order_and_another_slot_never_hurts(free_at, count, seconds):
    table = (0.0, seconds)
    done = completions(free_at, [1] * count, table, 1)
    assert done == sorted(done)
    more = completions([*free_at, 0.0], [1] * count, table, 1)
    assert all(after <= before for after, before in zip(more, done, strict=True))


@settings(deadline=None)
@given(
    free_at=st.lists(st.floats(-1, 5), min_size=1, max_size=5),
    rows=st.lists(st.integers(1, 4), min_size=1, max_size=20),
    service_time=st.lists(st.floats(0.01, 3), min_size=4, max_size=4),
    max_batch=st.integers(1, 4),
)
def test_no_completion_is_later_than_the_latest(free_at, rows, service_time, max_batch):
    done = completions(free_at, rows, [0.0, *service_time], max_batch)
    assert max(done) <= latest(free_at, len(rows), max(service_time))


def test_the_latest_is_exact_on_one_slot():
    assert latest([0.5], 3, 1.0) == pytest.approx(max(completions([0.5], [1, 1, 1], FLAT, 1)))


JOBS = st.lists(st.tuples(st.floats(0, 8), st.integers(1, 3)), max_size=20).map(sorted)


@settings(deadline=None)
@given(free_at=st.lists(st.floats(0, 3), min_size=1, max_size=4), jobs=JOBS, max_batch=st.integers(1, 4))
def test_all_are_saved_where_no_batch_is_needed_and_none_where_nothing_is_possible(free_at, jobs, max_batch):
    remaining, rows = [r for r, _ in jobs], [n for _, n in jobs]
    late = [end > r for end, r in zip(completions(free_at, rows, FLAT, 1), remaining, strict=True)]
    if not any(late):
        assert saved(free_at, rows, remaining, FLAT, 1) == len(jobs)
    possible = sum(min(free_at) + FLAT[n] <= r for r, n in jobs)
    assert saved(free_at, rows, remaining, FLAT, max_batch) <= possible


@settings(deadline=None)
@given(free_at=st.floats(0, 3), jobs=JOBS)
def test_on_one_slot_refusing_what_is_late_never_saves_fewer(free_at, jobs):
    remaining, rows = [r for r, _ in jobs], [n for _, n in jobs]
    ends = completions([free_at], rows, FLAT, 1)
    on_time = sum(end <= r for end, r in zip(ends, remaining, strict=True))
    assert saved([free_at], rows, remaining, FLAT, 1) >= on_time


def refusing(free_at, rows, remaining, service_time, max_batch):
    """Which requests a check refuses: the same rule, step by step, with no concern for speed."""
    free = [max(0.0, at) for at in free_at]
    longest = len(service_time) - 1

    def cost(size):
        return service_time[size] if size <= longest else service_time[longest] / longest * size

    waiting = list(range(len(rows)))
    refused = []
    while waiting:
        start = min(free)
        idle = [slot for slot, at in enumerate(free) if at == start]
        share = -(-len(waiting) // len(idle))
        first = waiting.pop(0)
        if start + cost(rows[first]) > remaining[first]:
            refused.append(first)
            continue
        size, taken = rows[first], 1
        while waiting and taken < share and size + rows[waiting[0]] <= max_batch:
            if start + cost(size + rows[waiting[0]]) > remaining[first]:
                break
            size += rows[waiting.pop(0)]
            taken += 1
        free[idle[0]] = start + cost(size)
    return refused


@settings(deadline=None)
@given(
    free_at=st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.25, 0.5, 1.75]), min_size=1, max_size=5),
    jobs=st.lists(
        st.tuples(
            st.integers(-1, 16).map(lambda n: n / 4),
            st.sampled_from([1, 1, 1, 2, 5]),
            st.sampled_from([0.25, 1.0, 2.0]),
        ),
        max_size=20,
    ),
    service_time=st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=1, max_size=6),
    asked=st.lists(
        st.tuples(st.integers(1, 8), st.just(math.inf) | st.integers(0, 12).map(float)),
        min_size=1,
        max_size=6,
    ),
)
def test_what_is_missed_equals_the_reference_whatever_was_asked_before(free_at, jobs, service_time, asked):
    remaining, rows, weights = [list(column) for column in zip(*jobs, strict=True)] if jobs else ([], [], [])
    table = [0.0]
    for step in service_time:
        table.append(table[-1] + step)
    check = Check(free_at, rows, remaining, weights, table)
    for max_batch, enough in asked:
        lost = sum(weights[index] for index in refusing(free_at, rows, remaining, table, max_batch))
        missed = check.missed(max_batch, enough)
        assert missed == lost if lost < enough else enough <= missed <= lost
