"""Decisions survive a restart, and the next schema."""

import sqlite3
from contextlib import closing

import pytest

from controlplane import store as module
from controlplane.allocation import Allocation, Version
from controlplane.store import POLICY_KEYS, CellRecord, Decision, Store
from protos import control_pb2 as pb


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


def test_a_file_of_decisions_alone_is_brought_up_to_date(tmp_path):
    """As it was before a schema had a number."""
    path = str(tmp_path / "sponge.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute(module._DECISIONS)
        values = (1.7e9, "w", "vision", 1, 7, 500, 1, 1, 1, 1100, 1, 1, 4, "grow", "needed", 7.5, 3, 0.25, 1)
        file.execute(f"INSERT INTO decisions VALUES (NULL{', ?' * 19})", values)
    for life in range(2):
        with closing(Store(path)) as store:
            assert [d.version.epoch for d in store.last(10)] == [7]
            assert store.cells("d") == [(1, 2, b"packed")] * life
            store.keep([CellRecord("d", 1, 2, 1.7e9, b"packed")], most=10)
            assert store.cells("d") == [(1, 2, b"packed")]
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_file_of_a_newer_schema_is_an_error_and_stays_as_it_is(tmp_path):
    path = str(tmp_path / "sponge.db")
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 9")
    with pytest.raises(sqlite3.Error, match="expected a schema up to 3, found 9"):
        Store(path)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_migration_that_fails_changes_nothing(tmp_path):
    path = str(tmp_path / "sponge.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("CREATE TABLE latency_by_age (x)")  # in the way of an index
    with pytest.raises(sqlite3.Error):
        Store(path)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT name FROM sqlite_master").fetchall() == [("latency_by_age",)]
        assert file.execute("PRAGMA user_version").fetchone() == (0,)


def test_in_memory_no_cells_are_kept():
    with closing(Store("")) as store:
        store.keep([CellRecord("d", 1, 2, 1.7e9, b"packed")], most=10)
        assert store.cells("d") == []


@pytest.mark.parametrize("key", POLICY_KEYS)
def test_all_that_can_be_set_of_a_policy_is_kept(key):
    fields = {field.name for field in pb.SetServicePolicyRequest.DESCRIPTOR.fields}
    assert fields == {"service", "reset", *POLICY_KEYS}
    with closing(Store("")) as store:
        store.set_policy("vision", {key: 7})
        assert store.policies() == {"vision": {key: 7}}
