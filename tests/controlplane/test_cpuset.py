"""CPUs of one's own: disjoint, kept, and of the usable ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.cpuset import assign, parse, written

cpus = st.frozensets(st.integers(0, 15))


def test_lists_are_read_as_the_kernel_writes_them():
    assert parse("0-2,5") == {0, 1, 2, 5}
    assert parse("") == frozenset()
    assert written({5, 0, 2, 1, 7, 6}) == "0-2,5-7"
    assert written({2, 0}) == "0,2"
    for text in ("a", "1-", "-1", "0;1", "1,,2", "0-1-2", " 1"):
        with pytest.raises(ValueError, match="expected CPU numbers as in 0-2,5, got"):
            parse(text)


@given(cpus)
def test_what_is_written_is_read_back(some):
    assert parse(written(some)) == some


def test_the_highest_are_given_first_and_the_lowest_taken_first():
    assert assign(2, (), (), range(4)) == {2, 3}
    assert assign(1, {2, 3}, (), range(4)) == {3}
    assert assign(3, {0, 1}, {3}, range(4)) == {0, 1, 2}


@given(st.integers(1, 16), cpus, cpus, cpus)
def test_a_container_gets_what_is_free_and_keeps_what_it_may(count, held, taken, usable):
    given = assign(count, held, taken, usable)
    free = usable - taken
    if given is None:
        assert len(free) < count
        return
    assert len(given) == count
    assert given <= free
    assert len(given & held) == min(count, len(held & free))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=30))
def test_whoever_grows_shrinks_or_goes_no_two_share_a_cpu(changes):
    held: dict[int, frozenset[int]] = {}
    for name, count in changes:
        others = frozenset().union(*(cpus for other, cpus in held.items() if other != name))
        before = held.get(name, frozenset())
        now = assign(count, before, others, range(8)) if count else frozenset()
        if now is None:
            assert count > 8 - len(others)
            continue
        assert now <= before or before <= now
        held[name] = now
        assert sum(map(len, held.values())) == len(frozenset().union(*held.values()))
