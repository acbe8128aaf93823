"""A memory limit is never below what is in use, and swap beside it keeps its size."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.actuators.limits import MARGIN_BYTES, UNLIMITED_BYTES, Held, floored, in_use

MIB = 1 << 20
sizes = st.integers(4 * MIB, 1 << 40)


def after(update: dict[str, int]) -> Held:
    """What the engine records."""
    return Held(update["mem_limit"], update["memswap_limit"])


def test_what_is_held_is_read_as_the_engine_writes_it():
    assert Held.of({"Memory": 5, "MemorySwap": 10}) == Held(5, 10)
    assert [Held(memory, -1).limit_bytes for memory in (0, 5, UNLIMITED_BYTES)] == [0, 5, 0]


def test_a_limit_takes_memory_where_it_is_lower_or_there_was_none():
    assert Held(1000, -1).lowered_by(999)
    assert Held(0, 0).lowered_by(999)
    assert Held(UNLIMITED_BYTES, -1).lowered_by(999)
    assert not Held(1000, -1).lowered_by(1000)
    assert not Held(1000, -1).lowered_by(0)


def test_swap_without_a_limit_stays_without_one_and_so_where_it_is_not_counted():
    for with_swap in (-1, 0):
        assert Held(100, with_swap).update(50) == {"mem_limit": 50, "memswap_limit": -1}
    assert Held(0, 0).update(50) == {"mem_limit": 50, "memswap_limit": -1}
    assert Held(100, -1).update(0) == {"mem_limit": UNLIMITED_BYTES, "memswap_limit": -1}


@given(sizes, sizes | st.just(0), st.lists(sizes | st.just(0), min_size=1))
def test_swap_keeps_its_size_through_all_limits_and_none(memory, swap, limits):
    held = Held(memory, memory + swap)
    for limit in limits:
        held = after(held.update(limit))
        assert held.limit_bytes == limit
        assert held.with_swap - held.memory == swap
        assert held.memory <= held.with_swap < 1 << 63


@given(sizes, sizes)
def test_a_lowered_limit_leaves_a_margin_above_what_is_in_use(limit, used):
    assert floored(limit, used) >= max(limit, used + MARGIN_BYTES)
    assert floored(limit, used) in (limit, used + MARGIN_BYTES)


def test_page_cache_that_is_given_back_first_is_not_in_use():
    assert in_use({"usage": 100, "stats": {"total_inactive_file": 30, "inactive_file": 1}}) == 70
    assert in_use({"usage": 100, "stats": {"inactive_file": 30}}) == 70
    assert in_use({"usage": 100}) == 100
    assert in_use({"usage": 10, "stats": {"inactive_file": 30}}) == 0
    assert in_use({}) == 0  # of a container that has ended
