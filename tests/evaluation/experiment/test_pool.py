"""Work spread over processes: order, errors, and nothing left behind."""

import multiprocessing
import time

import pytest

from evaluation.experiment import pool


def twice(number):
    return 2 * number


def fail_or_sleep(seconds):
    if seconds == 0:
        raise ValueError("expected more")
    time.sleep(seconds)


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_tasks(jobs):
    told = []
    assert pool.spread(twice, [3, 1, 2], jobs, told.append) == [6, 2, 4]
    assert told == [1, 2, 3]


def test_a_failure_ends_the_others():
    before = set(multiprocessing.active_children())
    with pytest.raises(ValueError, match="expected more"):
        pool.spread(fail_or_sleep, [600, 0], 2, lambda _: None)
    assert set(multiprocessing.active_children()) <= before
