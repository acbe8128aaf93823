"""Decisions survive a restart, and the next schema."""

import sqlite3
from contextlib import closing
from dataclasses import asdict, replace

import pytest

from controlplane import store as module
from controlplane.store import POLICY_KEYS, CellRecord, Store
from protos import control_pb2 as pb
from tests.decided import INPUTS, decision

NEWEST = len(module._MIGRATIONS)


def test_what_was_added_is_read_back_oldest_first_also_by_the_next_process(tmp_path):
    path = str(tmp_path / "sponge.db")
    store = Store(path)
    first = store.add([(1.7e9, decision(1))])
    last = store.add([(1.7e9 + 1, decision(2)), (1.7e9 + 2, decision(3))])
    store.close()

    store = Store(path)
    assert [(d.id, d.version.epoch) for d in store.last(2)] == [(last - 1, 2), (last, 3)]
    assert [d.version.epoch for d in store.since(first, 10)] == [2, 3]
    assert [d.version.epoch for d in store.since(first, 1)] == [2]
    one, two, read = store.last(3)
    assert (read.service, read.action, read.reason) == ("vision", "grow", "needed")
    assert read.before == pb.Allocation(
        cpu_millicores=500, instances=1, threads=1, max_batch=1, memory_bytes=512 << 20
    )
    assert read.after == pb.Allocation(
        cpu_millicores=1100, instances=2, threads=3, max_batch=4, memory_bytes=768 << 20
    )
    assert (read.arrival_rate, read.queue_depth, read.expected_misses, read.host_full) == (7.5, 3, 0.25, True)
    assert read.inputs == pb.Inputs(**asdict(INPUTS))
    # When it was made, and not when it was kept.
    assert (one.age_s - two.age_s, two.age_s - read.age_s) == (1, 1)
    store.close()


def test_what_there_was_none_of_is_not_told_as_zero():
    with closing(Store("")) as store:
        store.add([(1.7e9, decision(1, inputs=replace(INPUTS, budget_p5_ms=None, first_due_ms=None)))])
        (read,) = store.last(1)
    assert not read.inputs.HasField("budget_p5_ms")
    assert not read.inputs.HasField("first_due_ms")
    assert read.inputs.budget_p50_ms == 700


def test_all_inputs_are_told():
    assert {field.name for field in pb.Inputs.DESCRIPTOR.fields} == set(asdict(INPUTS))


def test_of_decisions_that_are_added_together_all_are_kept_or_none():
    with closing(Store("")) as store:
        with pytest.raises(sqlite3.IntegrityError):
            store.add([(1.7e9, decision(1)), (1.7e9, decision(2, reason=None))])
        assert store.last(10) == []


def test_the_oldest_decisions_go(tmp_path):
    path = str(tmp_path / "sponge.db")
    with closing(Store(path)) as store:
        store.add([(1.7e9, decision(1))])
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute("UPDATE sqlite_sequence SET seq = 500998 WHERE name = 'decisions'")
        store.add([(1.7e9, decision(2))])
        assert [d.version.epoch for d in store.last(10)] == [1, 2]
        store.add([(1.7e9, decision(3)), (1.7e9, decision(4))])  # of which the first is one in a thousand
        assert [d.version.epoch for d in store.last(10)] == [2, 3, 4]


def test_a_path_that_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(sqlite3.Error):
        Store(str(tmp_path / "absent" / "sponge.db"))


@pytest.mark.parametrize("schema", range(NEWEST))
def test_an_older_file_is_brought_up_to_date(tmp_path, schema):
    """Of 0 it is unknown whether it has decisions: a schema had no number then."""
    path = str(tmp_path / "sponge.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        for statements in module._MIGRATIONS[: max(1, schema)]:
            for statement in statements:
                file.execute(statement)
        file.execute(f"PRAGMA user_version = {schema}")
        values = (1.7e9, "w", "vision", 1, 7, 500, 1, 1, 1, 1100, 1, 1, 4, "grow", "needed", 7.5, 3, 0.25, 1)
        file.execute(f"INSERT INTO decisions VALUES (NULL{', ?' * 19})", values)
    for life in range(2):
        with closing(Store(path)) as store:
            old, *new = store.last(10)
            assert (old.version.epoch, old.after.cpu_millicores, old.after.max_batch) == (7, 1100, 4)
            assert (old.expected_misses, old.host_full, old.after.memory_bytes) == (0.25, True, 0)
            assert not old.HasField("inputs")
            assert [d.inputs.bound for d in new] == ["budget"] * life
            store.add([(1.7e9, decision(8))])
            assert store.cells("d") == [(1, 2, b"packed")] * life
            store.keep([CellRecord("d", 1, 2, 1.7e9, b"packed")], most=10)
            assert store.cells("d") == [(1, 2, b"packed")]
            assert store.policies() == {"vision": {"weight": 2.0}} if life else not store.policies()
            store.set_policy("vision", {"weight": 2.0})
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (NEWEST,)


def test_a_file_of_a_newer_schema_is_an_error_and_stays_as_it_is(tmp_path):
    path = str(tmp_path / "sponge.db")
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 9")
    with pytest.raises(sqlite3.Error, match="expected a schema up to 4, found 9"):
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
