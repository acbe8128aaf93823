"""Decisions survive a restart."""

import sqlite3

import pytest

from controlplane.resize import Allocation, Version
from controlplane.store import Decision, Store


def decision(epoch: int) -> Decision:
    return Decision(
        worker_id="w",
        service="vision",
        version=Version(1, epoch),
        before=Allocation(500, 1, 1, 1),
        after=Allocation(1100, 1, 1, 4),
        action="grow",
        reason="needed",
        arrival_rate=7.5,
        queue_depth=3,
        expected_misses=0.25,
        host_full=True,
    )


def test_what_was_added_is_read_back_oldest_first_also_by_the_next_process(tmp_path):
    path = str(tmp_path / "sponge.db")
    store = Store(path)
    numbers = [store.add(decision(epoch)) for epoch in (1, 2, 3)]
    store.close()

    store = Store(path)
    last = store.last(2)
    assert [(d.id, d.version.epoch) for d in last] == [(numbers[1], 2), (numbers[2], 3)]
    assert [d.version.epoch for d in store.since(numbers[0])] == [2, 3]
    read = last[1]
    assert (read.service, read.action, read.reason) == ("vision", "grow", "needed")
    assert (read.before.cpu_millicores, read.after.cpu_millicores, read.after.max_batch) == (500, 1100, 4)
    assert (read.arrival_rate, read.queue_depth, read.expected_misses, read.host_full) == (7.5, 3, 0.25, True)
    assert read.age_s >= 0
    store.close()


def test_a_path_that_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(sqlite3.Error):
        Store(str(tmp_path / "absent" / "sponge.db"))
